"""Differentiable search among networks that are all trained: what it says of them is the truth."""

import numpy as np
import pytest

from reduction import models, stages
from reduction.errors import UsageError
from reduction.mcu import measure
from reduction.net import create
from reduction.run import Run
from reduction.search import latency
from reduction.search.cost import macs
from reduction.search.paths import costs, graph, ops
from reduction.search.truth import COSTS

MODULE = models.choice(operations=('skip', 'conv3'), layers=2, width=4)
SETTINGS = dict(steps=60, batch=50, every=30, optimizer=dict(name='adam', learning_rate=1e-2))


def test_costs_are_those_of_whole_networks():
  """stem 9 * 64 * 4, conv3 9 * 16 a pixel, out 4 * 10."""
  table, shared = costs(MODULE, (8, 8, 1), lambda ops: macs(ops).sum(1))
  np.testing.assert_array_equal(table, [[0, 9 * 16 * 64], [0, 9 * 16 * 16]])
  assert shared == 9 * 64 * 4 + 40


@pytest.mark.parametrize('cost', list(COSTS))
def test_a_table_s_sum_is_a_network_s_cost(cost):
  whole = models.choice(operations=('skip', 'conv1', 'conv3', 'separable3'), layers=3, width=8)
  table, shared = costs(whole, (8, 8, 1), COSTS[cost])
  assert (table[:, 0] == 0).all() and (table[:, 1] < table[:, 2]).all() and shared > 0
  for path in ((1, 3, 2), (0, 0, 3), (2, 2, 2)):
    one = COSTS[cost](ops(whole, (8, 8, 1), path))[0]
    assert one == pytest.approx(shared + table[[0, 1, 2], path].sum())


def test_energy_is_of_a_table_of_ones_own():
  one = ops(MODULE, (8, 8, 1), (1, 0))
  products = dict(mac=2.0, sram_byte=0.0, weight_byte=0.0)
  assert COSTS['energy'](one, products) == pytest.approx(2 * macs(one).sum(1))


@pytest.mark.slow
@pytest.mark.skipif(measure.missing() is not None, reason=f'needs {measure.missing()}')
def test_the_table_s_sum_is_within_5_percent_of_the_emulator():
  whole = models.choice(operations=('skip', 'conv1', 'conv3', 'separable3'), layers=3, width=8)
  table, shared = costs(whole, (8, 8, 1), COSTS['instructions'])
  for path in ((1, 3, 2), (0, 2, 3)):  # neither was measured
    counted = sum(latency.counted(graph(whole, (8, 8, 1), path)))
    assert shared + table[[0, 1, 2], path].sum() == pytest.approx(counted, rel=0.05)


@pytest.mark.slow
def test_searches_find_the_network_that_is_the_best_when_all_are_trained(digits):
  run = Run(digits, (0, 1))
  net = create(MODULE, run.key('init', 0), digits.train.x[:1])
  methods = ('darts', 'darts2', 'reinforce', 'ppo')
  stage = stages.darts(methods=methods, repeats=1, pushes=(100.0,), targets=(0.3,), trials=200,
                       **SETTINGS)  # fmt: skip
  assert stage(net, run) is net
  listed = {r['network']: r for r in run.rows if r['kind'] == 'listed'}
  assert list(listed) == ['skip skip', 'skip conv3', 'conv3 skip', 'conv3 conv3']
  best = max(r['test_accuracy'] for r in listed.values())
  assert best > listed['skip skip']['test_accuracy'] > 0.15
  rewarded = [r['method'] for r in run.rows if r.get('target')]
  assert rewarded == [f'{how} reward, {by}' for how in ('soft', 'hard') for by in methods[2:]]
  for row in (r for r in run.rows if r['kind'] == 'method'):
    truth = [listed[name]['test_accuracy'] for name in row['networks']]
    np.testing.assert_allclose(row['test_accuracy'], truth)
    if row['target']:
      over = {name: max(1, one['cost'] / 0.3) for name, one in listed.items()}
      worth = {name: one['validation_accuracy'] / over[name] for name, one in listed.items()}
      best_worth = [max(worth, key=worth.get)] * 2
      assert row['method'].startswith('soft reward, ') or row['networks'] == best_worth
      continue
    np.testing.assert_allclose(row['behind'], best - np.array(truth), atol=1e-6)
    if row['push']:  # so dear that nothing else counts
      assert row['networks'] == ['skip skip'] * 2 and max(row['cost']) < 0.25
    elif row['method'] in ('reinforce', 'ppo'):
      held = {name: one['validation_accuracy'] for name, one in listed.items()}
      assert row['networks'] == [max(held, key=held.get)] * 2


