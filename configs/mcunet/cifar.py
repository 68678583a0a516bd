"""Search on CIFAR-10 for an STM32F746: supernet, evolution, training, int8, C; beside MobileNetV2.

Lin et al., NeurIPS 2020, whose ImageNet figures (70.7 % in 512 KB of SRAM and 2 MB of Flash, where
MobileNetV2 scaled to fit has 3 to 11 points less) are not comparable. Expected: the evolved network
is no worse than the best of as many random ones and than MobileNetV2 scaled to the same SRAM. Not
run yet: it is for a GPU (592,704 networks of 1.6 to 7.7 M multiply-accumulates; three seeds of
8,000 steps of 4 networks, 23 epochs).

    python -m launch.run --config=configs/mcunet/cifar.py --workdir=runs/cifar --data_dir=DATA

Limits: 50 KB of SRAM, 136 KB of Flash, of which MobileNetV2 at a width of 0.2 takes 49,350 and
132,626 bytes. Variants, joined by a comma:
- 'mobilenet' trains and deploys that MobileNetV2 the same way, on the same images;
- 'rank' compares the supernet's order with that of 24 networks trained by themselves;
- 'choose' shows the spaces of 32 and 16 pixels and three widths in the order of TinyNAS, without
  training; 'best' and 'worst' search the first and the last of them (paper, on ImageNet: 78.7 and
  74.2 %);
- 'fast' allows 8 M instructions; 'reward' takes MnasNet's soft reward with that target instead;
- 'small', for a CPU: means of 2 x 2 pixels, 10,000 training images, 2,000 steps;
- 'quick'.
"""

from configs.mcunet import setting
from configs.variants import split

STEPS = 8_000  # 23 epochs of 45K images, batch 128
SMALL_STEPS = 2_000  # 13 epochs of 10K images, batch 64
LIMITS = dict(sram=50 * 1024, flash=136 * 1024)
SPACES = dict(setting.CIFAR, resolutions=(16, 32), widths=(0.5, 1.0, 1.5))
BEST, WORST = (32, 1.5), (16, 0.5)  # by 'choose': 6.2 and 0.3 M multiply-accumulates on average
INSTRUCTIONS = 8_000_000
VARIANTS = ('mobilenet', 'rank', 'choose', 'best', 'worst', 'fast', 'reward', 'small', 'quick')


def get_config(variant: str = ''):
  """variant: of VARIANTS, joined by a comma."""
  chosen = split(variant, VARIANTS)
  quick, small = 'quick' in chosen, 'small' in chosen
  steps, batch = (SMALL_STEPS, 64) if small else (STEPS, 128)
  steps, every = (20, 10) if quick else (steps, 500)
  side, width = WORST if 'worst' in chosen else BEST if 'best' in chosen else (32, 1.0)
  side = min(side, 16) if small else side
  space = dict(setting.CIFAR, resolutions=(side,), widths=(width,))
  data = dict(name='cifar10', validation=5_000, augment='flip_and_crop', side=side,
              examples=10_000 if small else 0)  # fmt: skip
  c = setting.begin('Search on CIFAR-10 for an STM32F746', data, space, steps, every)
  c.supernet.batch = batch
  train = dict(steps=steps, batch=batch, every=every, optimizer=setting.adam(3e-3, steps))
  c.specialize = dict(space=space, **LIMITS, picojoules=setting.PICOJOULES)
  if 'fast' in chosen:
    c.specialize.instructions = INSTRUCTIONS
  if 'reward' in chosen:
    c.specialize.reward = dict(cost='instructions', target=float(INSTRUCTIONS), how='soft')
  c.train = dict(train, stage='tune')
  c.microcontroller = dict(board='stm32f746')
  c.tinynas = dict(space=SPACES, boards=(), samples=1_000, attempts=20_000, budgets=((50,), (136,)))
  c.stages = ('supernet', 'specialize', 'train', 'microcontroller')
  if 'rank' in chosen:
    c.rank = dict(train, space=space, networks=24)
    c.stages = ('supernet', 'rank')
  if 'mobilenet' in chosen:
    c.title = 'MobileNetV2 on CIFAR-10 for an STM32F746'
    c.model = dict(name='mobilenetv2', width=0.2, strides=(1, 1, 2, 2, 2, 1, 1, 1), head=0)
    c.stages = ('train', 'microcontroller')
  if 'choose' in chosen:
    c.stages = ('tinynas',)
  if quick:
    _quick(c)
  c.tables = dict(a_rank=setting.agreement(), b_found=setting.found(), c_board=setting.trained(),
                  d_spaces=_spaces())  # fmt: skip
  for name in ('supernet', 'specialize', 'rank', 'train', 'microcontroller', 'tinynas'):
    if name in c and name not in c.stages:
      del c[name]
  return c


def _quick(c):
  c.seeds = (0,)
  small = dict(setting.CIFAR, stages=((8, 8, (1, 2)),), kernels=(1, 3), stem=(8, 3, 2),
               resolutions=(c.data.side,))  # fmt: skip
  c.supernet.update(space=small, random=0, batch=50)
  c.specialize.update(space=small, population=3, generations=1, beside=False)
  c.specialize = {k: v for k, v in c.specialize.items() if k not in ('instructions', 'reward')}
  c.train.batch = 50


def _spaces():
  return dict(
    title='Spaces by mean multiply-accumulates of the networks that fit', kind='choice',
    rows='budget', values=('resolution', 'width', 'mean_macs', 'second', 'second_of_best',
                           'worst_of_best'),
  )  # fmt: skip


def sweep():
  """Search, MobileNetV2, ranks, best and worst space, instructions; one line a seed."""
  yield {'variant': 'choose'}
  for variant in '', 'mobilenet', 'rank', 'best', 'worst', 'fast', 'reward':
    for seed in range(3):
      yield {'variant': variant, 'seeds': (seed,)}
