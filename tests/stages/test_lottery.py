"""Lottery tickets keep the paper's protocol."""

import functools
import sys

import flax.linen as nn
import numpy as np
import pytest

from reduction import prune, stages, train, tree, update
from reduction.errors import UsageError
from reduction.net import create
from reduction.run import Run, chain

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
  find(rounds=1)(net, run)
  again, other = fresh((0,))
  find(rounds=0)(again, other)
  assert [r for r in run.rows if r['level'] == 0] == other.rows
  # with nothing to prune, level 1 is level 0 again: rewound, same data order, fresh optimizer
  net, run = fresh((0,))
  find(rounds=1, rates=(('kernel', 0.0),))(net, run)
  zero, one = levels(run)
  assert {**zero, 'at': '', 'level': 0} == {**one, 'at': '', 'level': 0}


def test_the_mask_keeps_the_largest_last_weights(fresh):
  net, run = fresh((0,))
  dense = find(rounds=0)(net, run)
  net, run = fresh((0,))
  ticket = find(rounds=1)(net, run)
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
  find(controls=dict(reinit=dict(draws=2, levels=(1,))))(net, run)
  controls = levels(run, 'reinit')
  assert [row['at'] for row in controls] == [f'levels/1/reinit{i}' for i in range(2)]
  assert {row['kept'] for row in controls} == {levels(run)[1]['kept']}
  assert len({row['validation_loss'][0] for row in [*controls, levels(run)[1]]}) == 3


def test_one_program_trains_all_levels_and_controls(fresh, monkeypatch):
  traced, made = [], {}

  def counted(module):
    def loss(*args):
      traced.append(1)
      return update.classification(module)(*args)

    return made.setdefault(module, loss)

  monkeypatch.setattr(train, 'classification', counted)
  net, run = fresh((0, 1))
  find(rounds=0)(net, run.child('dense'))
  once = len(traced)
  controls = dict(reinit=dict(draws=2), random={}, shuffled={}, early={}, constant={},
                  noise=dict(sigmas=(0.5,)))  # fmt: skip
  find(controls=controls)(net, run.child('all'))
  assert {row['net'] for row in run.rows if row['kind'] == 'level'} == {
    'ticket', 'reinit', 'random', 'shuffled', 'early', 'constant', 'noise 0.5'
  }
  assert len(traced) == once > 0


def test_one_shot_prunes_the_dense_net_to_the_same_counts(fresh):
  net, run = fresh((0,))
  dense = find(rounds=0)(net, run)
  net, run = fresh((0,))
  shot = find(procedure='one_shot')(net, run)
  net, run = fresh((0,))
  iterative = find()(net, run)
  assert alive(shot) == alive(iterative)
  w = np.abs(np.asarray(dense.params['fc1']['kernel']))
  mask = np.asarray(shot.masks['fc1']['kernel'])
  assert w[mask].min() >= w[~mask].max()
  assert (mask != np.asarray(iterative.masks['fc1']['kernel'])).any()


def test_continued_training_never_resets_but_its_tickets_do(fresh):
  net, run = fresh((0,))
  find(procedure='continued')(net, run)
  dense, first, second = levels(run)
  trunk = levels(run, 'continued')
  assert [row['level'] for row in trunk] == [1, 2]
  assert trunk[0]['start_test_accuracy'][0] > dense['start_test_accuracy'][0] + 0.3  # trained
  assert first['start_test_accuracy'][0] < trunk[0]['start_test_accuracy'][0] - 0.3  # reset
  net, run = fresh((0,))
  find(procedure='resetting')(net, run)
  assert levels(run)[1] == first  # the first mask is that of the dense net either way
  assert levels(run)[2]['validation_loss'] != second['validation_loss']


