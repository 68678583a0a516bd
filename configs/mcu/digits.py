"""From training to C: a small convolutional net on scikit-learn's digits, in int8 on an STM32F746.

Lin et al., MCUNet, NeurIPS 2020, its engine. Expected: the C gives the interpreter's bytes, and
int8 costs no accuracy (a paired difference of a few test images of 360 at most). Its folder
(files/microcontroller/c in the workdir) holds the C, a Makefile, and a test for the host. Two CPU
cores, less than a minute; instructions are counted where arm-none-eabi-gcc and QEMU are installed.

    python -m launch.run --config=configs/mcu/digits.py --workdir=runs/deploy

A .tflite file, or what another run returned, is deployed by configs/mcu/deploy.py. Variant 'quick':
100 steps.
"""

from ml_collections import config_dict

COLUMNS = 'arena', 'lower_bound', 'ram', 'constants', 'flash', 'instructions'
MEASURED = 'float_accuracy', 'int8_accuracy', *COLUMNS, 'equal_in_c'


def get_config(variant: str = ''):
  """variant 'quick': 100 steps."""
  c = config_dict.ConfigDict()
  c.title = 'Handwritten digits on a microcontroller'
  c.seeds = (0,)
  c.data = dict(name='digits')
  c.model = dict(name='convnet', depth=2, width=8, widths=(32,))
  c.stages = ('train', 'microcontroller')
  c.train = dict(
    stage='tune',
    steps=100 if variant == 'quick' else 1_000,
    batch=60,
    every=50,
    optimizer=dict(name='adam', learning_rate=1.2e-3),
  )
  c.microcontroller = dict(board='stm32f746', images=256)
  c.tables = dict(a=microcontroller(*MEASURED), b=layers())
  return c


def microcontroller(*values: str):
  """What the whole net takes, and that its C is right."""
  return dict(
    title='On the microcontroller', kind='microcontroller', rows='board', values=values,
    names=dict(
      arena='arena, B', lower_bound='no schedule of whole tensors, B', ram='RAM, B',
      constants='constants, B', flash='Flash, B', equal_in_c='of 20 images, C as interpreted',
      work='multiply-adds, times as many',
    ),
    note='Flash and RAM with the program around it; instructions of an emulated core, not time.',
  )  # fmt: skip


def layers():
  """What each layer takes."""
  return dict(
    title='By layer', kind='layer', rows=('layer', 'op', 'name'),
    values=('macs', 'flash', 'ram', 'instructions'),
    names=dict(layer='layer {}', macs='multiply-adds', flash='constants, B', ram='held, B'),
  )
