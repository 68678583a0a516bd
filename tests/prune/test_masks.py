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
  st.lists(st.integers(0, 3), min_size=12, max_size=12),  # few values: many ties
  st.lists(st.booleans(), min_size=12, max_size=12),
  st.sampled_from([1, 2, 7, 12]),  # each size is compiled
  st.sampled_from([0, 0.1, 0.25, 0.5, 0.9]),
)
def test_smallest_is_the_definition(scores, alive, size, fraction):
  scores, alive = scores[:size], np.array(alive[:size])
  got = prune.smallest(dict(w=jnp.array(scores, jnp.float32)), dict(w=jnp.array(alive)), fraction)
  assert np.array_equal(got['w'], by_hand(np.array(scores), alive, fraction))


def test_lenet_counts_are_the_papers():
  shapes = jax.eval_shape(models.lenet().init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
  draw = np.random.default_rng(0).standard_normal
  net = jax.tree.map(lambda s: jnp.asarray(draw(s.shape, np.float32)), shapes['params'])
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


def test_together_ranks_all_leaves_of_a_group_as_one_layer():
  params = dict(conv1=dict(kernel=jnp.array([9.0, 1.0, 8.0])), conv2=dict(kernel=jnp.arange(5.0)),
                out=dict(kernel=jnp.array([0.1, 0.2])))  # fmt: skip
  rates = (('conv', 0.5), ('out', 0.5))
  groups = prune.groups(params, rates, together=True)
  assert groups == (
    prune.Group(('conv1/kernel', 'conv2/kernel'), 0.5), prune.Group(('out/kernel',), 0.5)
  )  # fmt: skip
  assert [g.names for g in prune.groups(params, rates, together=False)] == [
    ('conv1/kernel',), ('conv2/kernel',), ('out/kernel',)
  ]  # fmt: skip
  counts = prune.counts(prune.all_kept(params), groups, 1)
  assert counts.tolist() == [[8, 2], [4, 1]]
  masks = prune.largest_in_groups(params, prune.all_kept(params), groups, counts[1])
  assert masks['conv1']['kernel'].tolist() == [True, False, True]
  assert masks['conv2']['kernel'].tolist() == [False, False, False, True, True]
  assert masks['out']['kernel'].tolist() == [False, True]


def test_shuffled_masks_keep_their_counts_and_shuffled_survivors_their_values():
  key, w = jax.random.key(3), dict(a=jax.random.normal(jax.random.key(0), (20, 6)), b=jnp.ones(4))
  masks = prune.smallest(prune.magnitude(w), prune.all_kept(w), dict(a=0.7, b=None))
  moved = prune.shuffled(key, masks)
  assert int(moved['a'].sum()) == int(masks['a'].sum()) and bool(moved['b'].all())
  assert (moved['a'] != masks['a']).any()
  params = prune.shuffled_survivors(key, w, masks)
  alive, dead = np.asarray(masks['a']), ~np.asarray(masks['a'])
  before, after = np.asarray(w['a']), np.asarray(params['a'])
  assert sorted(before[alive]) == sorted(after[alive]) and (before[alive] != after[alive]).any()
  assert np.array_equal(before[dead], after[dead])


def test_other_first_weights_are_what_they_say():
  w = dict(a=jax.random.normal(jax.random.key(0), (200, 300)) * 0.1)
  off = prune.noisy(jax.random.key(1), w, 2.0)['a'] - w['a']
  assert float(off.std()) == pytest.approx(0.2, rel=0.02) and abs(float(off.mean())) < 0.01
  constant = prune.signed_constant(w)['a']
  assert np.array_equal(jnp.sign(constant), jnp.sign(w['a']))
  np.testing.assert_allclose(jnp.abs(constant), w['a'].std(), rtol=1e-6)
  other = dict(a=jax.random.normal(jax.random.key(2), (200, 300)))
  kept = prune.with_signs(other, w)['a']
  assert np.array_equal(jnp.sign(kept), jnp.sign(w['a']))
  assert np.array_equal(jnp.abs(kept), jnp.abs(other['a']))


# first and last values of four weights, and which two each criterion keeps
FIRST, LAST = [0.5, -0.1, 0.3, -0.4], [0.6, 0.9, 0.2, -0.7]


@pytest.mark.parametrize(
  'name, kept',
  [
    ('large_final', [1, 3]), ('small_final', [0, 2]), ('large_init', [0, 3]),
    ('small_init', [1, 2]), ('large_init_large_final', [0, 3]),
    ('small_init_small_final', [0, 2]), ('magnitude_increase', [1, 3]), ('movement', [1, 3]),
    ('large_final_same_sign', [0, 3]), ('magnitude_increase_same_sign', [0, 3]),
  ],
)  # fmt: skip
def test_criteria_by_hand(name, kept):
  first, last = jnp.array(FIRST), jnp.array(LAST)
  scores = prune.criterion(name)(first, last)
  assert np.flatnonzero(prune.largest(scores, jnp.ones(4, bool), 2)).tolist() == kept
  assert name in prune.CRITERIA


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
