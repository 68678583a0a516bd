"""Early layers patch by patch: less memory for pixels that are computed twice.

Lin et al., MCUNetV2, NeurIPS 2021: MobileNetV2 in an eighth of the memory for 10 % more work, and
nets made for it in less. Expected: the same bytes; te_vww and MobileNetV2 in well under half of
what they take whole, in3, whose early kernels are 7 x 7, hardly less. The zoo's MobileNetV2 has
random weights: memory and instructions do not depend on them. Minutes on two CPU cores.

    python -m launch.bench --config=configs/mcu/patches.py --out=configs/mcu/results/patches.jsonl

Needs what configs/mcu/shipped.py needs. Variant 'quick': one model, 2 x 2 patches.
"""

from ml_collections import config_dict

from configs.mcu.models import LABELS, TRAINED, ZOO
from configs.variants import split

NETS = dict(LABELS, mbv2='MobileNetV2, w0.35, r144')


def get_config(variant: str = ''):
  """variant: '' or 'quick'."""
  quick = bool(split(variant, ('quick',)))
  c = config_dict.ConfigDict()
  c.title = 'Early layers in patches'
  c.benches = ('patched',)
  models = ('te_vww',) if quick else ('in3', 'te_vww')
  c.patched = dict(
    models={name: TRAINED[name] for name in models},
    files={} if quick else dict(mbv2=ZOO['mbv2']),
    sides=(2,) if quick else (2, 4),
    most=1.6,
  )
  c.tables = dict(a=dict(
    title='n x n patches of the first layers, on an emulated Cortex-M4', kind='patched',
    rows=('model', 'patches'),
    values=('arena', 'arena_change', 'layers', 'work', 'instructions_m', 'instructions_change',
            'flash', 'equal'),
    where=dict(model=('in3', 'te_vww', 'mbv2'), patches=(0, 2, 4)),
    names=dict(
      model=NETS, patches={'0': 'whole', **{str(n): f'{n} x {n}' for n in (2, 4)}},
      arena='arena, B', arena_change='change (%)', layers='layers in patches',
      work='times the multiply-adds', instructions_m='instructions (M)',
      instructions_change='more (%)', flash='Flash, B', equal='outputs equal, of 1',
    ),
    note='The input lies in the arena all the time. Each kind of patch (corner, edge, middle) has '
    'kernels of its own, which is what Flash grows by. No line: nothing is gained.',
  ))  # fmt: skip
  return c
