"""Exact costs of networks: how many a second on one core, wanted: 2,000; steps of a
supernet, for one network and for the four of a sandwich, beside as many of its largest network by
itself, wanted: at most 1.3 times their time.

    python -m launch.bench --config=configs/bench/search.py [--out=rows.jsonl]

Time is of the process, so that what else runs does not count. Measured:
configs/bench/results/search.jsonl and stepping.jsonl. Variants, joined by a comma:
- 'predicting': instructions by the table of `search.latency` beside those that an emulator counts,
  of 97 whole networks on each core, wanted: within 5 %; measured: 3.0 %, predicting.jsonl;
- 'timing': times of 17 whole networks on this CPU beside the sums of their ops' (`search.timing`);
  timing.jsonl, in a minute;
- 'quick': fewer networks.
"""

from ml_collections import config_dict

from configs.mcunet import setting
from configs.nas import digits
from configs.variants import split

SPACES = dict(
  digits=setting.DIGITS, words=setting.WORDS, cifar16=dict(setting.CIFAR, resolutions=(16,)),
  cifar32=setting.CIFAR, few16=dict(setting.FEW, resolutions=(16,)),
  board16=dict(setting.CIFAR, resolutions=(16,), widths=(4.0,)),
)  # fmt: skip
MIXTURES = dict(digits.get_config().model.to_dict(), shape=(8, 8, 1))  # of configs/nas


def get_config(variant: str = ''):
  """variant: of 'predicting', 'timing' and 'quick', joined by a comma."""
  chosen = split(variant, ('predicting', 'timing', 'quick'))
  quick = 'quick' in chosen
  c = config_dict.ConfigDict()
  c.title = 'Costs of networks'
  parts = dict(
    searching=dict(
      space=dict(name='mcunet'), networks=100 if quick else 5_000, planned=1 if quick else 20,
      repeats=1 if quick else 5,
    ),
    stepping=dict(space=setting.DIGITS if quick else setting.CIFAR, batch=8 if quick else 64,
                  steps=1 if quick else 5, repeats=1 if quick else 5, random=2),
    predicting=dict(spaces=dict(digits=setting.DIGITS) if quick else dict(SPACES, nas=MIXTURES),
                    cores=('m7',) if quick else ('m4', 'm7'), drawn=0 if quick else 12),
    timing=dict(
      spaces={n: SPACES[n] for n in ('digits', 'words', 'cifar16')[: 1 if quick else 3]},
      drawn=0 if quick else 4, batch=32, calls=1, repeats=2 if quick else 21,
    ),
  )  # fmt: skip
  c.benches = tuple(b for b in ('predicting', 'timing') if b in chosen) or ('searching', 'stepping')
  c.update({name: parts[name] for name in c.benches})
  return c
