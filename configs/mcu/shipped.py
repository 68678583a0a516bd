"""Five trained int8 models on emulated microcontrollers: equal bytes, memory, instructions.

Lin et al., MCUNet, NeurIPS 2020, against its TinyEngine. Expected: all outputs equal in the
interpreter, the C on this machine and on every core, of 20 inputs on an M4 and an M7; in3 in at
most 187,200 B of arena and 240 M instructions on an M4, te_vww in 77,100 B and 35 M. QEMU's
instructions repeat exactly and are not time. Half an hour on a busy machine of two CPU cores.

    python -m launch.bench --config=configs/mcu/shipped.py --out=configs/mcu/results/shipped.jsonl

Needs `pip install -e '.[mcu]'`, arm-none-eabi-gcc, qemu-system-arm and the models in the data
directory; with `pip install -e '.[golden]'` also TFLM's bytes and arena. Variant 'quick': one small
model, one input, an M4 alone.
"""

from ml_collections import config_dict

from configs.mcu.models import LABELS, TRAINED, column
from configs.variants import split

CORES = dict(m0=2, m3=2, m4=20, m7=20, m33=2, m55=2)  # inputs of each
# measured in a laboratory from those projects' sources, of the same models, on the same emulated M4
OTHERS = (
  column('TinyEngine, arena', LABELS, in3='266,344', te_vww='93,992'),
  column('TFLM, instructions (M)', LABELS, in3='1,759.6', te_vww='212.6'),
  column('TFLM and CMSIS-NN (M)', LABELS, in3='397.5', te_vww='49.3'),
  column('TinyEngine, inexact (M)', LABELS, in3='239.8', te_vww='34.7'),
  column('TinyEngine, integers (M)', LABELS, in3='286.3', te_vww='43.4'),
)


def get_config(variant: str = ''):
  """variant: '' or 'quick'."""
  quick = bool(split(variant, ('quick',)))
  c = config_dict.ConfigDict()
  c.title = 'Trained models on emulated microcontrollers'
  c.benches = ('shipped',)
  c.shipped = dict(
    models=dict(te_lenet=TRAINED['te_lenet']) if quick else TRAINED,
    cores=dict(m4=1) if quick else CORES,
  )
  c.tables = dict(a=memory(), b=equal(), c=cores())
  return c


def memory():
  """Memory and instructions beside other engines'."""
  return dict(
    title='On an emulated Cortex-M4', kind='shipped', rows='model',
    values=('arena', 'lower_bound', 'tflm_arena', 'flash', 'instructions_m4_m'),
    names=dict(
      model=LABELS, arena='arena, B', lower_bound='no schedule of whole tensors, B',
      tflm_arena='TFLM, arena', flash='Flash, B', instructions_m4_m='instructions (M)',
    ),
    where=dict(model=tuple(LABELS)), paper=OTHERS,
    note="TFLM's arena is its package's on a 64-bit machine (503,332 B for in3 on an M4). Columns "
    'behind it are laboratory figures: built from those sources, same compiler, core and input. '
    'TinyEngine by default gives 0 of 20 outputs of TFLite, with integers 19.',
  )  # fmt: skip


def equal():
  """How many outputs are equal to the interpreter's."""
  values = ('equal_tflm', 'equal_host', *(f'equal_{core}' for core in CORES))
  return dict(
    title="Outputs equal to the interpreter's, byte for byte", kind='shipped', rows='model',
    values=('runs', *values), where=dict(model=tuple(LABELS)),
    names=dict(
      model=LABELS, runs='inputs', equal_tflm='TFLM', equal_host='C on this machine',
      **{f'equal_{core}': f'{core.upper()}, of {n}' for core, n in CORES.items()},
    ),
  )  # fmt: skip


def cores():
  """Millions of instructions by core."""
  return dict(
    title='Millions of instructions', kind='core', rows='model', columns='core',
    values='instructions_m', where=dict(model=tuple(LABELS), core=tuple(CORES)),
    names=dict(model=LABELS, core={core: core.upper() for core in CORES}),
    note='M0 and M3 have no dual products; an M3 of the emulator runs the code of the M0. Helium '
    'counts an instruction of 16 bytes as one, which takes an M55 two cycles.',
  )  # fmt: skip
