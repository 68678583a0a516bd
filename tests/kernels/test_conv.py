"""The CPU's convolution is XLA's, value and gradients, for every shape that networks use."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.test_util import check_grads

from reduction.kernels import conv
from reduction.models.layers import Conv


@functools.partial(jax.jit, static_argnums=(0, 3, 4))  # op by op it compiles far longer
def run(f, x, w, strides, padding):
  """(value, gradients) of a loss that weighs all outputs differently."""
  out = f(x, w, strides, padding)
  weights = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
  loss = lambda x, w: (f(x, w, strides, padding) * weights).sum()
  return out, jax.grad(loss, (0, 1))(x, w)


def both(x, w, strides, padding):
  """`run` of each form."""
  return [run(f, x, w, strides, padding) for f in (conv.reference, conv.chunked)]


def by_hand(x, w, strides, padding):
  """`run` in float64, tap by tap: XLA's own gradient is wrong, or aborts, where padding is large.

  (JAX 0.10 on a CPU: x [5, 7, 7, 2], w [2, 2, 2, 3], padding ((2, 2), (2, 0)), off by its size.)
  """
  x, w = (np.asarray(a, np.float64) for a in (x, w))
  padded = np.pad(x, ((0, 0), *padding, (0, 0)))
  height, width = (
    (n - k) // s + 1 for n, k, s in zip(padded.shape[1:3], w.shape[:2], strides, strict=True)
  )
  seen = lambda a, i, j: a[
    :, i : i + (height - 1) * strides[0] + 1 : strides[0],
    j : j + (width - 1) * strides[1] + 1 : strides[1],
  ]  # fmt: skip
  taps = list(np.ndindex(*w.shape[:2]))
  out = sum(seen(padded, i, j) @ w[i, j] for i, j in taps)
  weights = np.cos(np.arange(out.size, dtype=np.float32)).reshape(out.shape)
  back, dw = np.zeros_like(padded), np.zeros_like(w)
  for i, j in taps:
    seen(back, i, j)[...] += weights @ w[i, j].T
    dw[i, j] = np.einsum('nhwc,nhwo->co', seen(padded, i, j), weights)
  (top, _), (left, _) = padding
  dx = back[:, top : top + x.shape[1], left : left + x.shape[2]]
  return tuple(jax.tree.map(np.float32, (out, (dx, dw))))


def assert_close(a, b, tolerance=1e-5):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert x.shape == y.shape
    scale = float(jnp.abs(x).max()) or 1.0
    np.testing.assert_allclose(x / scale, y / scale, atol=tolerance)


@settings(deadline=None, max_examples=12)
@given(
  st.tuples(*[st.integers(1, n) for n in (6, 7, 7, 3)]), st.tuples(*[st.integers(1, 3)] * 3),
  st.tuples(*[st.integers(1, 3)] * 2), st.tuples(*[st.integers(0, 2)] * 4),
)  # fmt: skip
def test_any_shape_stride_and_padding(shape, kernel, strides, pads):
  padding = (pads[:2], pads[2:])
  kernel = tuple(min(k, n + sum(p)) for k, n, p in zip(kernel, shape[1:3], padding)) + kernel[2:]
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=shape), jnp.float32)
  w = jnp.asarray(rng.normal(size=(*kernel[:2], shape[3], kernel[2])), jnp.float32)
  assert_close(by_hand(x, w, strides, padding), run(conv.chunked, x, w, strides, padding))


@pytest.mark.parametrize('cache', [2**8, 2**14, 2**30])
def test_the_number_of_images_at_a_time_changes_nothing(monkeypatch, cache):
  monkeypatch.setattr(conv, 'CACHE', cache)
  rng = np.random.default_rng(1)
  x = jnp.asarray(rng.normal(size=(12, 8, 8, 5)), jnp.float32)
  w = jnp.asarray(rng.normal(size=(3, 3, 5, 7)), jnp.float32)
  assert_close(*both(x, w, (1, 1), ((1, 1), (1, 1))))
  assert_close(*both(x, w, (2, 2), ((0, 1), (0, 1))))


def test_gradients_are_those_of_finite_differences():
  rng = np.random.default_rng(2)
  x = jnp.asarray(rng.normal(size=(2, 5, 5, 2)), jnp.float32)
  w = jnp.asarray(rng.normal(size=(3, 3, 2, 3)), jnp.float32)
  f = lambda x, w: conv.chunked(x, w, (2, 2), ((1, 1), (1, 1)))
  check_grads(f, (x, w), order=1, modes=['rev'], rtol=2e-2)


def test_patches_by_hand():
  x = jnp.arange(9.0).reshape(1, 3, 3, 1)
  got = conv.patches(x, (2, 2), (1, 1), ((0, 0), (0, 0)))
  assert got[0].tolist() == [[[0, 1, 3, 4], [1, 2, 4, 5]], [[3, 4, 6, 7], [4, 5, 7, 8]]]


def test_a_flax_layer_uses_it_and_gives_flax_s_numbers(monkeypatch):
  seen = []
  chunked = conv.chunked
  monkeypatch.setattr(conv, 'chunked', lambda *a: seen.append(a[2:]) or chunked(*a))
  x = jax.random.normal(jax.random.key(0), (4, 9, 9, 3))
  for settings_ in (dict(), dict(strides=(2, 2)), dict(padding='VALID'), dict(use_bias=False)):
    mine, flax = (c(6, (3, 3), **settings_) for c in (Conv, nn.Conv))
    variables = flax.init(jax.random.key(1), x)
    assert_close(flax.apply(variables, x), mine.apply(variables, x))
  assert len(seen) == 4
  # what has no form of its own is XLA's
  Conv(6, (3, 3), feature_group_count=3).init_with_output(jax.random.key(1), x)
  Conv(6, (3, 3), kernel_dilation=(2, 2)).init_with_output(jax.random.key(1), x)
  Conv(6, (3, 3), dtype=jnp.bfloat16).init_with_output(jax.random.key(1), x)
  assert len(seen) == 4


def test_it_runs_in_a_scan_and_under_vmap():
  rng = np.random.default_rng(3)
  x = jnp.asarray(rng.normal(size=(3, 4, 6, 6, 2)), jnp.float32)
  w = jnp.asarray(rng.normal(size=(3, 3, 3, 2, 2)), jnp.float32)
  one = lambda x, w: conv.chunked(x, w, (1, 1), ((1, 1), (1, 1)))
  each = jnp.stack([one(a, b) for a, b in zip(x, w)])
  assert_close(each, jax.vmap(one)(x, w))
  assert_close(each, lax.map(lambda ab: one(*ab), (x, w)))