def test_rewinding_starts_from_the_weights_and_the_data_order_of_that_step(fresh):
  net, run = fresh((0,))
  find(rounds=0, steps=100)(net, run)
  again, other = fresh((0,))
  # with no prune, going back to step 50 is training on: one optimizer restarts, the other never did
  find(rounds=1, rewind=50, rates=(('kernel', 0.0),), optimizer=dict(name='sgd', learning_rate=0.1)
       )(again, other)  # fmt: skip
  zero, one = levels(other)
  assert {**zero, 'at': '', 'level': 0} == {**one, 'at': '', 'level': 0}
  plain, third = fresh((0,))
  find(rounds=0, optimizer=dict(name='sgd', learning_rate=0.1))(plain, third)
  assert levels(third)[0]['test_accuracy'] == zero['test_accuracy']
  assert zero['start_test_accuracy'] != levels(third)[0]['start_test_accuracy']


class Normed(nn.Module):
  """A dense layer whose outputs are normalized over the batch."""

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Dense(8, name='fc1')(x.reshape(len(x), -1))
    return nn.Dense(10, name='out')(nn.relu(nn.BatchNorm(use_running_average=not train)(x)))


def test_batch_statistics_are_rewound_too(digits, monkeypatch):
  run = Run(digits, (0,))
  net = create(Normed(), run.key('init', 0), digits.train.x[:1])
  seen = []

  def watch(start, *_, **__):
    seen.append(start.first)
    return start.first.replace(stats=tree.map(lambda s: s + 1, start.first.stats))

  monkeypatch.setattr(sys.modules['reduction.stages.lottery'], 'trial', watch)
  find(rounds=2, rewind=50, rates=(('kernel', 0.2),))(net, run)
  for one in seen:
    for at, first, early in zip(*(tree.leaves(n.stats) for n in (one, net, seen[0]))):
      assert np.array_equal(at, early) and not np.array_equal(at, first)
  assert len(seen) == 3


def test_learning_rate_rewinding_keeps_weights_and_goes_back_in_the_schedule(fresh):
  drops = dict(name='sgd', learning_rate=0.1, drops=(60,))
  net, run = fresh((0,))
  find(procedure='learning_rate', rewind=50, optimizer=drops)(net, run)
  assert [row['net'] for row in run.rows if row['kind'] == 'level'] == [
    'ticket', 'continued', 'continued'
  ]  # fmt: skip
  curve = [r for r in run.rows if r['kind'] == 'curve' and r.get('net') == 'continued']
  assert {row['step'] for row in curve} == {100}
  one = levels(run, 'continued')[0]
  assert one['start_test_accuracy'][0] > 0.5  # no reset


def test_global_pruning_takes_the_smallest_of_all_layers(fresh):
  net, run = fresh((0,))
  rates = (('out/kernel', 0.1), ('kernel', 0.2))
  ticket = find(rounds=1, scope='global', rates=rates)(net, run)
  dense_net, dense_run = fresh((0,))
  dense = dict(tree.named(find(rounds=0)(dense_net, dense_run).params))
  masks = dict(tree.named(ticket.masks))
  flat = lambda of: np.concatenate([np.asarray(of[f'fc{i}/kernel'][0]).ravel() for i in (1, 2)])
  kept = flat(masks)
  assert kept.sum() == prune.survivors(kept.size, 0.2)
  assert np.abs(flat(dense))[kept].min() >= np.abs(flat(dense))[~kept].max()
  assert alive(ticket)['out/kernel'] == prune.survivors(120, 0.1)


