"""FedKD's codec: what it keeps, what it costs, and when it sends a matrix as it is."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from reduction.errors import UsageError
from reduction.federate import codecs
from reduction.federate.codecs import factors as of

KEY = jax.random.key(0)


def sized(shape, seed=0, decay=0.5):
  """A matrix of these rows and columns whose singular values fall by decay."""
  rng = np.random.default_rng(seed)
  rows, columns = shape
  n = min(shape)
  u, _ = np.linalg.qr(rng.normal(size=(rows, n)))
  v, _ = np.linalg.qr(rng.normal(size=(columns, n)))
  return ((u * decay ** np.arange(n)) @ v.T).astype(np.float32)


def sent(x, codec, progress=0.0):
  """(what arrives of the tensor x, its part of the message, its bytes)"""
  update = dict(w=jnp.asarray(x))
  message, _ = codec.encode(update, codec.start(update), progress, KEY)
  got = codec.decode(message, update)['w']
  return np.asarray(got), message['w'], int(codec.count(message)['w'])


@pytest.mark.parametrize('method', ['svd', 'gram'])
@pytest.mark.parametrize('shape', [(40, 30), (8, 24), (1, 6), (6, 1), (5, 5), (3, 3, 4, 8)])
@settings(max_examples=5, deadline=None)
@given(energy=some.floats(0.5, 0.98), seed=some.integers(0, 99), decay=some.floats(0.3, 0.95))
def test_more_energy_than_asked_is_kept_by_the_least_rank(method, shape, energy, seed, decay):
  kernel, shape = shape, (math.prod(shape[:-1]), shape[-1])  # of a convolution, 36 x 8
  x = sized(shape, seed, decay)
  squares = np.linalg.svd(x.astype(np.float64), compute_uv=False) ** 2
  codec = codecs.low_rank(start=energy, end=energy, method=method)
  got, parts, count = sent(x.reshape(kernel), codec)
  assert got.shape == kernel
  got = got.reshape(shape)
  k = int(parts['rank'])
  assert 1 <= k <= min(shape)
  error = np.sum((x - got.astype(np.float64)) ** 2)
  assert 1 - error / squares.sum() > energy - 1e-5  # float32 sums
  if parts['whole']:
    assert np.array_equal(got, x) and count == 4 * x.size
  else:
    assert squares[: k - 1].sum() <= (energy + 1e-5) * squares.sum()
    assert count == 4 * k * sum(shape) < 4 * x.size


def test_ranks_by_hand():
  squares = jnp.array([16.0, 9.0, 4.0, 1.0])  # shares .533, .833, .967, 1
  for energy, k in (0.5, 1), (0.6, 2), (0.9, 3), (0.97, 4), (1.0, 4):
    assert int(of.rank(squares, energy)) == k
  assert int(of.rank(jnp.array([1.0, 1.0]), 0.5)) == 2  # half is not above a half
  assert int(of.rank(jnp.zeros(3), 0.95)) == 1
  assert int(of.rank(jnp.array([2.0]), 0.95)) == 1  # the authors' code drops a lone column


@settings(max_examples=20, deadline=None)
@given(seed=some.integers(0, 999), energies=some.tuples(some.floats(0.1, 1), some.floats(0.1, 1)))
def test_rank_rises_with_energy(seed, energies):
  squares = np.sort(np.random.default_rng(seed).exponential(size=12))[::-1].astype(np.float32)
  low, high = (int(of.rank(jnp.asarray(squares), e)) for e in sorted(energies))
  assert low <= high


@pytest.mark.parametrize('method', ['svd', 'gram', 'randomized'])
@pytest.mark.parametrize('shape', [(30, 20), (7, 11), (3, 3, 4, 8), (12,)])
def test_all_energy_is_exact(method, shape):
  x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
  most = dict(most=4) if method == 'randomized' else {}
  got, _, count = sent(x, codecs.low_rank(start=1.0, end=1.0, method=method, **most))
  assert np.array_equal(got, x) and count == 4 * x.size


def test_energy_grows_with_the_rounds():
  x = sized((60, 50), decay=0.9)
  codec = codecs.low_rank(start=0.5, end=0.98)
  ranks = [int(sent(x, codec, t)[1]['rank']) for t in (0.0, 0.5, 1.0)]
  assert ranks[0] < ranks[1] < ranks[2]


def test_a_sketch_finds_what_it_can_hold_and_sends_all_where_it_cannot():
  x = sized((80, 60), decay=0.6)
  codec = codecs.low_rank(start=0.95, end=0.95, method='randomized', most=12)
  got, parts, _ = sent(x, codec)
  assert int(parts['rank']) == int(sent(x, codecs.low_rank(start=0.95, end=0.95))[1]['rank'])
  assert np.sum((got - x) ** 2) < 0.05 * np.sum(x**2) and not parts['whole']
  flat = np.random.default_rng(0).normal(size=(80, 60)).astype(np.float32)
  got, parts, count = sent(flat, codec)
  assert parts['whole'] and np.array_equal(got, flat) and count == 4 * 80 * 60


def test_feedback_sends_later_what_it_held_back():
  x = sized((30, 20), decay=0.8)
  kept = np.zeros_like(x)
  codec = codecs.low_rank(start=0.6, end=0.6, feedback=True)
  update = dict(w=jnp.asarray(x), b=jnp.ones(3))
  state, total = codec.start(update), np.zeros_like(x)
  for _ in range(30):
    message, state = codec.encode(update, state, 0.0, KEY)
    total += np.asarray(codec.decode(message, update)['w'])
  kept = np.asarray(state['w'])
  np.testing.assert_allclose(total + kept, 30 * x, atol=1e-4)  # nothing is lost
  assert np.linalg.norm(total / 30 - x) < 0.1 * np.linalg.norm(x)
  plain, _, _ = sent(x, codecs.low_rank(start=0.6, end=0.6))
  assert np.linalg.norm(plain - x) > 0.3 * np.linalg.norm(x)


def test_clients_at_once_are_clients_one_by_one():
  x = np.stack([sized((20, 16), seed, 0.7) for seed in range(3)])
  codec = codecs.low_rank()
  encode = lambda w: codec.decode(codec.encode(dict(w=w), {}, 0.5, KEY)[0], dict(w=w))['w']
  np.testing.assert_allclose(jax.vmap(encode)(x), np.stack([encode(w) for w in x]), atol=1e-5)


def test_wrong_settings_are_refused():
  for wrong, says in (
    (dict(start=0.0), 'start=0.0'), (dict(end=1.5), 'end=1.5'), (dict(method='qr'), "method='qr'"),
    (dict(most=3), 'most=3'), (dict(method='randomized'), 'most=0'),
  ):  # fmt: skip
    with pytest.raises(UsageError, match=says):
      codecs.low_rank(**wrong)
