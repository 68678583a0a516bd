"""Search on CIFAR-10 for an STM32F746: supernet, evolution, training, int8, C; beside MobileNetV2.

Lin et al., NeurIPS 2020, whose ImageNet figures (70.7 % in 512 KB of SRAM and 2 MB of Flash, where
MobileNetV2 scaled to fit has 3 to 11 points less) are not comparable. Expected: the evolved network
is no worse than the best of as many random ones and than MobileNetV2 scaled to the same SRAM. Not
run yet: it is for a GPU (592,704 networks of 1.6 to 7.7 M multiply-accumulates, 3 x 8,000
steps of 4 networks each, 23 epochs).

    python -m launch.run --config=configs/mcunet/cifar.py --workdir=runs/cifar --data_dir=DATA

Variants: 'mobilenet' trains and deploys MobileNetV2 at a width of 0.2 the same way, on the same
images; 'rank' compares the supernet's order with that of 24 networks trained by themselves;
'quick'. Joined by a comma. Limits: 50 KB of SRAM, 136 KB of Flash,
of which that MobileNetV2 takes 49,350 and 132,626 bytes.
"""

from configs.mcunet import setting
from configs.variants import split

STEPS = 8_000  # 23 epochs of 45K images, batch 128
LIMITS = dict(sram=50 * 1024, flash=136 * 1024)


def get_config(variant: str = ''):
  """variant: of 'mobilenet', 'rank' and 'quick', joined by a comma."""
  chosen = split(variant, ('mobilenet', 'rank', 'quick'))
  quick = 'quick' in chosen
  steps, every = (20, 10) if quick else (STEPS, 500)
  data = dict(name='cifar10', validation=5_000, augment='flip_and_crop')
  c = setting.begin('Search on CIFAR-10 for an STM32F746', data, setting.CIFAR, steps, every)
  c.supernet.batch = 128
  train = dict(steps=steps, batch=128, every=every, optimizer=setting.adam(3e-3, steps))
  c.specialize = dict(space=setting.CIFAR, **LIMITS)
  c.train = dict(train, stage='tune')
  c.microcontroller = dict(board='stm32f746')
  c.stages = ('supernet', 'specialize', 'train', 'microcontroller')
  if 'rank' in chosen:
    c.rank = dict(train, space=setting.CIFAR, networks=24)
    c.stages = ('supernet', 'rank')
  if 'mobilenet' in chosen:
    c.title = 'MobileNetV2 on CIFAR-10 for an STM32F746'
    c.model = dict(name='mobilenetv2', width=0.2, strides=(1, 1, 2, 2, 2, 1, 1, 1), head=0)
    c.stages = ('train', 'microcontroller')
  if quick:
    c.seeds = (0,)
    small = dict(setting.CIFAR, stages=((8, 8, (1, 2)),), kernels=(1, 3), stem=(8, 3, 2))
    c.supernet.update(space=small, random=0, batch=50)
    c.specialize.update(space=small, population=3, generations=1, beside=False)
    c.train.batch = 50
  for name in ('supernet', 'specialize', 'rank', 'train', 'microcontroller'):
    if name in c and name not in c.stages:
      del c[name]
  return c


def sweep():
  """Search, MobileNetV2 and ranks, one line a seed."""
  for variant in '', 'mobilenet', 'rank':
    for seed in range(3):
      yield {'variant': variant, 'seeds': (seed,)}
