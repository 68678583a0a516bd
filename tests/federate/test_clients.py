"""Clients of a round: at once, on a mesh or one by one the same; unequal ones by masks."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from reduction import models, tree
from reduction.errors import UsageError
from reduction.federate import clients, methods, server
from reduction.federate.rounds import Cohort, sent_like
from reduction.net import all_kept
from reduction.update import classification, optimizer, sgd

MODULE = models.mlp(widths=(12,))
SGD = optimizer('sgd', learning_rate=0.1)
KEY = jax.random.key(0)


@pytest.fixture(scope='module')
def data(digits):
  return jnp.asarray(digits.train.x), jnp.asarray(digits.train.y)


@pytest.fixture(scope='module')
def shared(data):
  params = jax.jit(MODULE.init)(jax.random.key(3), data[0][:1])['params']
  return dict(params=params, stats={}, masks=all_kept(params), step=jnp.int32(0))


def drawn(sizes, batch=8, epochs=1.0):
  """(ids, indices, valid) of clients of these sizes, one after another in the data."""
  edges = np.cumsum([0, *sizes])
  parts = [np.arange(a, b) for a, b in itertools.pairwise(edges)]
  most = clients.steps(max(sizes), batch, epochs)
  ids = np.arange(len(sizes))
  return ids, *clients.batches(KEY, 0, parts, ids, batch=batch, epochs=epochs, most=most)


def train(shared, data, sizes, how='map', mesh=None, method=None, own=None):
  run = clients.training(method or methods.average(MODULE, SGD), None, how, mesh)
  ids, indices, valid = drawn(sizes)
  return jax.jit(run)(shared, own or {}, data, ids, indices, valid, KEY)


def test_every_way_to_run_clients_gives_the_same(shared, data):
  one_by_one, _, told = train(shared, data, (40, 16, 24, 8))
  mesh = Mesh(np.array(jax.devices()), ('clients',))
  for how, where in ('vmap', None), ('map', mesh), ('vmap', mesh):
    got, _, also = train(shared, data, (40, 16, 24, 8), how, where)
    for name, x in one_by_one.items():
      np.testing.assert_allclose(x, got[name], atol=1e-5)
    np.testing.assert_allclose(told['loss'], also['loss'], rtol=1e-5)


def test_a_client_is_plain_sgd_on_its_own_examples(shared, data):
  """Also where others take more steps: fedavg of one client is SGD."""
  update, _, _ = train(shared, data, (16, 40))
  ids, indices, valid = drawn((16, 40))
  assert valid.sum(1).tolist() == [2, 5] and len(ids) == 2
  step = sgd(classification(MODULE), SGD)
  params = shared['params']
  state = dict(shared, opt=SGD.init(params), skipped=jnp.int32(0))
  for chosen in indices[0, :2]:
    state, _ = step(state, (data[0][chosen], data[1][chosen]), KEY)
  for name, w in tree.named(state['params']):
    moved = w - dict(tree.named(params))[name]
    np.testing.assert_allclose(update[f'params/{name}'][0], moved, atol=1e-6)


def test_batches_are_epochs_of_the_clients_own_examples():
  parts = [np.arange(10, 26), np.arange(3)]
  indices, valid = clients.batches(KEY, 4, parts, [0, 1], batch=8, epochs=2, most=5)
  assert valid.tolist() == [[True] * 4 + [False], [True] + [False] * 4]
  assert sorted(indices[0, :4].ravel()) == sorted([*parts[0], *parts[0]])
  assert set(indices[1, 0]) == {0, 1, 2}  # smaller than a batch: some are seen more than once
  alone, _ = clients.batches(KEY, 4, parts, [1], batch=8, epochs=2, most=5)
  assert np.array_equal(alone[0], indices[1])  # whoever else takes part
  other, _ = clients.batches(KEY, 5, parts, [0], batch=8, epochs=2, most=5)
  assert not np.array_equal(other[0], indices[0])


def test_who_takes_part_is_drawn_anew_each_round():
  rounds = [clients.choose(KEY, r, 10, 0.3, 0.5) for r in range(200)]
  assert all(len(ids) == 3 and (np.diff(ids) > 0).all() for ids, _ in rounds)
  assert len({tuple(ids) for ids, _ in rounds}) > 50
  assert 0.4 < np.mean([arrives for _, arrives in rounds]) < 0.6
  assert len(clients.choose(KEY, 0, 10, 0.01, 0.0)[0]) == 1


def test_fedprox_stays_nearer(shared, data):
  far = lambda method: sum(
    float(jnp.sum(x**2)) for x in train(shared, data, (40,), method=method)[0].values()
  )
  free, held = (far(methods.average(MODULE, SGD, proximal=mu)) for mu in (0.0, 3.0))
  assert held < 0.8 * free


def test_fedprox_pulls_by_mu_from_the_second_step_on(shared, data):
  """The first begins at the shared weights; then the gradient of mu / 2 |w - w_shared|^2 joins."""
  one, two = (train(shared, data, (size,))[0] for size in (8, 16))
  held, _, _ = train(shared, data, (16,), method=methods.average(MODULE, SGD, proximal=2.0))
  ids, indices, _ = drawn((16,))
  step, state = sgd(classification(MODULE), SGD), dict(shared, opt=SGD.init(shared['params']))
  state = dict(state, skipped=jnp.int32(0))
  first, _ = step(state, (data[0][indices[0, 0]], data[1][indices[0, 0]]), KEY)
  for name, w in tree.named(first['params']):
    moved = w - dict(tree.named(shared['params']))[name]
    wanted = two[f'params/{name}'][0] - 0.1 * 2.0 * moved  # SGD's rate
    np.testing.assert_allclose(held[f'params/{name}'][0], wanted, atol=1e-6)
  assert len(ids) == 1 and set(one) == set(two)


def test_scaffold_corrects_the_direction_and_tells_how_it_moved(shared, data):
  rate, nothing = 0.1, tree.map(jnp.zeros_like, shared['params'])
  method = methods.scaffold(MODULE, SGD, rate=rate)
  begun = dict(shared, control=nothing)
  own = dict(control=tree.map(lambda x: x[None], nothing))
  plain = train(shared, data, (16,))[0]
  update, own, _ = train(begun, data, (16,), method=method, own=own)
  assert set(update) == {*plain, *(n.replace('params', 'control', 1) for n in plain)}
  for name, x in plain.items():
    np.testing.assert_allclose(update[name], x, atol=1e-6)  # all controls are 0 at first
    control = update[name.replace('params', 'control', 1)]
    np.testing.assert_allclose(control, -x / (2 * rate), atol=1e-5)  # two steps
  half = methods.scaffold(MODULE, SGD, rate=rate, part=0.5)
  less, mine, _ = train(begun, data, (16,), method=half, own=dict(
    control=tree.map(lambda x: x[None], nothing)))  # fmt: skip
  np.testing.assert_allclose(2 * less['control/out/bias'], update['control/out/bias'], atol=1e-6)
  np.testing.assert_allclose(
    mine['control']['out']['bias'], own['control']['out']['bias'], atol=1e-6
  )
  one = tree.map(jnp.ones_like, nothing)
  pulled, _, _ = train(dict(shared, control=one), data, (8,), method=method,
                       own=dict(control=tree.map(lambda x: x[None], nothing)))  # fmt: skip
  free = train(shared, data, (8,))[0]
  for name, x in free.items():
    np.testing.assert_allclose(pulled[name], x - rate, atol=1e-5)  # one step along g + c


def test_feddropout_trains_a_part_of_the_units(shared, data):
  thinned = functools.partial(methods.average, MODULE, SGD, thin=0.5, layers='fc')
  update, _, _ = train(shared, data, (16, 16), method=thinned(feeds=(('fc1', 'out'),)))
  other, _, _ = train(shared, data, (16, 16), method=thinned())
  for name, x in update.items():  # what is fed by a unit left out does not change anyway
    assert np.array_equal(x, other[name])
  moved = np.asarray(update['params/fc1/kernel'] != 0).any(1)
  assert (moved.sum(1) <= 6).all() and moved.any(1).all() and (moved[0] != moved[1]).any()
  still = ~(moved | np.asarray(update['params/fc1/bias'] != 0))
  out = np.asarray(update['params/out/kernel'])
  assert not out[still].any() and out[~still].any()  # what a missing unit feeds learns nothing
  units = methods.thinned(shared['params'], 0.5, 'fc', (('fc1', 'out'),), KEY)
  assert units['fc1']['bias'].sum() == 6 and units['out']['bias'].all()
  assert (units['fc1']['bias'] == units['out']['kernel'].T).all()
  assert (units['fc1']['kernel'] == units['fc1']['bias']).all()


def test_frozen_weights_neither_move_nor_travel(shared, data):
  method = methods.average(MODULE, SGD, frozen='fc1')
  sent = {'params/out/kernel', 'params/out/bias'}
  assert set(train(shared, data, (16,), method=method)[0]) == sent
  lead = lambda t: tree.map(lambda x: jnp.asarray(x)[None], t)
  assert set(sent_like(Cohort(method, np.arange(1), {}), lead(shared))) == sent


def test_one_liar_of_five_harms_a_mean_and_no_median(shared, data, digits):
  bold = methods.average(MODULE, optimizer('sgd', learning_rate=0.5))

  def accuracy(lie, **how):
    now = shared
    for _ in range(24):
      updates, _, _ = train(now, data, (80,) * 5, method=bold)
      updates = {name: x.at[2].multiply(lie) for name, x in updates.items()}
      rules = server.rules(**how)
      updates = jax.vmap(lambda u: server.clipped(u, rules.clip))(updates)  # noqa: B023
      update = server.combined(updates, jnp.ones(5), jnp.ones(5, bool), rules, KEY)
      now = server.moved(now, update)
    logits = MODULE.apply(dict(params=now['params']), jnp.asarray(digits.test.x))
    return float((logits.argmax(-1) == digits.test.y).mean())

  clean = accuracy(1.0)
  assert clean > 0.8 and accuracy(-10.0) < clean - 0.3
  for how in dict(combine='median'), dict(combine='trimmed', trim=0.2), dict(clip=1.5):
    assert accuracy(-10.0, **how) > clean - 0.15


def test_devices_must_divide_the_clients():
  mesh = Mesh(np.array(jax.devices()).reshape(-1, 1), ('data', 'model'))
  assert clients.along_clients(mesh, 8).axis_names == ('clients',)
  with pytest.raises(UsageError, match=r'6 clients at once, .* do not divide over 4 devices'):
    clients.along_clients(mesh, 6)
