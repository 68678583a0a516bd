r"""What each idea of the planner and of the generated C is worth, on an emulated Cortex-M4.

The slides of MCUNet (Lin et al., NeurIPS 2020) build TinyEngine up from an interpreter: generated
code, memory for the columns of a convolution shared by the net, depthwise in place, unrolled and
specialized kernels. Here each is taken away from what we ship. Every variant gives the
interpreter's bytes. Minutes on two CPU cores.

    python -m launch.bench --config=configs/mcu/ablations.py \
      --out=configs/mcu/results/ablations.jsonl

Needs what configs/mcu/shipped.py needs. Variant 'quick': one small model, two switches.
"""

from ml_collections import config_dict

from configs.mcu.models import LABELS, TRAINED
from configs.variants import split

SWITCHES = dict(
  tflm='an interpreter: TFLM', ours='ours', none='nothing in place',
  no_depthwise='no depthwise in place', no_pointwise='no pointwise in place',
  no_add='no addition in place', no_diagonal='no first convolution on the diagonal',
  planes='whole planes of a channel, not rings', shared='one scratch for the net, not one a layer',
  narrow='rings of int8', one_pixel='one pixel at a time', single='no dual products',
  rolled='loops not unrolled', generic='kernels for any size',
  generic_rolled='kernels for any size, loops not unrolled',
)  # fmt: skip


def get_config(variant: str = ''):
  """variant: '' or 'quick'."""
  quick = bool(split(variant, ('quick',)))
  c = config_dict.ConfigDict()
  c.title = 'What each idea of a microcontroller engine is worth'
  c.benches = ('ablated',)
  models = ('te_lenet',) if quick else ('in3', 'te_vww')
  every = tuple(switch for switch in SWITCHES if switch != 'tflm')
  c.ablated = dict(
    models={name: TRAINED[name] for name in models},
    switches=('ours', 'rolled') if quick else every,
  )
  c.tables = dict(a=dict(
    title='One idea taken away', kind='ablation', rows='switch', columns='model',
    values=('arena', 'arena_change', 'flash', 'instructions_m', 'instructions_change'),
    where=dict(model=('in3', 'te_vww'), switch=tuple(SWITCHES)),
    names=dict(
      switch=SWITCHES, model=LABELS, arena='arena, B', arena_change='change (%)',
      flash='Flash, B', instructions_m='instructions (M)', instructions_change='change (%)',
    ),
    note="Every variant gives the interpreter's bytes. TFLM's arena is its package's on a 64-bit "
    'machine; its instructions and those of TinyEngine stand above.',
  ))  # fmt: skip
  return c
