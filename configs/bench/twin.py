"""The compiled twin of the int8 interpreter: beside LiteRT's reference kernels and XNNPACK.

Wanted on two CPU cores: at least as many images a second as LiteRT's reference kernels, whose bits
the twin has in all but dense layers, and a third of XNNPACK's, which rounds otherwise. Measured:
configs/bench/results/twin.jsonl.

    python -m launch.bench --config=configs/bench/twin.py --data_dir=DATA [--out=rows.jsonl]

Models: te_vww, 11.6 M multiply-adds, and MCUNet's in3, 81.8 M, as trained; and in3 with random
weights of positive scales, for XNNPACK leaves a layer with one negative scale to slower kernels.
The peer is `pip install -r third_party/requirements-litert.txt` in another Python, which
--peer_python names. 'quick': a small net made here, no peer.
"""

from ml_collections import config_dict

from configs.variants import split

MODELS = (
  ('tinyml/te_vww.tflite', 0), ('mcunet/mcunet-320kb-1mb_imagenet.tflite', 0),
  ('mcunet/mcunet-320kb-1mb_imagenet.json', 176),
)  # fmt: skip


def get_config(variant: str = ''):
  """variant: '' or 'quick'."""
  quick = bool(split(variant, ('quick',)))
  c = config_dict.ConfigDict()
  c.title = 'The compiled twin of the int8 interpreter'
  c.benches = ('twin',)
  c.twin = dict(
    models=(('sketch', 0),) if quick else MODELS,
    batch=4 if quick else 16,
    threads=2,
    repeats=1 if quick else 3,
    peers=() if quick else ('reference', 'XNNPACK'),
  )
  return c
