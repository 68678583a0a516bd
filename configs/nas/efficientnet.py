"""Compound scaling on CIFAR-10: how a small network grows best, then its family.

Tan & Le, EfficientNet, ICML 2019, section 3.3: a grid finds alpha, beta, gamma with alpha beta^2
gamma^2 about 2 for the smallest network, and powers of these give the larger ones. Expected
(figure 8, table 7, ImageNet, four times the sums of B0): all three together 81.1 %, width alone
78.9, depth alone 79.0, resolution alone 79.1. Here the smallest is an inverted-bottleneck network
of 0.9 M multiply-accumulates on images shrunk to 16 x 16; the grid, in steps of 0.2, has the ways
of one dimension alone at its ends.

    python -m launch.run --config=configs/nas/efficientnet.py --workdir=runs/nas --data_dir=DATA

10,000 training images, 1,500 steps a network, where the paper's are trained to the end. Variant
'quick': a grid of three on digits. Time: results/efficientnet.jsonl.
"""

from ml_collections import config_dict

from configs.variants import split

STEPS = 1_500  # 10 epochs of 10K images, batch 64
BASE = dict(
  name='mobilenetv2', stages=((1, 8, 1), (4, 16, 2), (4, 32, 2)), strides=(1, 1, 2, 2), width=1.0,
  head=0,
)  # fmt: skip


def get_config(variant: str = ''):
  """variant: '' or 'quick'."""
  quick = bool(split(variant, ('quick',)))
  steps = 20 if quick else STEPS
  c = config_dict.ConfigDict()
  c.title = 'Compound scaling on ' + ('digits' if quick else 'CIFAR-10')
  c.seeds = (0,) if quick else (0, 1, 2)
  c.data = dict(name='digits') if quick else dict(
    name='cifar10', validation=2_000, examples=10_000, augment='flip_and_crop'
  )  # fmt: skip
  c.model = dict(BASE, stages=((1, 8, 1), (2, 8, 1)), strides=(1, 1, 2)) if quick else BASE
  c.stages = ('compound',)
  c.compound = dict(
    resolution=4 if quick else 16, phis=(1.0,) if quick else (1.0, 2.0), step=1.0 if quick else 0.2,
    tolerance=0.1 if quick else 0.25, steps=steps, batch=64, every=10 if quick else 500,
    optimizer=dict(name='adam', learning_rate=3e-3, cosine=steps),
  )  # fmt: skip
  c.tables = dict(
    scaled=dict(
      title='Networks of about twice (phi 1) and four times (phi 2) the sums', kind='scaled',
      rows=('role', 'phi', 'alpha', 'beta', 'gamma'),
      values=('resolution', 'depth', 'width', 'macs', 'validation_accuracy', 'test_accuracy'),
      names=dict(role=dict(base='the smallest', grid='of the grid', family='of the family'),
                 phi='phi {}', alpha='depth x {}', beta='width x {}', gamma='resolution x {}',
                 depth='blocks', width='last channels'),
      note='The family grows by the way of the grid that is best on validation images.',
    ),
  )  # fmt: skip
  return c


def sweep():
  """One line a seed."""
  for seed in range(3):
    yield {'seeds': (seed,)}
