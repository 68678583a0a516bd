"""Fake quantization and LSQ: values by `snapped`, gradients by the papers' formulas."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction import tree
from reduction.errors import UsageError
from reduction.net import Net, create
from reduction.predict import logits
from reduction.qtensor import Scheme, dequantize
from reduction.quantize import Grid, grid, qat, snapped

RNG = np.random.default_rng(0)
W = RNG.normal(size=(20, 6)).astype(np.float32)
G = RNG.normal(size=(20, 6)).astype(np.float32)  # what flows back
SCHEMES = [
  Scheme(bits, group, symmetric=True)
  for bits in (2, 4)
  for group in (5, 8, 'channel', 'tensor')  # 8 leaves 4 rows at the end
]


def groups(scheme):
  """(slices of rows and columns of a group, its place among scales)"""
  if scheme.group == 'tensor':
    return [((slice(0, 20), slice(0, 6)), (0, 0))]
  size = scheme.size(20)
  return [
    ((slice(g * size, min(g * size + size, 20)), slice(c, c + 1)), (g, c))
    for g in range(scheme.groups(20))
    for c in range(6)
  ]


def pulled(f, *args):
  """(f of args, the gradients that G gives them)"""

  @jax.jit
  def both(*args):
    value, back = jax.vjp(f, *args)
    return value, back(jnp.asarray(G))

  return jax.tree.map(np.asarray, both(*args))


@pytest.mark.parametrize('scheme', [Scheme(2, 5), Scheme(3, 8), Scheme(4, 'tensor', True)], ids=str)
def test_forward_is_rounding_and_backward_is_the_identity(scheme):
  value, (slope,) = pulled(lambda w: qat.straight(w, grid(w, scheme), scheme), W)
  assert np.array_equal(value, jax.jit(snapped, static_argnums=1)(W, scheme))
  assert np.array_equal(slope, G)  # the grid covers all weights


def test_no_gradient_where_codes_are_cut_off():
  w = jnp.array([[-2.0], [-1.4], [0.2], [1.0], [2.4], [2.6]])  # codes of 1 from -1 to 2
  by = Grid(jnp.ones((1, 1)), jnp.ones((1, 1)))
  scheme = Scheme(2, 'channel')
  value, slope = jax.value_and_grad(lambda w: qat.straight(w, by, scheme).sum())(w)
  assert value == -1 - 1 + 0 + 1 + 2 + 2
  assert slope[:, 0].tolist() == [0, 1, 1, 1, 1, 0]


@pytest.mark.parametrize('scheme', SCHEMES, ids=str)
def test_lsq_is_the_papers(scheme):
  least, most = -(2 ** (scheme.bits - 1)), 2 ** (scheme.bits - 1) - 1
  first = np.asarray(jax.jit(qat.first_step, static_argnums=1)(W, scheme))
  step = 0.3 * first  # so that weights of 4 bits are cut off too
  value, (by_weight, by_step) = pulled(lambda w, s: qat.lsq(w, s, scheme), W, step)
  for part, at in groups(scheme):
    w, g = W[part], G[part]
    assert np.isclose(first[at], 2 * abs(w).mean() / np.sqrt(most), rtol=1e-5)
    v = w / step[at]
    inside = (least < v) & (v < most)
    assert np.allclose(value[part], np.round(np.clip(v, least, most)) * step[at], atol=1e-6)
    assert np.array_equal(by_weight[part], np.where(inside, g, 0))
    slope = np.where(inside, np.round(v) - v, np.where(v <= least, least, most))
    expected = (g * slope).sum() / np.sqrt(w.size * most)
    assert np.isclose(by_step[at], expected, rtol=1e-4, atol=1e-6)
  assert 0 < (by_weight == 0).mean() < 0.8 and by_step.shape == step.shape


def test_the_gradient_of_the_step_is_that_of_the_values_between_codes():
  # with codes held, value = code * step: a difference in step gives -Qn and Qp beyond the ends.
  # inside, round(v) - v is what moving v there costs: the straight-through part is taken off
  scheme, h, step = Scheme(3, 'channel', True), 1e-4, np.full((1, 6), 0.37)
  _, (analytic,) = pulled(lambda s: qat.lsq(jnp.asarray(W), s, scheme), step.astype(np.float32))
  w = W.astype(np.float64)
  codes = np.clip(np.round(w / step), -4, 3)

  def smoothed(s):
    return np.where((w / step > -4) & (w / step < 3), s * (codes + w / s - w / step), s * codes)

  numeric = ((smoothed(step + h) - smoothed(step - h)) / (2 * h) * G).sum(0, keepdims=True)
  assert np.allclose(analytic, numeric / np.sqrt(20 * 3), rtol=1e-3, atol=1e-5)


def test_a_step_descends_to_less_error():
  scheme, w = Scheme(3, 5, symmetric=True), jnp.asarray(W)
  loss = lambda s: jnp.square(qat.lsq(w, s, scheme) - w).sum()

  @jax.jit
  def descend():
    first = 1.5 * qat.first_step(w, scheme)
    last = jax.lax.fori_loop(0, 150, lambda i, s: s - 0.02 * jax.grad(loss)(s), first)
    return loss(first), loss(last)

  before, after = descend()
  assert after < 0.7 * before


def test_steps_begin_with_the_weights_that_pruning_left():
  scheme, w = Scheme(4, 'channel', True), np.tile(W, (2, 1))
  w[20:] = 0
  assert np.allclose(qat.first_step(w, scheme), qat.first_step(W, scheme))
  nothing = qat.first_step(np.zeros((4, 1), np.float32), scheme)
  assert nothing == 1


class Two(nn.Module):
  @nn.compact
  def __call__(self, x, train=False):
    return nn.Dense(6, name='b')(nn.relu(nn.Dense(20, name='a')(x)))


@pytest.mark.parametrize(
  'plan',
  [
    qat.Plan(Scheme(2, 8), ('a', 'b')),
    qat.Plan(Scheme(4, 'tensor', True), ('a',)),
    qat.Plan(Scheme(2, 8, True), ('a', 'b'), learned=True),
    qat.Plan(Scheme(3, 'tensor', True), ('a', 'b'), learned=True, stored='bfloat16'),
  ],
  ids=str,
)
def test_what_is_trained_is_what_is_packed(plan):
  x = RNG.normal(size=(9, 16)).astype(np.float32)
  net = create(Two(), jax.random.split(jax.random.key(0)), x)
  masks = tree.map(lambda w: RNG.random(w.shape) < 0.6, net.params)
  params = tree.map(lambda w, m: np.where(m, w, 0), net.params, masks)
  net = qat.prepared(net.replace(params=params, masks=masks), plan)
  small = qat.finished(net)
  exact = logits(net, x)
  assert np.allclose(logits(small, x), exact, atol=1e-5)
  assert not np.allclose(logits(Net(Two(), params), x), exact, atol=1e-2)
  assert ('a/kernel_step' in tree.names(net.params)) == plan.learned
  assert not np.asarray(dequantize(small.params['a']['kernel']))[~masks['a']['kernel']].any()


def test_learned_steps_are_trained_with_the_weights():
  plan = qat.Plan(Scheme(2, 8, True), ('a', 'b'), learned=True)
  x = RNG.normal(size=(9, 16)).astype(np.float32)
  dense = create(Two(), jax.random.key(0)[None], x)
  net = qat.prepared(dense, plan)
  loss = lambda p: jnp.square(net.module.apply(dict(params=p), x)).sum()
  slopes = dict(tree.named(jax.jit(jax.grad(loss))(tree.map(lambda w: w[0], net.params))))
  assert slopes['a/kernel_step'].shape == (2 * 20,) and slopes['b/kernel_step'].shape == (3 * 6,)
  assert all(np.asarray(g).any() for g in slopes.values())
  with pytest.raises(UsageError, match='learned steps have no zero'):
    qat.prepared(dense, plan._replace(scheme=Scheme(2, 8)))
