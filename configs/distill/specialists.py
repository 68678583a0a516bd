"""Specialists for digits that a small net confuses: Hinton, Vinyals & Dean 2015, section 5.

Expected: the paper has this for 15,000 classes of images that were never published: 61 specialists
raise a generalist's test accuracy from 25.0 to 26.1 % (4.4 % of it). Ten digits have little to
specialize in; what is shown is the mechanism, with a generalist of 30 units a layer.

    python -m launch.run --config=configs/distill/specialists.py --workdir=runs/distill-specialists

Groups by k-means on the covariance of predictions at T = 20. Two of the generalist's first classes
call their specialists. Three seeds.
Variants: 'cooler' has the covariance at T = 4, most of which is each class's own variance; 'quick'
two groups, a tenth of the steps.
"""

from ml_collections import config_dict

from configs.claims import lines
from configs.distill import setting
from configs.variants import split


def get_config(variant: str = ''):
  """variant: any of 'cooler' and 'quick', joined by commas."""
  variants = split(variant, ('cooler', 'quick'))
  quick = 'quick' in variants
  steps = 600 if quick else 20 * setting.EPOCH
  c = config_dict.ConfigDict()
  c.title = 'A generalist and its specialists on MNIST'
  c.seeds = setting.SEEDS
  c.data = dict(name='mnist', validation=0)
  c.model = dict(name='mlp', widths=(30, 30))
  c.stages = ('generalist', 'specialists')
  c.generalist = dict(setting.learning(steps, steps // 4), stage='tune')
  c.specialists = dict(
    setting.learning(steps, steps // 4), count=2 if quick else 4, asked=2,
    cluster_temperature=4.0 if 'cooler' in variants else 20.0,
  )  # fmt: skip
  wrong = dict(kind='specialists', stage='specialists')
  c.paper = lines(
    D18=('errors of the generalist', 'not in the paper',
         dict(wrong, key='generalist_errors', how='value')),
    D19=('errors with specialists, against it', '-1.5 % of the errors (JFT)',
         dict(wrong, key='test_errors', how='relative', against=dict(key='generalist_errors'))),
  )  # fmt: skip
  c.tables = dict(groups=dict(
    title='The specialists', kind='specialist', rows='classes',
    values=('examples', 'correction', 'test_accuracy'),
    names=dict(correction="the dustbin's correction"),
    note='Accuracy among the classes of the group and a dustbin for all others.',
  ))  # fmt: skip
  return c


def sweep():
  """The covariance at a lower temperature; how many groups, and how many classes call one."""
  yield {'variant': 'cooler'}
  for count in (2, 3, 4, 5):
    for asked in (1, 2, 3):
      yield {'specialists.count': count, 'specialists.asked': asked}
