"""Compound scaling: the grid's best way makes the family; what cannot be made is refused."""

import pytest

from reduction import models, stages
from reduction.errors import UsageError
from reduction.models.mobile import Shrunk
from reduction.net import create
from reduction.run import Run

BASE = models.mobilenetv2(stages=((1, 8, 1), (2, 8, 1)), strides=(1, 1, 2), head=0)
TRAIN = dict(steps=60, batch=50, every=30, optimizer=dict(name='adam', learning_rate=1e-2))


def grown(digits, module=BASE, **changes):
  run = Run(digits, (0, 1))
  settings = dict(dict(resolution=4, phis=(0.5, 1.5), step=0.4, tolerance=0.25, multiple=2),
                  **changes)  # fmt: skip
  net = create(module, run.key('init', 0), digits.train.x[:1])
  net = stages.compound(**settings, **TRAIN)(net, run)
  return net, [row for row in run.rows if row['kind'] == 'scaled']


@pytest.mark.slow
def test_the_best_way_of_the_grid_makes_the_family(digits):
  net, rows = grown(digits)
  base, *rest = rows
  grid, family = ([r for r in rest if r['role'] == role] for role in ('grid', 'family'))
  way = lambda row: tuple(row[key] for key in ('alpha', 'beta', 'gamma'))
  assert [way(r) for r in grid] == [(1.0, 1.0, 1.4), (1.0, 1.4, 1.0), (1.8, 1.0, 1.0),
                                    (2.2, 1.0, 1.0)]  # fmt: skip
  mean = lambda row: sum(row['validation_accuracy'])
  assert {way(r) for r in family} == {way(max(grid, key=mean))}
  assert [r['phi'] for r in family] == [0.5, 1.5]
  assert base['macs'] < min(r['macs'] for r in grid) and base['macs'] < family[-1]['macs']
  assert isinstance(net.module, Shrunk) and net.module.side == family[-1]['resolution']
  assert min(family[-1]['test_accuracy']) > 0.3
  assert grid[0]['resolution'] > base['resolution'] and grid[2]['depth'] > base['depth']


def test_what_cannot_be_made_is_refused(digits):
  for changes, says in (
    (dict(step=0.9, tolerance=0.01), 'no coefficients in steps of'), (dict(phis=()), 'must rise'),
    (dict(phis=(2.0, 1.0)), 'must rise'), (dict(resolution=5), 'must divide by 2'),
    (dict(resolution=12), 'above the 8 pixels of digits'),
    (dict(module=models.mlp(widths=(4,))), 'MLP is no Mobile'),
  ):  # fmt: skip
    with pytest.raises(UsageError, match=says):
      grown(digits, **changes)
