"""The depthwise convolution of CPUs is XLA's, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction.kernels import depthwise
from reduction.kernels.depthwise import reference, shifted


@pytest.mark.parametrize('kernel, stride, shape', [
  (3, 1, (2, 6, 5, 4)), (5, 2, (4, 6, 8, 1)), (3, 2, (1, 7, 6, 3)), (1, 1, (1, 3, 3, 2)),
])  # fmt: skip
def test_values_and_gradients_are_xla_s(kernel, stride, shape, monkeypatch):
  monkeypatch.setattr(depthwise, 'CACHE', 4 * 50)  # some in parts, some whole
  random = np.random.default_rng(0)
  x = jnp.array(random.normal(size=shape), jnp.float32)
  w = jnp.array(random.normal(size=(kernel, kernel, 1, shape[3])), jnp.float32)
  total = lambda f: lambda x, w: jnp.sum(jnp.sin(f(x, w, stride)))
  found, want = (jax.jit(jax.value_and_grad(total(f), (0, 1)))(x, w) for f in (shifted, reference))
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