def test_controls_differ_from_their_ticket_in_one_thing_alone(fresh, monkeypatch):
  net, run = fresh((0,))
  seen = {}

  def watch(start, *_, **__):
    seen[start.net] = start
    return start.first.replace(params=tree.map(lambda w: w[..., ::-1], start.first.params))

  monkeypatch.setattr(sys.modules['reduction.stages.lottery'], 'trial', watch)
  find(rounds=1, controls=dict(
    reinit=dict(), random=dict(), shuffled=dict(), early=dict(), constant=dict(), frozen=dict(),
    noise=dict(sigmas=(0.5, 2.0)),
  ))(net, run)  # fmt: skip
  ticket = seen.pop('ticket').first
  count = lambda n: {k: int(np.asarray(m).sum()) for k, m in tree.named(n.masks)}
  equal = lambda a, b: all(np.array_equal(x, y) for x, y in zip(tree.leaves(a), tree.leaves(b)))
  moved = {name for name, s in seen.items() if not equal(s.first.masks, ticket.masks)}
  redrawn = {name for name, s in seen.items() if not equal(s.first.params, ticket.params)}
  assert moved == {'random', 'early'}
  assert redrawn == {'reinit', 'random', 'shuffled', 'constant', 'noise 0.5', 'noise 2'}
  assert {name for name, s in seen.items() if s.frozen} == {'frozen'}
  assert all(count(s.first) == count(ticket) for s in seen.values())


def test_a_reordered_twin_shows_whether_the_minimum_is_one(fresh):
  net, run = fresh((0, 1))
  find(rounds=1, controls=dict(reordered=dict(levels=(0, 1), points=5)))(net, run)
  line = [row for row in run.rows if row['kind'] == 'path' and row['level'] == 1]
  assert [row['share'] for row in line] == [0, 0.25, 0.5, 0.75, 1]
  ticket, twin = (levels(run, name)[-1] for name in ('ticket', 'reordered'))
  np.testing.assert_allclose(line[0]['test_accuracy'], ticket['test_accuracy'], atol=1e-6)
  np.testing.assert_allclose(line[-1]['test_accuracy'], twin['test_accuracy'], atol=1e-6)
  assert ticket['validation_loss'] != twin['validation_loss']
  assert ticket['start_test_accuracy'] == twin['start_test_accuracy']
  (row,) = [r for r in run.rows if r['kind'] == 'instability' and r['level'] == 1]
  lowest = np.min([r['test_accuracy'] for r in line], axis=0)
  ends = (np.array(line[0]['test_accuracy']) + line[-1]['test_accuracy']) / 2
  np.testing.assert_allclose(row['instability'], ends - lowest, atol=1e-6)


def test_frozen_weights_stay_at_their_first_values(fresh):
  from reduction.train import fit
  from reduction.update import optimizer

  net, run = fresh((0,))
  rates = prune.by_name(net.params, (('kernel', 0.5),))
  cut = lambda w: prune.smallest(prune.magnitude(w), prune.all_kept(w), rates)
  masked = net.replace(masks=tree.map(lambda m: m[None], cut(tree.map(lambda w: w[0], net.params))))
  tx = optimizer('sgd', learning_rate=0.1, momentum=0.9, l2=1e-3)
  last, _ = fit(masked, run, run.data.splits(), tx, steps=50, batch=60, every=50, frozen=True)
  for w, m, first in zip(*map(tree.leaves, (last.params, masked.masks, net.params))):
    w, m, first = map(np.asarray, (w, m, first))
    assert np.array_equal(w[~m], first[~m])
    assert (w[m] != first[m]).mean() > 0.5


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
    (dict(procedure='oneshot'), "procedure='oneshot' is unknown. Did you mean 'one_shot'"),
    (dict(rates=(('kernel', 1.0),)), r'rate 1.0 of .kernel. must lie in \[0, 1\)'),
    (dict(every=30), 'every=30 must divide the 100 steps'),
    (dict(scope='globl'), "Did you mean 'global'"),
    (dict(criterion='movment'), "Did you mean 'movement'"),
    (dict(rewind=100), 'must divide the 0 steps'),
    (dict(controls=dict(reinit=dict(draw=1))), "has no 'draw'. Did you mean 'draws'"),
    (dict(controls=dict(reinitt=dict())), "Did you mean 'reinit'"),
    (dict(procedure='learning_rate', controls=dict(reordered={})), 'a reordered twin needs a'),
    (dict(controls=dict(noise=dict(sigmas=(0.0,)))), 'sigma=0.0 of the noise must be above 0'),
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
  jitted, *_ = _jitted(_chunk(update, classified(module), 3, 50, None))
  assert jitted._cache_size() == 1
