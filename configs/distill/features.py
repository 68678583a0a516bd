"""The losses that people expect beside soft targets, on one student, in one table.

Each adds its loss, at its authors' weight, to soft targets at T = 4 and hard labels; 'dkd',
'reverse', 'jsd' and 'standardized' take the place of the soft targets, 'matching' shows student and
teacher the same moved images (Beyer et al. 2022), 'again' teaches a net of the teacher's own size
(Furlanello et al. 2018), 'mutual' has no teacher but a second student (Zhang et al. 2018).
Expected: differences of some tenths of a point, which published tables often give without their
spread.

    python -m launch.run --config=configs/distill/features.py --workdir=runs/distill-features

A teacher of 16 channels on MNIST, students of 4 that see 3,000 of its images, three seeds. Weights
were tuned by nobody for this pair, neither for nor against a loss. Variant 'quick': one loss, 60
steps.
"""

from ml_collections import config_dict

from configs.claims import lines
from configs.variants import split

SEEDS = (0, 1, 2)
STEPS = 1_000  # 20 epochs of 3,000 images, batch 60
MATCHED = dict(  # loss -> the layer it is of, in both nets
  hint='conv2', attention='conv2', similarity='conv2', rkd_distance='head/fc1',
  rkd_angle='head/fc1', contrastive='head/fc1', patient='head/fc1', tinybert='head/fc1',
  cosine='head/fc1',
)  # fmt: skip


def get_config(variant: str = ''):
  """variant: '' or 'quick'."""
  quick = bool(split(variant, ('quick',)))
  c = config_dict.ConfigDict()
  c.title = 'Losses beside soft targets: Conv-2 of 4 channels on MNIST'
  c.seeds = SEEDS[:1] if quick else SEEDS
  c.data = dict(name='mnist', validation=5_000)
  c.model = dict(name='convnet', depth=2, width=16, widths=(64,))
  steps = 60 if quick else STEPS
  training = dict(
    steps=steps, batch=60, every=steps // 2, optimizer=dict(name='adam', learning_rate=2e-3,
    cosine=steps),
  )  # fmt: skip
  student = dict(
    training, stage='distill', student=dict(c.model.to_dict(), width=4), transfer=dict(share=3 / 55)
  )
  taught = dict(student, teachers=('teacher',), temperature=4.0, hard=1.0)
  parts = dict(
    teacher=dict(training, stage='tune'),
    hard=dict(student, soft=0.0, hard=1.0),
    soft=taught,
    dkd=dict(taught, method='dkd'),
    reverse=dict(taught, method='reverse'),
    jsd=dict(taught, method='jsd'),
    standardized=dict(taught, method='standardized'),
    matching=dict(taught, hard=0.0, augment='jitter'),
    again=dict(taught, student=c.model.to_dict()),
    mutual=dict(
      training, stage='mutual', student=student['student'], peer=student['student'],
      transfer=student['transfer'],
    ),
  )
  for loss, layer in MATCHED.items():
    match = dict(student=layer, teacher=layer, loss=loss)
    match |= dict(memory=512) if loss == 'contrastive' else {}
    parts[loss] = dict(taught, matches=(match,))
  if quick:
    parts = {name: parts[name] for name in ('teacher', 'hint')}
  c.stages = tuple(parts)
  for name, settings in parts.items():
    c[name] = settings
  accuracy = lambda stage, how, **against: dict(
    kind='distill', stage=stage, key='test_accuracy', how=how, **against
  )
  claims = dict(soft=('test accuracy of plain soft targets', '', accuracy('soft', 'value')))
  for name in c.stages:
    if name not in ('teacher', 'soft'):
      against = dict(against=dict(stage='soft'))
      claims[name] = (f'{name} against soft', '', accuracy(name, 'difference', **against))
  c.paper = lines(**claims)
  return c


def sweep():
  """One line a seed."""
  for seed in SEEDS:
    yield {'seeds': (seed,)}
