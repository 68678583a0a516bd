"""A net that is there, as C for a board: what each layer takes first, then a folder to build.

Lin et al., MCUNet, NeurIPS 2020, its engine. model: an int8 .tflite file of any origin, or the
workdir of a run, whose last net is quantized on its training images. Seconds on two CPU cores.
Flash, RAM and instructions are measured where arm-none-eabi-gcc and QEMU are installed. What does
not fit says by how much and which layer, with exit code 2, and is not written.

    python -m launch.run --config=configs/mcu/deploy.py --config.model=FILE.tflite \
      --config.board=stm32f746 --workdir=build/net

The workdir holds the report, with a picture of memory over time, and in files/c the C, a Makefile,
a README, a test for the host and net.tflite. Variant 'patches': the first layers in 4 x 4 patches,
where that takes less memory.
"""

from ml_collections import config_dict

from configs.mcu.digits import COLUMNS, layers, microcontroller


def get_config(variant: str = ''):
  """variant: '' or 'patches'."""
  c = config_dict.ConfigDict()
  c.title = 'On a microcontroller'
  c.model = ''
  c.board = 'stm32f746'
  c.images = 256  # that show a workdir's net its ranges
  c.exact = False  # the least arena (small nets)
  c.patches = 4 if variant == 'patches' else 0
  c.tables = dict(a=layers(), b=microcontroller(*COLUMNS, 'work'))
  return c
