"""Which temperature suits which student: Hinton, Vinyals & Dean 2015, section 3, on MNIST.

Expected: with 300 units a layer all temperatures above 8 give about the same; with 30 units 2.5 to
4 work much better than higher and lower ones: a small student must choose what to learn.

    python -m launch.run --config=configs/distill/teacher.py --workdir=runs/distill-teacher
    python -m launch.run --config=configs/distill/temperature.py --workdir=runs/distill-temperature

Soft targets alone, kept logits, 20 epochs, three seeds. Variant 'quick': a narrow teacher and one
width at two temperatures, a minute.
"""

from ml_collections import config_dict

from configs.distill import setting
from configs.variants import split

WIDTHS = (30, 300, 800)
TEMPERATURES = (1.0, 2.0, 3.0, 4.0, 8.0, 20.0)
STEPS = 20 * setting.EPOCH


def get_config(variant: str = ''):
  """variant: '' or 'quick'."""
  quick = bool(split(variant, ('quick',)))
  c = config_dict.ConfigDict()
  c.title = 'Temperatures for students of three widths on MNIST'
  c.seeds = setting.SEEDS
  c.data = dict(name='mnist', validation=0)
  c.model = setting.STUDENT
  taught = dict(stage='distill', teachers=setting.TAUGHT_BY, **setting.learning(STEPS, STEPS // 10))
  widths, temperatures, names = WIDTHS, TEMPERATURES, []
  if quick:
    c.seeds, widths, temperatures = setting.SEEDS[:1], (30,), (1.0, 4.0)
    c.model = dict(setting.TEACHER, widths=(200, 200))
    c.teacher = dict(setting.teaching(2), stage='tune')
    names = ['teacher']
    taught.update(setting.learning(1_000, 500), teachers=('teacher',))
  for width in widths:
    for t in temperatures:
      names.append(f'units_{width}_at_{t:g}')
      student = dict(setting.STUDENT, widths=(width, width))
      c[names[-1]] = dict(taught, student=student, temperature=t)
  c.stages = tuple(names)
  model = lambda width: f'mlp {width} {width}'
  c.tables = dict(temperatures=dict(
    title='Test errors by temperature', kind='distill', rows='temperature', columns='student',
    values='test_errors', where=dict(student=tuple(map(model, WIDTHS))),
    names=dict(student={model(width): f'{width} units a layer' for width in WIDTHS}),
  ))  # fmt: skip
  c.figures = dict(temperatures=dict(
    title='Test errors by temperature', kind='distill', x='temperature', x_scale='log',
    x_ticks=temperatures, y='test_errors', lines='student', y_scale='log',
    where=dict(student=tuple(map(model, widths))),
    names={model(width): f'{width} units a layer' for width in widths},
  ))  # fmt: skip
  return c


def sweep():
  """One line a seed."""
  for seed in setting.SEEDS:
    yield {'seeds': (seed,)}
