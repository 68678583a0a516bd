"""Channels kept in float or scaled up: their bounds, and counts by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction.qtensor import Scheme
from reduction.quantize import salient, snapped

RNG = np.random.default_rng(0)
W = RNG.standard_normal((44, 6)).astype(np.float32)
SCHEMES = [Scheme(3, 16), Scheme(3, 'channel'), Scheme(4, 'tensor', True)]  # 16 leaves 12 rows


@pytest.mark.parametrize(
  'share, count', [(0, 0), (0.001, 1), (0.01, 1), (0.05, 2), (0.5, 22), (1, 44)]
)
def test_the_highest_scores_are_chosen_and_at_least_one(share, count):
  scores = RNG.permutation(44) // 2  # every score twice
  got = np.flatnonzero(salient.chosen(jnp.asarray(scores), share))
  assert got.tolist() == sorted(np.argsort(-scores, kind='stable')[:count])


@pytest.mark.parametrize('scheme', SCHEMES, ids=str)
def test_from_rounding_to_the_float_kernel(scheme):
  rounded = np.asarray(snapped(W, scheme))
  share = lambda share: salient.chosen(jnp.asarray(abs(W).sum(1)), share)
  assert np.array_equal(salient.mixed(W, share(0), scheme), rounded)
  assert np.array_equal(salient.mixed(W, share(1), scheme), W)
  keep = np.asarray(share(0.1))
  some = np.asarray(salient.mixed(W, keep, scheme))
  assert np.array_equal(some[keep], W[keep]) and np.array_equal(some[~keep], rounded[~keep])


@pytest.mark.parametrize('scheme', SCHEMES, ids=str)
def test_a_scale_of_1_rounds_and_one_for_all_channels_changes_no_code(scheme):
  up = salient.chosen(jnp.arange(44), 0.1)
  rounded = np.asarray(jax.jit(snapped, static_argnums=1)(W, scheme))
  one = jax.jit(salient.scaled, static_argnums=3)(W, up, 1.0, scheme)
  assert np.array_equal(one, rounded)
  all_twice = salient.scaled(W, jnp.ones(44, bool), 2.0, scheme)
  assert np.array_equal(all_twice, rounded)  # twice as large steps, exactly


def test_what_is_scaled_rounds_finer_where_the_step_stays():
  w = np.zeros((16, 1), np.float32)
  w[0], w[1], w[2] = -4, 3, 0.6  # 7 steps of 1
  up = jnp.arange(16) == 2
  error = lambda s: abs(salient.scaled(w, up, s, Scheme(3, 16)) - w)[2, 0]
  # 0.6 is 1; 1.2 / 2 is 0.5, off by 0.1; 2.4 / 4 is 0.5
  assert [round(float(error(s)), 4) for s in (1.0, 2.0, 4.0)] == [0.4, 0.1, 0.1]


def test_steps_that_grow_are_counted_by_hand():
  w = np.array([[1, 4], [-2, 1], [3, 1], [-1, -3]], np.float32)  # groups of 2 rows
  up = np.array([True, False, False, True])
  # ranges with 0: 1 to -2, 4 and 0; 3 to -1, 1 to -3. Times 2: 2 to -2, 8; 3 to -2, 1 to -6
  expected = [[4 / 3, 2], [5 / 4, 7 / 4]]
  assert np.allclose(salient.growth(w, up, 2.0, Scheme(4, 2)), expected)
  half = salient.growth(w, np.array([False, False, False, True]), 2.0, Scheme(4, 2))
  assert np.mean(np.asarray(half) != 1) == 0.5
  assert np.all(salient.growth(w, up, 1.0, Scheme(4, 2)) == 1)


def test_scores():
  mean, key = jnp.asarray(abs(W).sum(1)), jax.random.key(0)
  score = lambda by, key=key: np.asarray(salient.scores(by, W, mean, key))
  assert np.array_equal(score('activation'), mean)
  assert np.allclose(score('weight'), np.sqrt((W**2).sum(1)))
  assert not np.array_equal(score('random'), score('random', jax.random.key(1)))
