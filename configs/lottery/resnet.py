"""ResNet-20 on CIFAR-10: Frankle & Carbin, ICLR 2019, figure 8 (there 'ResNet-18'), and rewinding.

Expected (section 4): dense 90.5 % at a rate of 0.1; best ticket at 0.01 89.5 %, between 41.7 and
21.9 % of the weights; with warmup to 0.03 90.5 % at 27.1 %, and tickets to 11.8 %. Rewound to step
500 instead of 0, tickets at a rate of 0.1 match the dense net from 51.2 to 13.4 % (Frankle et al.
2020), where at step 0 they are no better than random.

    python -m launch.run --config=configs/lottery/resnet.py:low --workdir=runs/resnet-low ...

Variants, which combine: 'high' (rate 0.1, the default), 'low' (0.01) and 'warmup' (0.03 after a
linear rise over 20,000 steps) name the schedule; 'rewind' goes back to step 500; 'rate' rewinds the
learning rate alone (Renda, Frankle & Carbin 2020); 'quick' is one level of 20 steps of a narrow
ResNet-8.
For a GPU: on two CPU cores one training takes five hours.
"""

from ml_collections import config_dict

from configs.lottery import figures
from configs.variants import split

SEEDS = (0, 1, 2, 3, 4)
VARIANTS = ('high', 'low', 'warmup', 'rewind', 'rate', 'quick')
SCHEDULES = dict(high=(0.1, 0), low=(0.01, 0), warmup=(0.03, 20_000))  # rate, steps of warmup


def get_config(variant: str = ''):
  """variant: any of VARIANTS, joined by commas."""
  variants = split(variant, VARIANTS)
  rate, warmup = SCHEDULES[next((name for name in SCHEDULES if name in variants), 'high')]
  c = config_dict.ConfigDict()
  c.title = 'Lottery tickets: ResNet-20 on CIFAR-10'
  c.seeds = SEEDS
  c.data = dict(name='cifar10', validation=5_000, augment='flip_and_crop')
  c.model = dict(name='resnet', layers=20)
  c.stages = ('lottery',)
  c.lottery = dict(
    rounds=12,  # ... 41.7 (4), 27.1 (6), 21.9 (7), 11.8 (10) % of the weights
    rates=((r'conv\d?/kernel', 0.2),),  # neither the downsampling nor the output
    scope='global',
    procedure='learning_rate' if 'rate' in variants else 'resetting',
    rewind=500 if variants & {'rewind', 'rate'} else 0,
    steps=30_000,
    batch=128,
    every=500,
    optimizer=dict(
      name='sgd', learning_rate=rate, momentum=0.9, l2=1e-4, warmup=warmup, drops=(20_000, 25_000)
    ),
    controls=dict(reinit=dict(draws=3)),
    curve_levels=tuple(range(13)),
  )
  schedules = {f'lottery/resnet:{name}': f'schedule {name!r}' for name in SCHEDULES}
  c.figures = dict(figure8=figures.figure7((10_000, 20_000, 30_000), schedules))
  if 'quick' in variants:
    c.seeds = SEEDS[:1]
    c.model.update(layers=8, width=4)
    c.lottery.update(
      rounds=1, steps=20, every=10, controls={}, rewind=10 if c.lottery.rewind else 0
    )
  return c


def sweep():
  """Figure 8 and the two rewindings, one line a seed."""
  for variant in (*SCHEDULES, 'rewind', 'rate'):
    for seed in SEEDS:
      yield {'variant': variant, 'seeds': (seed,)}
