"""Tuning keeps masks and goes on from where the net is."""

import numpy as np
import pytest

from reduction import stages, tree
from reduction.qtensor import dequantize, is_packed
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


CLIENTS = dict(rounds=1, batch=30, partition=dict(name='iid', clients=2))
LATER = dict(
  tune=lambda: stages.tune(**SHORT),
  distill=lambda: stages.distill(teachers=('pruned',), temperature=4.0, **SHORT),
  lottery=lambda: stages.lottery(rounds=1, rates=(('kernel', 0.3),), **SHORT),
  fedavg=lambda: stages.fedavg(federation=CLIENTS, optimizer=ADAM),
  fedkd=lambda: stages.fedkd(federation=CLIENTS, optimizer=ADAM),
  fedmd=lambda: stages.fedmd(federation=CLIENTS, optimizer=ADAM),
  quantize=lambda: stages.quantize(bits=4, group=8),
  qat=lambda: stages.qat(bits=4, group=8, **SHORT),
  qat_mcu=lambda: stages.qat_mcu(**SHORT),
)


@pytest.mark.slow
def test_no_stage_revives_a_weight_that_was_pruned(fresh):
  """Supermasks, mutual learning, specialists and filterlets have tests of their own; other stages
  return the net as it came, or another module, as they say."""
  net, run = fresh((0,))
  prune = stages.lottery(rounds=1, rates=(('kernel', 0.5),), **SHORT)
  run.nets['pruned'] = pruned = prune(net, run.child('pruned'))
  masks = dict(tree.named(pruned.masks))
  assert sum(int((~np.asarray(mask)).sum()) for mask in masks.values()) > 500
  for name, make in LATER.items():
    after = make()(pruned, run.child(name))
    for at, w in tree.named(after.params, is_leaf=is_packed):
      w = np.asarray(dequantize(w) if is_packed(w) else w)
      assert not w[~np.asarray(masks[at])].any(), (name, at)


@pytest.mark.parametrize('best', [True, False])
def test_best_returns_the_weights_of_the_lowest_validation_loss(fresh, best):
  net, run = fresh((0,))
  fast = SHORT | dict(steps=600, best=best, optimizer=dict(name='adam', learning_rate=2e-2))
  stages.tune(**fast)(net, run)
  curve = {row['step']: row['validation_loss'][0] for row in run.rows if row['kind'] == 'curve'}
  row = run.rows[-1]
  assert curve[row['early_stop_step'][0]] == min(curve.values()) == row['validation_loss'][0]
  assert row['early_stop_step'][0] < 600


def test_afresh_draws_other_weights_and_keeps_the_masks(fresh):
  net, run = fresh((0,))
  kept = tree.map(lambda w: np.abs(w) > np.median(np.abs(w)), net.params)
  still = SHORT | dict(optimizer=dict(ADAM, learning_rate=1e-9))
  drawn = stages.tune(**still, afresh=True)(net.replace(masks=kept), run)
  for mask, wanted in zip(tree.leaves(drawn.masks), tree.leaves(kept)):
    assert (np.asarray(mask) == np.asarray(wanted)).all()
  drawn_anew = dict(tree.named(drawn.params))
  for (name, before), mask in zip(tree.named(net.params), tree.leaves(kept)):
    far = np.abs(np.asarray(drawn_anew[name]) - before) > 1e-4  # the steps, of 1e-9, go nowhere
    assert 'kernel' not in name or far[np.asarray(mask)].mean() > 0.99
