"""The recommender: what must not matter does not, and scores are products of two vectors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction import models
from reduction.errors import UsageError
from reduction.models.recommend import Pool

SIZES = dict(layers=1, width=16, heads=2, inner=24, vocabulary=30, history=3, length=4, out=6,
             hidden=5)  # fmt: skip
MODULE = models.recommender(**SIZES)
RNG = np.random.default_rng(0)
X = RNG.integers(1, 30, (2, 8, 4)).astype(np.int32)  # 3 clicks, 5 offered
X[:, :, 3] = 0
flat = lambda x: jnp.asarray(x.reshape(len(x), -1))


@functools.cache
def params():
  return jax.jit(MODULE.init)(jax.random.key(0), flat(X))['params']


@jax.jit
def scored(params, x):
  return MODULE.apply(dict(params=params), x)


def scores(x):
  return np.asarray(scored(params(), flat(x)))


def test_order_of_clicks_and_empty_titles_do_not_matter():
  assert scores(X).shape == (2, 5)
  turned = X.copy()
  turned[:, :3] = X[:, [2, 0, 1]]
  np.testing.assert_allclose(scores(turned), scores(X), atol=1e-5)
  offered = X.copy()
  offered[:, 3:] = X[:, [7, 6, 5, 4, 3]]
  np.testing.assert_allclose(scores(offered), scores(X)[:, ::-1], atol=1e-5)
  short, empty = X.copy(), X.copy()
  short[:, 1:3] = X[:, :1]  # the same click three times
  empty[:, 1:3] = 0
  np.testing.assert_allclose(scores(short), scores(empty), atol=1e-5)


def test_a_user_without_clicks_likes_all_alike():
  none = X.copy()
  none[:, :3] = 0
  np.testing.assert_allclose(scores(none), 0, atol=1e-6)


def test_pooling_by_hand():
  pool, x = Pool(1), jnp.array([[1.0], [3.0], [5.0]])
  params = dict(
    key=dict(kernel=jnp.ones((1, 1)), bias=jnp.zeros(1)),
    query=dict(kernel=jnp.full((1, 1), 2.0), bias=jnp.zeros(1)),
  )  # fmt: skip
  weights = np.exp(2 * np.tanh([1.0, 3.0]))
  wanted = (weights * [1, 3]).sum() / weights.sum()
  got = pool.apply(dict(params=params), x, jnp.array([True, True, False]))
  np.testing.assert_allclose(got, [wanted], rtol=1e-6)


def test_wrong_sizes_are_refused():
  with pytest.raises(UsageError, match='32 tokens are not 8 titles of 5'):
    models.recommender(**dict(SIZES, length=5)).init(jax.random.key(0), flat(X))
  module, longer = models.recommender(**SIZES), jnp.concatenate([flat(X)] * 2, 1)
  variables = jax.eval_shape(module.init, jax.random.key(0), flat(X))
  apply = lambda train: jax.eval_shape(
    lambda v, x: module.apply(v, x, train, rngs={'dropout': jax.random.key(1)}), variables, longer
  )
  assert apply(False).shape[1] > module.classes  # to rank, not to train on
  with pytest.raises(UsageError, match='64 tokens are not 8 titles of 4'):
    apply(True)
  with pytest.raises(UsageError, match='heads=3 must divide'):
    models.recommender(**dict(SIZES, heads=3))
