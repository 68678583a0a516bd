"""Exact costs of networks: how many a second on one core, wanted: 2,000; a supernet's step beside
that of its largest network by itself, wanted: at most 1.3 times its time.

    python -m launch.bench --config=configs/bench/search.py [--out=rows.jsonl]

Time is of the process, so that what else runs does not count. Measured:
configs/bench/results/search.jsonl and stepping.jsonl. 'quick': fewer networks.
"""

from ml_collections import config_dict

from configs.mcunet import setting
from configs.variants import split


def get_config(variant: str = ''):
  """variant: '' or 'quick'."""
  quick = 'quick' in split(variant, ('quick',))
  c = config_dict.ConfigDict()
  c.title = 'Costs of networks'
  c.benches = ('searching', 'stepping')
  c.searching = dict(
    space=dict(name='mcunet'), networks=100 if quick else 5_000, planned=1 if quick else 20,
    repeats=1 if quick else 5,
  )  # fmt: skip
  c.stepping = dict(space=setting.DIGITS if quick else setting.CIFAR, batch=8 if quick else 64,
                    steps=1 if quick else 5, repeats=1 if quick else 5)  # fmt: skip
  return c
