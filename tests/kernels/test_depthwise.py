"""The depthwise convolution of CPUs is XLA's, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction.kernels import depthwise, native
from reduction.kernels.depthwise import convolve, reference

WITHOUT = pytest.param(False, id='XLA')
WITH = pytest.param(
  True, id='native',
  marks=pytest.mark.skipif(not native.ready('depthwise'), reason='no C++ compiler'),
)  # fmt: skip


@pytest.fixture(params=[WITHOUT, WITH])
def form(request, monkeypatch):
  """The convolution by XLA's operations, and by the native kernel."""
  monkeypatch.setattr(depthwise, 'ready', lambda *arrays: request.param)


@pytest.mark.parametrize('kernel, stride, shape', [
  (3, 1, (2, 6, 5, 4)), (5, 2, (4, 6, 8, 1)), (3, 2, (1, 7, 6, 3)), (1, 1, (1, 3, 3, 2)),
  (7, 3, (9, 8, 5, 23)), (9, 1, (2, 3, 4, 16)), (5, 1, (17, 16, 16, 37)), (3, 1, (0, 4, 4, 8)),
])  # fmt: skip
def test_values_and_gradients_are_xla_s(kernel, stride, shape, form, monkeypatch):
  monkeypatch.setattr(depthwise, 'CACHE', 4 * 50)  # some in parts, some whole
  random = np.random.default_rng(0)
  x = jnp.array(random.normal(size=shape), jnp.float32)
  w = jnp.array(random.normal(size=(kernel, kernel, 1, shape[3])), jnp.float32)
  total = lambda f: lambda x, w: jnp.sum(jnp.sin(f(x, w, stride)))
  found, want = (jax.jit(jax.value_and_grad(total(f), (0, 1)))(x, w) for f in (convolve, reference))
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_axes_of_their_own(form):
  random = np.random.default_rng(0)
  x = jnp.array(random.normal(size=(2, 7, 6, 3)), jnp.float32)
  w = jnp.array(random.normal(size=(3, 2, 1, 3)), jnp.float32)
  stride, pad = (2, 1), ((0, 1), (1, 0))

  def xla(x, w):
    numbers = ('NHWC', 'HWIO', 'NHWC')
    return jax.lax.conv_general_dilated(
      x, w, stride, pad, dimension_numbers=numbers, feature_group_count=3
    )

  total = lambda f: lambda x, w: jnp.sum(jnp.sin(f(x, w)))
  both = (lambda x, w: convolve(x, w, stride, pad)), xla
  found, want = (jax.jit(jax.value_and_grad(total(f), (0, 1)))(x, w) for f in both)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@WITH.marks[0]
def test_many_nets_are_as_one_after_another():
  random = np.random.default_rng(0)
  x = jnp.array(random.normal(size=(3, 2, 6, 6, 5)), jnp.float32)
  w = jnp.array(random.normal(size=(3, 3, 3, 1, 5)), jnp.float32)
  slope = jax.grad(lambda x, w: jnp.sum(jnp.sin(convolve(x, w, 2))), (0, 1))
  found = jax.jit(jax.vmap(slope))(x, w)
  for r in range(3):
    for many, one in zip(found, slope(x[r], w[r])):
      np.testing.assert_array_equal(many[r], one)


@WITH.marks[0]
def test_threads_change_no_bit_of_a_gradient(monkeypatch):
  random = np.random.default_rng(0)
  x = jnp.array(random.normal(size=(40, 12, 12, 24)), jnp.float32)
  w = jnp.array(random.normal(size=(5, 5, 1, 24)), jnp.float32)
  slope = jax.grad(lambda x, w: jnp.sum(jnp.sin(convolve(x, w, 1))), (0, 1))
  every = slope(x, w)
  monkeypatch.setenv(native.THREADS, '1')
  for one, two in zip(every, slope(x, w)):
    np.testing.assert_array_equal(one, two)
