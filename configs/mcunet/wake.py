"""Search on Visual Wake Words for an STM32F746, from a folder of one's own: supernet to int8 C.

Lin et al., NeurIPS 2020, section 4.3: is there a person in the picture? Expected: more accuracy
than MobileNetV2 and ProxylessNAS networks at 2.4 to 3.4 times their speed; the released networks
have 87.4 to 91.7 % in 146 to 311 kB of SRAM. The pictures do not come along (COCO's, by annotations
or in a folder for each class: `data.visual_wake_words`), and nothing is measured yet.

    python -m launch.run --config=configs/mcunet/wake.py --workdir=runs/wake --data_dir=DATA

The space is the paper's at 64 pixels, of which the smallest released network has as many, and half
the width, as for this board. Its memory less a stack and its Flash less 64 KB of code are the
limits. Variant 'quick': a space of two blocks, a few steps.
"""

from configs import energy
from configs.mcunet import setting
from configs.variants import split

BOARD, SIDE, WIDTH = 'stm32f746', 64, 0.5
STEPS = 16_000  # 18 epochs of 110K pictures, batch 128


def get_config(variant: str = ''):
  """variant: '' or 'quick'."""
  quick = bool(split(variant, ('quick',)))
  steps, every, batch = (20, 10, 20) if quick else (STEPS, 1_000, 128)
  side = 16 if quick else SIDE
  space = dict(name='mcunet', resolutions=(side,), widths=(WIDTH,), classes=2)
  if quick:
    space.update(stages=((8, 4, (1, 2)),), kernels=(1, 3), expansions=(2, 3), stem=(8, 3, 2))
  data = dict(name='visual_wake_words', side=side, validation=5_000, augment='flip_and_crop')
  c = setting.begin('Search on Visual Wake Words', data, space, steps, every)
  c.model.classes = 2
  c.supernet.batch = batch
  c.stages = ('supernet', 'specialize', 'train', 'in_c')
  c.specialize = dict(space=space, board=BOARD, picojoules=energy.ON_CHIP)
  if quick:
    c.seeds = (0,)
    c.specialize.update(population=3, generations=1, beside=False)
  c.train = dict(stage='tune', steps=steps, batch=batch, every=every,
                 optimizer=setting.adam(3e-3, steps))  # fmt: skip
  c.in_c = dict(stage='microcontroller', board=BOARD)
  c.tables = dict(b_found=setting.found(), c_board=setting.trained(), e_versus=setting.compared())
  return c


def sweep():
  """A line a seed."""
  for seed in range(3):
    yield {'seeds': (seed,)}
