"""Plain networks for an STM32F301 on digits: MLPs and ConvNets, searched by training each.

Not in a paper: where a space is of networks that train in seconds nothing needs a supernet, and
memory, 16 KB of RAM and 64 of Flash with the code in it, is the limit. Expected: evolution is no
worse than as many random networks, and the network in integers as good as in floats. LeNet-300-100
needs four times the Flash for its weights alone.

    python -m launch.run --config=configs/mcunet/plain.py --workdir=runs/plain

5,733 networks of at most two pairs of 3 x 3 convolutions and two hidden layers, 16 + 3 x 12 = 52 of
them trained in three seeds, and as many random ones. Variant 'quick'. Time: results/plain.jsonl.
"""

from ml_collections import config_dict

from configs import energy
from configs.mcunet import setting
from configs.variants import split

STEPS = 600  # 29 epochs of 1,297 images, batch 64
SPACE = dict(pairs=(0, 1, 2), layers=(0, 1, 2), filters=(4, 8, 16, 32), units=(16, 32, 64, 128))
BOARD = 'stm32f301'
CODE = 16 * 1024  # bytes of Flash left for it


def get_config(variant: str = ''):
  """variant: '' or 'quick'."""
  quick = bool(split(variant, ('quick',)))
  c = config_dict.ConfigDict()
  c.title = 'Plain networks for an STM32F301: digits'
  c.seeds = (0,) if quick else (0, 1, 2)
  c.data = dict(name='digits')
  c.model = dict(name='mlp', widths=(10,))  # the network that is found takes its place
  c.stages = ('plain', 'in_c')
  steps = 20 if quick else STEPS
  c.plain = dict(
    space=SPACE, board=BOARD, code=CODE, picojoules=energy.ON_CHIP, population=16, generations=3,
    steps=steps, batch=64, every=steps, optimizer=setting.adam(3e-3, steps),
  )  # fmt: skip
  c.in_c = dict(stage='microcontroller', board=BOARD)
  if quick:
    c.plain.update(space=dict(SPACE, pairs=(0, 1)), population=3, generations=1, beside=False)
  found = setting.found()
  found.update(
    title='The best plain network that fits', note='Energy: of 8-bit integers, all on the chip.',
    values=('filters', 'units', 'validation_accuracy', 'test_accuracy', 'macs', 'sram', 'flash',
            'energy_uj'),
  )  # fmt: skip
  c.tables = dict(b_found=found, c_board=setting.trained(), e_versus=setting.compared())
  return c


def sweep():
  """One line."""
  yield {}
