"""Counts are exact, ties go by index, and any pytree will do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reduction import models, prune
from reduction.errors import UsageError

# Weights left in LeNet-300-100 after each prune, and P_m as the paper prints it
PAPER = [100, 80.0, 64.1, 51.3, 41.1, 32.9, 26.3, 21.1, 16.9, 13.5, 10.8, 8.7, 7.0, 5.6, 4.5, 3.6]


def by_hand(scores, alive, fraction):
  """Sort what is alive by (score, index), keep the top: the definition, slowly."""
  order = sorted(np.flatnonzero(alive), key=lambda i: (-scores[i], i))
  kept = np.zeros(len(scores), bool)
  kept[order[: round(len(order) * (1 - fraction))]] = True
  return kept


@settings(deadline=None, max_examples=60)
@given(
  st.lists(st.integers(0, 3), min_size=1, max_size=12),  # few values: many ties
  st.lists(st.booleans(), min_size=12, max_size=12),
  st.sampled_from([0, 0.1, 0.25, 0.5, 0.9]),
)
def test_smallest_is_the_definition(scores, alive, fraction):
  alive = np.array(alive[: len(scores)])
  got = prune.smallest(dict(w=jnp.array(scores, jnp.float32)), dict(w=jnp.array(alive)), fraction)
  assert np.array_equal(got['w'], by_hand(np.array(scores), alive, fraction))


def test_lenet_counts_are_the_papers():
  net = models.lenet().init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))['params']
  fractions = prune.by_name(net, (('out/kernel', 0.1), ('kernel', 0.2)))
  kernels = ['fc1/kernel', 'fc2/kernel', 'out/kernel']
  cut = jax.jit(lambda masks: prune.smallest(prune.magnitude(net), masks, fractions))
  masks = prune.all_kept(net)
  for level, percent in enumerate(PAPER):
    assert round(100 * prune.kept(masks, kernels), 1) == percent, level
    masks = cut(masks)
  assert cut._cache_size() == 1
  assert all(bool(masks[layer]['bias'].all()) for layer in masks)


def test_one_more_prune_never_revives_a_weight():
  w = dict(w=jax.random.normal(jax.random.key(0), (40, 5)))
  first = prune.smallest(prune.magnitude(w), prune.all_kept(w), 0.3)
  second = prune.smallest(jax.tree.map(jnp.ones_like, w), first, 0.3)
  assert int(second['w'].sum()) == round(140 * 0.7)
  assert not bool((second['w'] & ~first['w']).any())


def test_a_traced_fraction_compiles_once_and_zero_is_the_identity():
  w = dict(w=jnp.arange(10.0))
  cut = jax.jit(lambda f: prune.smallest(w, prune.all_kept(w), f))
  assert [int(cut(f)['w'].sum()) for f in (0.0, 0.2, 0.5, 0.9)] == [10, 8, 5, 1]
  assert cut._cache_size() == 1


@pytest.mark.parametrize('fraction', [1, 1.5, -0.1, float('nan')])
def test_a_fraction_outside_0_1_is_refused(fraction):
  w = dict(w=jnp.ones(4))
  with pytest.raises(UsageError, match='must lie in'):
    prune.smallest(w, prune.all_kept(w), fraction)


def test_a_rule_that_no_weight_follows_is_refused():
  with pytest.raises(UsageError, match='no weight is named like'):
    prune.by_name(dict(fc=dict(kernel=jnp.ones(3))), (('kernle', 0.2),))


def test_flax_nnx_and_a_plain_dict_prune_and_rewind_alike():
  from flax import nnx

  class Two(nnx.Module):
    def __init__(self, rngs):
      self.fc = nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, x):
      return self.fc(x)

  net = Two(nnx.Rngs(0))
  graph, state = nnx.split(net)
  begin = nnx.to_pure_dict(state)
  plain = jax.tree.map(np.asarray, begin)
  trained = jax.tree.map(lambda w: w * jnp.linspace(0.1, 2, w.size).reshape(w.shape), begin)
  rates = prune.by_name(begin, (('kernel', 0.5),))
  masks = prune.smallest(prune.magnitude(trained), prune.all_kept(begin), rates)
  ticket = jax.tree.map(jnp.multiply, begin, masks)  # rewound: first weights under the new mask
  nnx.replace_by_pure_dict(state, ticket)
  kernel = np.asarray(nnx.merge(graph, state).fc.kernel[...])
  assert (kernel != 0).sum() == 12
  kept = np.asarray(masks['fc']['kernel'])
  assert np.array_equal(kernel[kernel != 0], plain['fc']['kernel'][kept])
  also = prune.smallest(
    prune.magnitude(jax.tree.map(np.asarray, trained)), prune.all_kept(plain), rates
  )
  assert np.array_equal(also['fc']['kernel'], masks['fc']['kernel'])
