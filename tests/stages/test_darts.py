"""Differentiable search among networks that are all trained: what it says of them is the truth."""

import numpy as np
import pytest

from reduction import models, stages
from reduction.errors import UsageError
from reduction.models.choice import costs
from reduction.net import create
from reduction.run import Run

MODULE = models.choice(operations=('skip', 'conv3'), layers=2, width=4)
SETTINGS = dict(steps=60, batch=50, every=30, optimizer=dict(name='adam', learning_rate=1e-2))


def test_costs_are_multiply_accumulates_of_the_dearest():
  table = costs(MODULE, (8, 8, 1))
  whole = 9 * 16 * 64 + 9 * 16 * 16
  np.testing.assert_allclose(table, np.array([[0, 9 * 16 * 64], [0, 9 * 16 * 16]]) / whole)


def test_searches_find_the_network_that_is_the_best_when_all_are_trained(digits):
  run = Run(digits, (0, 1))
  net = create(MODULE, run.key('init', 0), digits.train.x[:1])
  methods = ('darts', 'darts2', 'reinforce')
  stage = stages.darts(methods=methods, repeats=1, pushes=(100.0,), trials=200, **SETTINGS)
  assert stage(net, run) is net
  listed = {r['network']: r for r in run.rows if r['kind'] == 'listed'}
  assert list(listed) == ['skip skip', 'skip conv3', 'conv3 skip', 'conv3 conv3']
  best = max(r['test_accuracy'] for r in listed.values())
  assert best > listed['skip skip']['test_accuracy'] > 0.15
  for row in (r for r in run.rows if r['kind'] == 'method'):
    truth = [listed[name]['test_accuracy'] for name in row['networks']]
    np.testing.assert_allclose(row['test_accuracy'], truth)
    np.testing.assert_allclose(row['behind'], best - np.array(truth), atol=1e-6)
    if row['push']:  # so dear that nothing else counts
      assert row['networks'] == ['skip skip'] * 2 and row['cost'] == [0, 0]
    elif row['method'] == 'reinforce':
      assert row['rank'] == [1, 1]


def test_settings_that_are_none_are_refused(fresh):
  with pytest.raises(UsageError, match='not all of darts'):
    stages.darts(methods=('dart',), **SETTINGS)
  with pytest.raises(UsageError, match='has no choices'):
    stages.darts(methods=('darts',), **SETTINGS)(*fresh())
