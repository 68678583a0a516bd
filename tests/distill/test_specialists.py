"""Specialists: groups, samples, first weights, and eq. 5 against closed forms and descent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction import models, saved, stages, tree
from reduction.distill import specialists as ways
from reduction.errors import UsageError
from reduction.models.specialists import agreed
from reduction.net import create
from reduction.predict import logits
from reduction.run import Run

RNG = np.random.default_rng(0)


def draw(*shape):
  """Random distributions along the last axis."""
  return jnp.asarray(RNG.dirichlet(np.ones(shape[-1]), shape[:-1]), jnp.float32)


def test_models_of_all_classes_meet_at_the_arithmetic_mean():
  general, special = draw(6), draw(3, 6)
  q = agreed(general, special, jnp.zeros(3), jnp.ones((3, 6), bool), jnp.ones(3), steps=1)
  np.testing.assert_allclose(q, (general + special.sum(0)) / 4, rtol=1e-6)


def split(p, members):
  """(special, dustbin, mask) of a specialist whose distribution p [len(members) + 1] is."""
  mask = jnp.zeros(6, bool).at[jnp.array(members)].set(True)
  return jnp.zeros(6).at[jnp.array(members)].set(p[:-1]), p[-1], mask


def test_one_specialist_has_a_closed_form():
  general, members = draw(6), (1, 4)
  special, dustbin, mask = split(p := draw(3), members)
  q = agreed(general, special[None], dustbin[None], mask[None], jnp.ones(1), steps=200)
  inside = [(float(general[c]) + float(p[i])) / 2 for i, c in enumerate(members)]
  np.testing.assert_allclose(q[jnp.array(members)], inside, rtol=1e-5)
  # outside the generalist's proportions stay, at the mean of both masses
  mass = (float(general[~mask].sum()) + float(dustbin)) / 2
  np.testing.assert_allclose(q[~mask], general[~mask] / general[~mask].sum() * mass, rtol=1e-4)


def objective(q, general, pairs):
  """Eq. 5 plainly: KL(general, q) + sum KL(p_m, q with its outside summed)."""
  value = (general * jnp.log(general / q)).sum()
  for special, dustbin, mask in pairs:
    seen = jnp.where(mask, q, 1.0)
    inside = jnp.where(mask, special, 1.0)
    value += jnp.where(mask, special * jnp.log(inside / seen), 0.0).sum()
    value += dustbin * jnp.log(dustbin / jnp.where(mask, 0.0, q).sum())
  return value


def test_overlapping_specialists_reach_what_gradient_descent_reaches():
  general = draw(6)
  pairs = [split(draw(3), (0, 1)), split(draw(4), (1, 2, 3)), split(draw(3), (4, 0))]
  special, dustbins, masks = (jnp.stack(part) for part in zip(*pairs))
  q = agreed(general, special, dustbins, masks, jnp.ones(3))
  # the paper's way: logits z of q = softmax(z)
  slope = jax.jit(jax.grad(lambda z: objective(jax.nn.softmax(z), general, pairs)))
  z = jnp.zeros(6)
  for _ in range(3000):
    z -= 0.3 * slope(z)
  np.testing.assert_allclose(q, jax.nn.softmax(z), atol=2e-4)
  after = lambda n: agreed(general, special, dustbins, masks, jnp.ones(3), steps=n)
  values = [float(objective(after(n), general, pairs)) for n in (1, 2, 5, 30)]
  assert values == sorted(values, reverse=True) and q.sum() == pytest.approx(1)


def test_without_an_active_specialist_the_generalist_speaks():
  general = draw(6)
  special, dustbin, mask = split(draw(3), (1, 4))
  q = agreed(general, special[None], dustbin[None], mask[None], jnp.zeros(1))
  np.testing.assert_allclose(q, general, rtol=1e-6)


def test_classes_expected_together_are_grouped():
  # three groups, in which a net hesitates
  confusion = np.zeros((7, 7))
  for group in (0, 3), (1, 4, 6), (2, 5):
    confusion[np.ix_(group, group)] = 4.0
  labels = RNG.integers(0, 7, 3000)
  made = confusion[labels] + RNG.standard_normal((3000, 7))
  matrix = ways.covariance(made)
  p = np.asarray(jax.nn.softmax(jnp.asarray(made, jnp.float32)))
  np.testing.assert_allclose(matrix, np.cov(p.T, bias=True), atol=1e-6)
  for seed in range(5):
    assert ways.clusters(matrix, 3, seed) == ((0, 3), (1, 4, 6), (2, 5))
  assert all(len(group) > 1 for group in ways.clusters(matrix, 6, 0))
  with pytest.raises(UsageError, match='count=7 of 7 classes'):
    ways.clusters(matrix, 7, 0)


def test_half_of_the_examples_are_of_the_group_and_the_dustbin_is_corrected():
  labels = np.repeat(np.arange(5), [10, 20, 30, 40, 900])
  chosen, correction = ways.examples(labels, (1, 2), seed=0)
  inside = np.isin(labels[chosen], (1, 2))
  assert inside.sum() == 50 and len(chosen) == 100 == len(set(chosen.tolist()))
  # 50 of 50 against 50 of 950: what is not of the group is seen 19 times too rarely
  assert correction == pytest.approx(np.log(19))
  assert ways.examples(labels, (4,), seed=0)[1] == 0  # the rest, 100, is all there
  np.testing.assert_array_equal(ways.mapped(labels[[0, 10, 30, 999]], (1, 2)), [2, 0, 1, 2])


def test_the_correction_makes_a_specialist_calibrated():
  # a net that has learned the half-and-half set exactly: members 1/4 each, dustbin 1/2
  labels = np.repeat(np.arange(3), [100, 100, 1800])
  _, correction = ways.examples(labels, (0, 1), seed=0)
  found = jax.nn.softmax(jnp.log(jnp.array([0.25, 0.25, 0.5])).at[2].add(correction))
  np.testing.assert_allclose(found, [0.05, 0.05, 0.9], rtol=1e-5)


def test_first_weights_are_the_generalists():
  w = jnp.arange(10.0).reshape(1, 2, 5)
  kernel = ways.beginning(w, (1, 3), 'out/kernel')
  np.testing.assert_allclose(kernel[0], [[1, 3, 2], [6, 8, 7]])  # columns 0, 2, 4: 2 and 7
  bias = ways.beginning(jnp.zeros((1, 5)), (1, 3), 'out/bias')
  np.testing.assert_allclose(bias[0], [0, 0, np.log(3)], rtol=1e-6)
  assert ways.beginning(w, (1, 3), 'fc1/kernel') is w


def test_specialists_on_digits_are_one_net_that_is_saved_and_masked(digits, tmp_path):
  schedule = dict(steps=200, batch=60, every=100, optimizer=dict(name='adam', learning_rate=2e-3))
  run = Run(digits, seeds=(0, 1))
  net = create(models.mlp(widths=(16,)), run.key('init', 0), digits.train.x[:1])
  alive = tree.map(lambda w: jnp.abs(w) >= jnp.median(jnp.abs(w)), net.params)
  masked = net.replace(masks=alive, params=tree.keep(net.params, alive))
  general = stages.tune(**schedule)(masked, run.child('tune'))
  ask = stages.specialists(count=2, cluster_temperature=4.0, asked=2, soft=0.5, **schedule)
  found = ask(general, run.child('ask'))
  row = run.rows[-1]
  x, y = digits.test
  wrong = lambda net: [int((found.argmax(1) != y).sum()) for found in logits(net, x)]
  assert row['kind'] == 'specialists' and row['test_errors'] == wrong(found)
  assert row['generalist_errors'] == wrong(general)
  assert np.mean(row['test_errors']) <= 1.2 * np.mean(row['generalist_errors'])
  assert len([r for r in run.rows if r['kind'] == 'specialist']) == row['specialists'] > 0
  for w, mask in zip(tree.leaves(found.params), tree.leaves(found.masks)):
    assert not np.asarray(w)[~np.asarray(mask)].any()
  p = np.exp(logits(found, digits.test.x[:20]))
  np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-4)
  saved.write(tmp_path, found)
  assert saved.read(tmp_path, models).module == found.module