def test_the_more_a_search_is_pushed_the_cheaper_its_network(digits):
  """By ProxylessNAS' added cost and FBNet's power of a log; and what a row says of the best."""
  run = Run(digits, (0,))
  net = create(MODULE, run.key('init', 0), digits.train.x[:1])
  stages.darts(methods=('fbnet',), pushes=(0.1, 100.0), powers=(1.0, 30.0, 300.0), **SETTINGS)(
    net, run
  )
  listed = {r['network']: r for r in run.rows if r['kind'] == 'listed'}
  found = [r for r in run.rows if r['kind'] == 'method']
  told = [(r['method'], r['push'], r.get('loss')) for r in found]
  assert told == [
    ('fbnet', 0, None), ('proxyless', 0.1, 'add'), ('proxyless', 100, 'add'),
    ('fbnet', 1, 'power'), ('fbnet', 30, 'power'), ('fbnet', 300, 'power'),
  ]  # fmt: skip
  for method in 'fbnet', 'proxyless':
    costs = [r['cost'][0] for r in found if r['method'] == method]
    assert costs == sorted(costs, reverse=True) and costs[0] > costs[-1]
    assert costs[-1] == listed['skip skip']['cost']
  noise = np.median([r['spread'] for r in listed.values()])
  best = max(r['test_accuracy'] for r in listed.values())
  for row in found:
    np.testing.assert_allclose([row['noise'], row['best_accuracy']], [noise, best], rtol=1e-5)
    behind = best - listed[row['networks'][0]]['test_accuracy']
    assert row['within_noise'] == [behind <= noise]


CELL = models.choice(operations=('skip', 'conv3'), layers=2, width=4, kept=1)


def test_searches_choose_edges_of_a_cell(digits):
  run = Run(digits, (0,))
  net = create(CELL, run.key('init', 0), digits.train.x[:1])
  settings = dict(SETTINGS, steps=10, every=10)
  stages.darts(methods=('darts', 'fbnet'), repeats=1, **settings)(net, run)
  listed = {r['network']: r for r in run.rows if r['kind'] == 'listed'}
  assert len(listed) == 2 * 4 and {'skip - conv3', 'conv3 skip -'} <= set(listed)
  assert {one['cost'] for name, one in listed.items() if name.count('conv3') == 2} == {1.0}
  found = [r for r in run.rows if r['kind'] == 'method']
  assert [r['method'] for r in found] == ['darts', 'fbnet']
  assert all(r['test_accuracy'][0] == listed[r['networks'][0]]['test_accuracy'] for r in found)
  assert not any('noise' in r for r in found)  # of one training


def test_settings_that_are_none_are_refused(fresh):
  with pytest.raises(UsageError, match='not all of darts'):
    stages.darts(methods=('dart',), **SETTINGS)
  for name in 'pushes', 'powers', 'targets':
    for value in 0.0, -1.0, np.nan, np.inf:
      with pytest.raises(UsageError, match=f'{name}=.* must be finite and above 0'):
        stages.darts(methods=(), **{name: (value,)}, **SETTINGS)
  with pytest.raises(UsageError, match='has no choices'):
    stages.darts(methods=('darts',), **SETTINGS)(*fresh())
  net, run = fresh()
  cell = net.replace(module=CELL)
  for settings in dict(methods=('ppo',)), dict(methods=('darts',), cost='instructions'):
    with pytest.raises(UsageError, match='are of chains'):
      stages.darts(**settings, **SETTINGS)(cell, run)
