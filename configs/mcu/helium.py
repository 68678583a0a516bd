"""What the vectors of Helium are worth, on an emulated Cortex-M55.

The same plans and bytes as on every other core; products of 16 bytes at once, four outputs scaled
at once. Without it the core runs the dual products of an M4. Expected: less than half of the
instructions. An instruction of 16 bytes takes an M55 two cycles, which QEMU does not count.

    python -m launch.bench --config=configs/mcu/helium.py --out=configs/mcu/results/helium.jsonl

Needs what configs/mcu/shipped.py needs. Variant 'quick': one small model.
"""

from ml_collections import config_dict

from configs.mcu.models import LABELS, TRAINED
from configs.variants import split


def get_config(variant: str = ''):
  """variant: '' or 'quick'."""
  quick = bool(split(variant, ('quick',)))
  c = config_dict.ConfigDict()
  c.title = 'Helium'
  c.benches = ('ablated',)
  models = ('te_lenet',) if quick else ('in3', 'te_vww', 'ic_resnet')
  c.ablated = dict(
    models={name: TRAINED[name] for name in models}, switches=('ours', 'no_vectors'), core='m55'
  )
  c.tables = dict(a=dict(
    title='On an emulated Cortex-M55', kind='ablation', rows='model', columns='switch',
    values=('instructions_m', 'instructions_change', 'flash'),
    where=dict(model=tuple(LABELS), switch=('ours', 'no_vectors')),
    names=dict(
      model=LABELS, switch=dict(ours='Helium', no_vectors='dual products'), flash='Flash, B',
      instructions_m='instructions (M)', instructions_change='more (%)',
    ),
  ))  # fmt: skip
  return c
