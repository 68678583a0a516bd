"""VGG-19 on CIFAR-10: Frankle & Carbin, ICLR 2019, figure 7.

Expected (section 4): at a rate of 0.01 tickets within 1 point of the dense net down to 3.5 % of the
weights; at 0.1 after 10,000 steps of warmup, above the dense net down to 1.5 %; at 0.1 without
warmup, no better than their reinitializations. Layer by layer tickets reach 6.9 % only.

    python -m launch.run --config=configs/lottery/vgg.py:warmup --workdir=runs/vgg --data_dir=DATA

Variants, which combine: 'high' (rate 0.1, the default), 'low' (0.01) and 'warmup' name the
schedule; 'layerwise' ranks each layer by itself; 'quick' is one level of 4 steps of two layers
of 8 channels. For a GPU.
"""

from ml_collections import config_dict

from configs.lottery import figures
from configs.variants import split

SEEDS = (0, 1, 2, 3, 4)
VARIANTS = ('high', 'low', 'warmup', 'layerwise', 'quick')
SCHEDULES = dict(high=(0.1, 0), low=(0.01, 0), warmup=(0.1, 10_000))  # rate, steps of warmup
EPOCH = 45_000 // 64  # steps


def get_config(variant: str = ''):
  """variant: any of VARIANTS, joined by commas."""
  variants = split(variant, VARIANTS)
  rate, warmup = SCHEDULES[next((name for name in SCHEDULES if name in variants), 'high')]
  c = config_dict.ConfigDict()
  c.title = 'Lottery tickets: VGG-19 on CIFAR-10'
  c.seeds = SEEDS
  c.data = dict(name='cifar10', validation=5_000, augment='flip_and_crop')
  c.model = dict(name='vgg19', width=64)
  c.stages = ('lottery',)
  c.lottery = dict(
    rounds=19,  # ... 6.9 (12), 3.5 (15), 1.5 (19) % of the weights
    rates=((r'conv\d+/kernel', 0.2),),  # not the output
    scope='layer' if 'layerwise' in variants else 'global',
    steps=112_480,  # 160 epochs of 45K images, batch 64
    batch=64,
    every=1_480,
    optimizer=dict(
      name='sgd', learning_rate=rate, momentum=0.9, l2=1e-4, warmup=warmup,
      drops=(80 * EPOCH, 120 * EPOCH),
    ),
    controls=dict(reinit=dict(draws=3)),
    curve_levels=tuple(range(20)),
  )  # fmt: skip
  schedules = {f'lottery/vgg:{name}': f'schedule {name!r}' for name in SCHEDULES}
  c.figures = dict(figure7=figures.figure7((29_600, 59_200, 112_480), schedules))
  if 'quick' in variants:
    c.seeds = SEEDS[:1]
    c.model = dict(name='vgg', layers=(8, 'pool', 8, 'pool'))
    c.lottery.update(rounds=1, steps=4, every=2, batch=8, controls={})
  return c


def sweep():
  """Figure 7, one line a seed."""
  for variant in (*SCHEDULES, 'low,layerwise'):
    for seed in SEEDS:
      yield {'variant': variant, 'seeds': (seed,)}
