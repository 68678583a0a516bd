"""Training the 1,200-1,200 teacher and the 800-800 student on a CPU, beside PyTorch.

Wanted on two CPU cores: at least twice the speed of the same in plain PyTorch, in one run, and soft
targets from kept logits at most 5 % dearer than hard labels. Measured:
configs/bench/results/distill.jsonl.

    python -m launch.bench --config=configs/bench/distill.py [--out=rows.jsonl]

PyTorch is `pip install -e .[bench]`, or in another Python that --peer_python names. Images are
random: the times hold. 'quick': two steps of narrow layers.
"""

from ml_collections import config_dict

from configs.variants import split


def get_config(variant: str = ''):
  """variant: '' or 'quick'."""
  quick = bool(split(variant, ('quick',)))
  c = config_dict.ConfigDict()
  c.title = 'Teaching'
  c.benches = ('teaching',)
  c.teaching = dict(
    teacher=(40, 40) if quick else (1200, 1200),
    student=(30, 30) if quick else (800, 800),
    batch=100,
    steps=2 if quick else 600,  # an epoch
    repeats=1 if quick else 5,
    peers=() if quick else ('torch', 'torch_fused'),
  )
  return c
