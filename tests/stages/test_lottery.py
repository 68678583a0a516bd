"""Lottery tickets keep the paper's protocol."""

import functools

import numpy as np
import pytest

from reduction import prune, stages, tree
from reduction.errors import UsageError
from reduction.run import chain

find = functools.partial(
  stages.lottery,
  rounds=2, rates=(('out/kernel', 0.1), ('kernel', 0.2)), steps=100, batch=60, every=50,
  optimizer=dict(name='adam', learning_rate=1.2e-3),
)  # fmt: skip
KERNELS = ('fc1/kernel', 'fc2/kernel', 'out/kernel')


def levels(run, net='ticket'):
  """The summary rows of a net, in order of level."""
  return [row for row in run.rows if row['kind'] == 'level' and row['net'] == net]


def alive(net, replica=0):
  """Kernel -> number of weights that its mask keeps."""
  return {n: int(np.asarray(m[replica]).sum()) for n, m in tree.named(net.masks) if n in KERNELS}


def test_each_layer_loses_its_own_share_exactly(fresh):
  net, run = fresh((0, 1))
  ticket = find()(net, run)
  sizes = dict(zip(KERNELS, (64 * 24, 24 * 12, 12 * 10)))
  rates = dict(zip(KERNELS, (0.2, 0.2, 0.1)))
  left = {
    name: prune.survivors(prune.survivors(size, rates[name]), rates[name])
    for name, size in sizes.items()
  }
  assert alive(ticket, 0) == alive(ticket, 1) == left
  kept = sum(left.values()) / sum(sizes.values())
  assert levels(run)[-1]['kept'] == pytest.approx(kept, abs=1e-6)
  assert all(bool(m.all()) for n, m in tree.named(ticket.masks) if n not in KERNELS)


def test_level_0_is_the_dense_run_and_a_ticket_starts_from_the_first_weights(fresh, same):
  net, run = fresh((0,))
  find(rounds=1, reinits=0)(net, run)
  again, other = fresh((0,))
  find(rounds=0, reinits=0)(again, other)
  assert [r for r in run.rows if r['level'] == 0] == other.rows
  # with nothing to prune, level 1 is level 0 again: rewound, same data order, fresh optimizer
  net, run = fresh((0,))
  find(rounds=1, reinits=0, rates=(('kernel', 0.0),))(net, run)
  zero, one = levels(run)
  assert {**zero, 'at': '', 'level': 0} == {**one, 'at': '', 'level': 0}


def test_the_mask_keeps_the_largest_last_weights(fresh):
  net, run = fresh((0,))
  dense = find(rounds=0, reinits=0)(net, run)
  net, run = fresh((0,))
  ticket = find(rounds=1, reinits=0)(net, run)
  for name, mask in tree.named(ticket.masks):
    if name in KERNELS:
      w = np.abs(np.asarray(dict(tree.named(dense.params))[name]))
      mask = np.asarray(mask)
      assert w[mask].min() >= w[~mask].max()


def test_masks_hold_in_the_weights_and_in_every_later_stage(fresh):
  net, run = fresh((0,))
  ticket = chain(lottery=find(), again=find(rounds=0))(net, run)
  first = run.nets['lottery']
  for weight, mask, before in zip(
    *map(tree.leaves, (ticket.params, ticket.masks, first.masks))
  ):
    assert not np.asarray(weight)[~np.asarray(mask)].any()
    assert not (np.asarray(mask) & ~np.asarray(before)).any()


def test_reinit_has_the_ticket_s_mask_and_data_but_other_weights(fresh):
  net, run = fresh((0,))
  find(reinits=2, reinit_levels=(1,))(net, run)
  controls = levels(run, 'reinit')
  assert [row['at'] for row in controls] == [f'levels/1/reinit{i}' for i in range(2)]
  assert {row['kept'] for row in controls} == {levels(run)[1]['kept']}
  assert len({row['validation_loss'][0] for row in [*controls, levels(run)[1]]}) == 3


def test_one_shot_prunes_the_dense_net_to_the_same_counts(fresh):
  net, run = fresh((0,))
  dense = find(rounds=0, reinits=0)(net, run)
  net, run = fresh((0,))
  shot = find(procedure='one_shot', reinits=0)(net, run)
  net, run = fresh((0,))
  iterative = find(reinits=0)(net, run)
  assert alive(shot) == alive(iterative)
  w = np.abs(np.asarray(dense.params['fc1']['kernel']))
  mask = np.asarray(shot.masks['fc1']['kernel'])
  assert w[mask].min() >= w[~mask].max()
  assert (mask != np.asarray(iterative.masks['fc1']['kernel'])).any()


def test_the_test_set_is_followed_at_the_curve_levels_only(fresh):
  net, run = fresh((0,))
  find(curve_levels=(1,))(net, run)
  curves = [row for row in run.rows if row['kind'] == 'curve']
  assert {row['level'] for row in curves if 'test_accuracy' in row} == {1}
  assert {row['level'] for row in curves} == {0, 1, 2}


@pytest.mark.parametrize(
  'settings, says',
  [
    (dict(rounds=-1), 'rounds=-1'),
    (dict(procedure='twoshot'), "procedure='twoshot'"),
    (dict(rates=(('kernel', 1.0),)), r'rate 1.0 of .kernel. must lie in \[0, 1\)'),
    (dict(every=30), 'every=30 must divide the 100 steps'),
  ],
)
def test_wrong_settings_are_refused_before_any_work(settings, says):
  with pytest.raises(UsageError, match=says):
    find(**settings)


@pytest.mark.parametrize(
  'settings, says',
  [
    (dict(rates=(('kernle', 0.2),)), 'no weight is named like'),
    (dict(rates=(('out/kernel', 0.99),), rounds=3), 'leave no weight in out/kernel'),
  ],
)
def test_settings_that_do_not_fit_the_net_are_refused(fresh, settings, says):  # fault 21
  with pytest.raises(UsageError, match=says):
    find(**settings)(*fresh((0,)))


def test_one_program_serves_all_levels_and_controls(fresh, module):
  from reduction.net import _jitted
  from reduction.train import _chunk
  from reduction.update import classification, classified, optimizer, sgd

  net, run = fresh((0, 1))
  find(steps=150, curve_levels=(1,))(net, run)  # a length that no other test uses
  update = sgd(classification(module), optimizer(name='adam', learning_rate=1.2e-3))
  jitted, *_ = _jitted(_chunk(update, classified(module), 3, 50))
  assert jitted._cache_size() == 1
