"""Ten short-trained teachers in one student: Hinton, Vinyals & Dean 2015, section 4's way on MNIST.

Expected: the paper has this for speech, where a distilled net keeps 86 % of the gain of a ten-fold
ensemble over one of its members. Here the ensemble's and the student's errors on MNIST.

    python -m launch.run --config=configs/distill/teacher.py:members --workdir=runs/distill-members
    python -m launch.run --config=configs/distill/ensemble.py --workdir=runs/distill-ensemble

A student of the members' own size, without dropout or jitter, from the arithmetic and from the
geometric mean of the members' predictions. Variant 'quick': two narrow members, a minute.
"""

from ml_collections import config_dict

from configs.claims import lines
from configs.distill import setting
from configs.variants import split

STEPS = 50 * setting.EPOCH


def get_config(variant: str = ''):
  """variant: '' or 'quick'."""
  quick = bool(split(variant, ('quick',)))
  c = config_dict.ConfigDict()
  c.title = 'An ensemble of ten in one student on MNIST'
  c.seeds = setting.SEEDS
  c.data = dict(name='mnist', validation=0)
  c.model = dict(name='mlp', widths=setting.TEACHER['widths'])
  taught = dict(
    stage='distill', student=c.model.to_dict(), teachers=('runs/distill-members',), members='all',
    temperature=20.0, hard=0.1, **setting.learning(STEPS, STEPS // 10),
  )  # fmt: skip
  c.stages = ('arithmetic', 'geometric')
  if quick:
    c.seeds = setting.SEEDS[:2]
    c.model = dict(setting.TEACHER, widths=(100, 100))
    c.members = dict(setting.teaching(1), stage='tune')
    c.stages = ('members', 'arithmetic')
    taught.update(setting.learning(600, 300), teachers=('members',))
    taught['student'] = dict(name='mlp', widths=(100, 100))
  for mean in set(c.stages) - {'members'}:
    c[mean] = dict(taught, mean=mean)
  wrong = setting.errors
  c.paper = lines(
    D14=('errors of the ensemble', 'not in the paper', wrong('arithmetic', kind='teacher')),
    D15=('errors of its student', 'not in the paper', wrong('arithmetic')),
    D16=('errors of the geometric mean', 'not in the paper', wrong('geometric', kind='teacher')),
    D17=('errors of its student', 'not in the paper', wrong('geometric')),
  )  # fmt: skip
  return c


def sweep():
  """One line a seed."""
  for seed in setting.SEEDS:
    yield {'seeds': (seed,)}
