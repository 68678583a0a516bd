"""Fake quantization and LSQ: values by `snapped`, gradients by the papers' formulas."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction import tree
from reduction.errors import UsageError
from reduction.net import Net
from reduction.qtensor import Scheme
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


@pytest.mark.parametrize('scheme', [Scheme(2, 5), Scheme(3, 8), Scheme(4, 'tensor', True)], ids=str)
def test_forward_is_rounding_and_backward_is_the_identity(scheme):
  value, back = jax.vjp(lambda w: qat.straight(w, grid(w, scheme), scheme), jnp.asarray(W))
  assert np.array_equal(value, snapped(W, scheme))
  assert np.array_equal(back(jnp.asarray(G))[0], G)  # the grid covers all weights


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
  first = np.asarray(qat.first_step(jnp.asarray(W), scheme))
  step = 0.3 * first  # so that weights of 4 bits are cut off too
  value, back = jax.vjp(lambda w, s: qat.lsq(w, s, scheme), jnp.asarray(W), jnp.asarray(step))
  by_weight, by_step = map(np.asarray, back(jnp.asarray(G)))
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
  scheme, h = Scheme(3, 'channel', True), 1e-3
  w, step = jnp.asarray(W[:, :1]), jnp.full((1, 1), 0.37)
  factor = 1 / np.sqrt(20 * 3)
  analytic = jax.grad(lambda s: (qat.lsq(w, s, scheme) * G[:, :1]).sum())(step) / factor
  codes = jnp.clip(jnp.round(w / step), -4, 3)
  smoothed = lambda s: jnp.where(
    (w / s > -4) & (w / s < 3), s * (codes + w / s - w / step), s * codes
  )  # fmt: skip
  numeric = ((smoothed(step + h) - smoothed(step - h)) / (2 * h) * G[:, :1]).sum()
  assert np.isclose(analytic.item(), numeric, rtol=1e-2)


def test_a_step_descends_to_less_error():
  scheme, w = Scheme(3, 5, symmetric=True), jnp.asarray(W)
  loss = lambda s: jnp.square(qat.lsq(w, s, scheme) - w).sum()
  step = first = 1.5 * qat.first_step(w, scheme)
  for _ in range(150):
    step = step - 0.02 * jax.grad(loss)(step)
  assert loss(step) < 0.7 * loss(first)


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
  both = [Two().init(jax.random.key(i), x)['params'] for i in range(2)]
  params = tree.map(lambda *w: jnp.stack(w), *both)
  masks = tree.map(lambda w: jax.random.bernoulli(jax.random.key(1), 0.6, w.shape), params)
  net = qat.prepared(Net(Two(), tree.keep(params, masks), masks=masks), plan)
  small = qat.finished(net)
  one = lambda t, r: tree.map(lambda w: w[r], t)
  for r in range(2):
    exact = jax.jit(net.module.apply)(dict(params=one(net.params, r)), x)
    assert np.allclose(small.module.apply(dict(params=one(small.params, r)), x), exact, atol=1e-5)
    loose = Two().apply(dict(params=one(params, r)), x)
    assert not np.allclose(exact, loose, atol=1e-2)
  assert ('a/kernel_step' in dict(tree.named(net.params))) == plan.learned
  # a gradient step: pruned weights of 0 stay 0 where they are rounded
  rounded = qat.straight(net.params['a']['kernel'], grid(net.params['a']['kernel'], plan.scheme),
                         plan.scheme)  # fmt: skip
  assert not np.asarray(rounded)[~np.asarray(masks['a']['kernel'])].any()


def test_learned_steps_are_trained_with_the_weights():
  plan = qat.Plan(Scheme(2, 8, True), ('a', 'b'), learned=True)
  x = RNG.normal(size=(9, 16)).astype(np.float32)
  params = tree.map(lambda w: w[None], Two().init(jax.random.key(0), x)['params'])
  net = qat.prepared(Net(Two(), params), plan)
  loss = lambda p: jnp.square(net.module.apply(dict(params=p), x)).sum()
  slopes = dict(tree.named(jax.grad(loss)(tree.map(lambda w: w[0], net.params))))
  assert slopes['a/kernel_step'].shape == (2 * 20,) and slopes['b/kernel_step'].shape == (3 * 6,)
  assert all(np.asarray(g).any() for g in slopes.values())
  with pytest.raises(UsageError, match='learned steps have no zero'):
    qat.prepared(Net(Two(), params), plan._replace(scheme=Scheme(2, 8)))
