"""SmoothQuant: its scales by hand, and products that are really of integers, bit for bit."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction import tree
from reduction.errors import UsageError
from reduction.models import served
from reduction.models.served import Served
from reduction.qtensor import Scheme, unpack
from reduction.quantize import awq, inputs, quantize, smooth
from reduction.quantize.calibrate import added, calibrate, empty
from tests.quantize.blocks import Block, filled

EIGHT = Scheme(8, 'channel', symmetric=True)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 7, 48)).astype(np.float32) * np.exp(RNG.normal(size=48)).astype(np.float32)
W = RNG.normal(size=(48, 12)).astype(np.float32)


@pytest.mark.parametrize('strength', [0.0, 0.5, 0.8])
def test_scales_are_the_papers(strength):
  other, sums = 3 * RNG.normal(size=(48, 5)).astype(np.float32), added(empty(48), X)
  found = smooth.scale(sums, [jnp.asarray(W), jnp.asarray(other)], strength=strength)
  for j in range(48):
    most = abs(np.concatenate([W[j], other[j]])).max()
    expected = abs(X[..., j]).max() ** strength / most ** (1 - strength)
    assert np.isclose(found[j], expected, rtol=1e-5)
  ties = jnp.arange(48) // 2
  tied = smooth.scale(sums, [jnp.asarray(W), jnp.asarray(other)], strength=strength, ties=ties)
  assert np.allclose(tied, np.repeat(np.asarray(found).reshape(-1, 2).mean(1), 2), rtol=1e-5)


def test_half_makes_inputs_and_weights_equally_hard():
  sums = added(empty(48), X)
  scale = np.asarray(smooth.scale(sums, [jnp.asarray(W)]))
  assert np.allclose(abs(X / scale).max((0, 1)), abs(W * scale[:, None]).max(1), rtol=1e-4)


def test_channels_of_which_nothing_is_known_stay():
  x, w = X.copy(), W.copy()
  x[..., 3] = w[5] = 0
  scale = smooth.scale(added(empty(48), x), [jnp.asarray(w)])
  assert scale[3] == scale[5] == 1 and np.isfinite(scale).all() and (scale > 0).all()


# a transformer block whose norms make two channels fifty times as large as their weights expect
BLOCK, LARGE = Block(nn.LayerNorm), jnp.array([2, 9])
TOKENS = [np.random.default_rng(i).normal(size=(4, 3, 16)).astype(np.float32) for i in range(3)]


@functools.cache
def outliers():
  """(params by path, inputs, their statistics)"""
  params = filled(BLOCK, TOKENS[0])
  for norm, readers in dict(norm1='qkv', norm2=('gate', 'up')).items():
    for gain in 'scale', 'bias':
      params[norm][gain] = params[norm][gain].at[LARGE].mul(50.0)
    for name in readers:
      params[name]['kernel'] = params[name]['kernel'].at[LARGE].divide(50.0)
  by = inputs.find(BLOCK, params, TOKENS[0])
  return dict(tree.named(params)), by, calibrate(BLOCK, params, TOKENS, by)


@functools.cache
def smoothed():
  """(params by path, statistics) after smoothing"""
  flat, by, sums = outliers()

  @jax.jit
  def smoothed(flat, sums):
    kernels = lambda one: [flat[f'{linear}/kernel'] for linear in one.linears]
    scales = {
      one.linears[0]: smooth.scale(sums[one.linears[0]], kernels(one), ties=jnp.asarray(one.ties))
      for one in by
      if one.sources
    }
    divided = {n: awq.scaled(s, scales[n]) if n in scales else s for n, s in sums.items()}
    return awq.folded(flat, by, scales), divided

  return smoothed(flat, sums)


@functools.cache
def rounding(scheme):
  return jax.jit(
    lambda kernels: {n: quantize(w, scheme, dtype=jnp.float16) for n, w in kernels.items()}
  )


def packed(flat, sums, activations, scheme=EIGHT):
  """(module, params) of the block in 8 bits."""
  flat = dict(flat)
  kernels = {n: flat[f'{n}/kernel'] for one in outliers()[1] for n in one.linears}
  rounded = rounding(scheme)(kernels)
  for one in outliers()[1]:
    for linear in one.linears:
      flat[f'{linear}/kernel'] = rounded[linear]
      if activations == 'tensor':
        flat[f'{linear}/input_step'] = served.step(sums[one.linears[0]].most.max())
  return Served(BLOCK, activations), tree.nest(flat)


@functools.cache
def applied(module):
  return jax.jit(lambda params: module.apply({'params': params}, np.concatenate(TOKENS)))


def output(module, params):
  return np.asarray(applied(module)(params))


def test_smoothing_changes_no_function():
  flat, by, _ = outliers()
  assert all(one.sources for one in by)
  new, sums = smoothed()
  assert not np.allclose(flat['norm1/scale'], new['norm1/scale'])
  exact = output(BLOCK, tree.nest(flat))
  assert np.allclose(output(BLOCK, tree.nest(new)), exact, rtol=1e-5, atol=1e-5 * abs(exact).max())
  again = calibrate(BLOCK, tree.nest(new), TOKENS, by)
  for name, one in sums.items():
    assert np.allclose(one.most, again[name].most, rtol=1e-4)


@pytest.mark.parametrize('group', ['channel', 'tensor'])
@pytest.mark.parametrize('activations', ['token', 'tensor'])
def test_smoothing_more_than_halves_the_error_that_outliers_make(activations, group):
  flat, _, sums = outliers()
  exact = output(BLOCK, tree.nest(flat))
  error = lambda *net: np.sqrt(((output(*net) - exact) ** 2).mean() / (exact**2).mean())
  scheme = Scheme(8, group, symmetric=True)
  naive = error(*packed(flat, sums, activations, scheme))
  better = error(*packed(*smoothed(), activations, scheme))
  assert better < 0.5 * naive and better < 0.02, (better, naive)


def dots(jaxpr):
  """Every product of a program and of those inside it: its operands' types and its result's."""
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'dot_general':
      yield *(v.aval.dtype.name for v in equation.invars), equation.outvars[0].aval.dtype.name
    for inner in equation.params.values():
      if hasattr(inner, 'jaxpr'):
        yield from dots(inner.jaxpr)


@pytest.mark.parametrize('activations', ['token', 'tensor', 'none'])
def test_products_with_packed_kernels_are_of_integers(activations):
  flat, _, sums = outliers()
  module, params = packed(flat, sums, activations)
  run = lambda params, x: module.apply({'params': params}, x)
  found = list(dots(jax.make_jaxpr(run)(params, TOKENS[0]).jaxpr))
  of_integers = found.count(('int8', 'int8', 'int32'))
  assert len(found) == 9 and of_integers == (0 if activations == 'none' else 7)  # qk and v stay
  assert set(found) <= {('int8', 'int8', 'int32'), ('float32',) * 3}


class One(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(12, use_bias=False, name='one')(x)


@pytest.mark.parametrize('scheme', [EIGHT, Scheme(8, 'tensor', True)], ids=str)
@pytest.mark.parametrize('activations', ['token', 'tensor'])
def test_a_linear_is_numpys_integers_bit_for_bit(activations, scheme):
  x = X.copy()
  x[0, 0] = 0  # a token of zeros
  kernel = quantize(jnp.asarray(W), scheme, dtype=jnp.float16)
  one = np.float32(1 / 127)
  by = np.float32(abs(X[1:]).max()) if activations == 'tensor' else abs(x).max(-1, keepdims=True)
  by = np.where(by == 0, np.float32(1), by * one)
  x8 = np.clip(np.round(x / by), -127, 127).astype(np.int8)
  w8 = (np.asarray(unpack(kernel.data, 8, 48)).astype(np.int32) - 128).astype(np.int8)
  sums = x8.astype(np.int32) @ w8.astype(np.int32)
  expected = sums.astype(np.float32) * by * np.asarray(kernel.scale, np.float32)
  params = dict(kernel=kernel, **dict(input_step=by) if activations == 'tensor' else {})
  module = Served(One(), activations)
  for apply in module.apply, jax.jit(module.apply):  # as operations alone, and as a program
    assert np.array_equal(apply(dict(params=dict(one=params)), x), expected)
  assert abs(w8).max() == abs(x8).max() == 127
  assert np.allclose(expected, x @ W, atol=0.02 * abs(x @ W).max())


def test_what_is_not_finite_stays_so():
  kernel = quantize(jnp.asarray(W), EIGHT)
  found = np.asarray(served.product(jnp.asarray(X).at[0, 1, 3].set(jnp.nan), kernel))
  assert np.isnan(found[0, 1]).all() and np.isnan(found).sum() == 12


@pytest.mark.parametrize('activations', ['token', 'tensor'])
def test_errors_are_those_of_each_linear(activations):
  flat, by, sums = outliers()
  params = packed(flat, sums, activations)[1]
  kernels = {n: (params[n]['kernel'], params[n].get('input_step')) for o in by for n in o.linears}
  found = smooth.errors(BLOCK, tree.nest(flat), kernels, TOKENS)
  assert list(found) == list(kernels)
  normed = nn.LayerNorm().apply({'params': tree.nest(flat)['norm1']}, np.concatenate(TOKENS))
  exact = normed @ flat['q/kernel']
  change = jax.jit(served.product)(normed, *kernels['q']) - exact
  assert np.isclose(found['q'], (change**2).sum() / (exact**2).sum(), rtol=1e-3)
  assert 1e-6 < found['q'] < 0.1


@pytest.mark.parametrize(
  'call, says',
  [
    (lambda: Served(BLOCK, 'tokens'), "activations='tokens' must be one of none, token, tensor"),
    (lambda: served.product(X, quantize(W, Scheme(8, 16, True))), 'not of integer products'),
    (lambda: served.product(X, quantize(W, Scheme(8, 'channel'))), 'not of integer products'),
    (lambda: served.product(X, quantize(W, Scheme(4, 'channel', True))), 'not of integer prod'),
    (lambda: served.product(X, quantize(W, EIGHT), np.ones(48)), r'steps \(48,\) for one input'),
    (
      lambda: jax.eval_shape(
        lambda w: served.product(w.T, quantize(w, EIGHT)), jnp.zeros((140_000, 1))
      ),
      'sums of 140000 products overflow 32 bits',
    ),
    (
      lambda: Served(One(), 'tensor').apply(
        dict(params=dict(one=dict(kernel=quantize(W, EIGHT)))), X
      ),
      'one has no input_step',
    ),
  ],
)  # fmt: skip
def test_what_is_no_product_of_integers_is_refused(call, says):
  with pytest.raises(UsageError, match=says):
    call()
