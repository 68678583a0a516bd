"""Tuning keeps masks and goes on from where the net is."""

import numpy as np
import pytest

from reduction import stages, tree
from reduction.run import chain

ADAM = dict(name='adam', learning_rate=1.2e-3)
SHORT = dict(steps=100, batch=60, every=50, optimizer=ADAM)


def test_masks_survive_a_chain_of_every_stage(fresh):
  net, run = fresh((0, 1))
  prune = stages.lottery(rounds=1, rates=(('kernel', 0.5),), **SHORT)
  tuned = chain(train=stages.tune(**SHORT), lottery=prune, tune=stages.tune(**SHORT))(net, run)
  pruned = dict(tree.named(run.nets['lottery'].params))
  for name, after in tree.named(tuned.params):  # nonzero(stage(net)) <= nonzero(net)
    if 'kernel' in name:
      assert not np.asarray(after)[np.asarray(pruned[name]) == 0].any()
  for weight, mask in zip(tree.leaves(tuned.params), tree.leaves(tuned.masks)):
    assert not np.asarray(weight)[~np.asarray(mask)].any()
  table = {row['stage']: row for row in run.rows if row['kind'] == 'stage'}
  assert list(table) == ['start', 'train', 'lottery', 'tune']


@pytest.mark.parametrize('best', [True, False])
def test_best_returns_the_weights_of_the_lowest_validation_loss(fresh, best):
  net, run = fresh((0,))
  fast = SHORT | dict(steps=600, best=best, optimizer=dict(name='adam', learning_rate=2e-2))
  stages.tune(**fast)(net, run)
  curve = {row['step']: row['validation_loss'][0] for row in run.rows if row['kind'] == 'curve'}
  row = run.rows[-1]
  assert curve[row['early_stop_step'][0]] == min(curve.values()) == row['validation_loss'][0]
  assert row['early_stop_step'][0] < 600
