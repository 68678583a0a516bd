"""The teacher of the MNIST experiments: Hinton, Vinyals & Dean 2015, section 3.

Expected: 67 test errors. Two hidden layers of 1,200 rectified units, dropout (20 % of the inputs,
half of the hidden units), a constraint on the weights into each unit, images moved by up to two
pixels, all 60,000 of them. The paper leaves optimizer, rates and epochs open; a public reproduction
needed 1,000 epochs of SGD for 64 errors. Here 300 epochs of Adam at a rate that falls from 1e-3
along a cosine, which after a few epochs was ahead of SGD.

    python -m launch.run --config=configs/distill/teacher.py --workdir=runs/distill-teacher
    python -m launch.run --config=configs/distill/teacher.py:members --workdir=runs/distill-members

Variants: 'members' is ten seeds of 20 epochs, for an ensemble; 'quick' one epoch of narrow layers.
Time: an hour on two CPU cores.
"""

from ml_collections import config_dict

from configs.claims import lines
from configs.distill import setting
from configs.variants import split

EPOCHS = 300


def get_config(variant: str = ''):
  """variant: any of 'members' and 'quick', joined by commas."""
  variants = split(variant, ('members', 'quick'))
  c = config_dict.ConfigDict()
  c.title = 'The teacher: 1,200-1,200 on MNIST'
  c.seeds = (0,)
  c.data = dict(name='mnist', validation=0)
  c.model = setting.TEACHER
  c.stages = ('teacher',)
  c.teacher = dict(setting.teaching(EPOCHS), stage='tune')
  c.paper = lines(D1=('test errors of the teacher', '67', setting.errors('teacher', kind='tune')))
  if 'members' in variants:
    c.title = 'Ten short-trained teachers: 1,200-1,200 on MNIST'
    c.seeds = tuple(range(10))
    c.teacher = dict(setting.teaching(20), stage='tune')
    c.paper = {}
    c.tables = dict(members=dict(
      title='Test errors of ten members', kind='tune', rows='at', values=('test_errors',),
      names=dict(at=dict(teacher='20 epochs, ten seeds')), note='Mean and range over the seeds.',
    ))  # fmt: skip
  if 'quick' in variants:
    c.seeds = c.seeds[:2]
    c.model.widths = (100, 100)
    c.teacher.update(steps=setting.EPOCH, every=setting.EPOCH // 2)
  return c


def sweep():
  """The teacher, and members of an ensemble one a line."""
  yield {}
  for seed in range(10):
    yield {'variant': 'members', 'seeds': (seed,)}
