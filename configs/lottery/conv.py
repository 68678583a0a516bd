"""Conv-2, Conv-4 and Conv-6 on CIFAR-10: Frankle & Carbin, ICLR 2019, figures 2, 5 and 6.

Expected (section 3, against the dense net): early stop up to 3.5, 3.5 and 2.5 times sooner, at 8.8,
9.2 and 15.1 % of the weights; test accuracy up to 3.4, 3.5 and 3.3 points higher, at 4.6, 11.1 and
26.4 %. Conv-6 flattens 4 x 4 x 256 = 4,096 values here, 2.26 million weights; the paper's 1.7
million are a smaller flatten, so its fractions differ in the first digit after the point.

    python -m launch.run --config=configs/lottery/conv.py:2 --workdir=runs/conv2 --data_dir=DATA

Variants, which combine: '2' (the default), '4' and '6' name the network; 'dropout' trains three
times as long with half of the hidden units left out, at the paper's rates; 'mini' is a scaled-down
Conv-2 for a CPU (16 channels instead of 64, 4,000 steps at a rate of 1e-3, three of the paper's
prunes at once, three seeds; time: results/conv-mini.jsonl); 'quick' is one level of 60 steps. Full
runs are for a GPU: on two CPU cores one training of Conv-2 takes 90 minutes.
"""

from ml_collections import config_dict

from configs.lottery import claims, figures
from configs.variants import split

SEEDS = (0, 1, 2, 3, 4)
VARIANTS = ('2', '4', '6', 'dropout', 'mini', 'quick')
NETWORKS = {  # steps, Adam's rate, with dropout, fraction of the convolutions' weights a round
  2: (20_000, 2e-4, 3e-4, 0.1),
  4: (25_000, 3e-4, 2e-4, 0.1),
  6: (30_000, 3e-4, 2e-4, 0.15),
}


def get_config(variant: str = ''):
  """variant: any of VARIANTS, joined by commas."""
  variants = split(variant, VARIANTS)
  depth = int(max(variants & {'2', '4', '6'}, default='2'))
  dropout = 'dropout' in variants
  steps, rate, rate_with_dropout, fraction = NETWORKS[depth]
  c = config_dict.ConfigDict()
  c.title = f'Lottery tickets: Conv-{depth} on CIFAR-10'
  c.seeds = SEEDS
  c.data = dict(name='cifar10', validation=5_000)  # 45K / 5K / 10K, no augmentation
  c.model = dict(
    name='convnet', depth=depth, width=64, widths=(256, 256), dropout=0.5 if dropout else 0.0
  )
  c.stages = ('lottery',)
  c.lottery = dict(
    rounds=20,
    rates=(('out/kernel', 0.1), ('conv.*kernel', fraction), ('kernel', 0.2)),
    steps=steps * (3 if dropout else 1),
    batch=60,
    every=100,
    optimizer=dict(name='adam', learning_rate=rate_with_dropout if dropout else rate),
    controls=dict(reinit=dict(draws=3), random=dict(draws=3)),
  )
  others = {f'lottery/conv:{d}': f'Conv-{d}' for d in NETWORKS if d != depth}
  c.figures = dict(figure5=figures.figure5(others))
  c.figures.figure5.names['this run'] = f'Conv-{depth}'
  if depth == 2:
    c.paper = claims.conv2(fast=0.088, best=0.046)
  if 'mini' in variants:
    c.title = 'Lottery tickets: Conv-2 of 16 channels on CIFAR-10 (JPEG)'
    c.paper = claims.conv2(fast=0.07, best=0.036)
    c.seeds = SEEDS[:3]
    c.model.width = 16
    three = lambda rate: round(1 - (1 - rate) ** 3, 3)  # prunes at once
    c.lottery.update(
      rounds=5,
      rates=(('out/kernel', three(0.1)), ('conv.*kernel', three(0.1)), ('kernel', three(0.2))),
      steps=4_000,
      every=200,
      optimizer=dict(name='adam', learning_rate=1e-3),
      controls=dict(reinit=dict(levels=(2, 4)), random=dict(levels=(2, 4))),
    )
  if 'quick' in variants:
    c.seeds = SEEDS[:1]
    c.model.update(width=8, widths=(32,))
    c.lottery.update(rounds=1, steps=60, every=30, controls=dict(reinit={}))
  return c


def sweep():
  """Figures 5 and 6: every network, without and with dropout, one line a seed."""
  for network in ('2', '4', '6'):
    for variant in (network, f'{network},dropout'):
      for seed in SEEDS:
        yield {'variant': variant, 'seeds': (seed,)}
