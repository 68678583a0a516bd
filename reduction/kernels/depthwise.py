"""Depthwise convolution: XLA's own, and one for CPUs, where XLA's takes up to 50 times as long."""

import jax
import jax.numpy as jnp
from jax import lax


def reference(x, w, stride: int) -> jax.Array:
  """`lax.conv_general_dilated` by channel, padded by k // 2. x: [n, h, w, c], w: [k, k, 1, c]."""
  pad = (w.shape[0] // 2,) * 2
  return lax.conv_general_dilated(
    x, w, (stride, stride), (pad, pad), dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=x.shape[3],
  )  # fmt: skip


def shifted(x, w, stride, padding=None) -> jax.Array:
  """`reference` as a sum of shifted images, which XLA makes one loop over vectors of channels.

  w: [kh, kw, 1, c]. stride: one for both axes, or of each. padding: ((top, bottom), (left, right)).
  """
  k, (n, _, _, c) = w.shape[:2], x.shape
  stride = (stride,) * 2 if isinstance(stride, int) else stride
  padding = [(size // 2,) * 2 for size in k] if padding is None else padding
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  rows, columns = ((x.shape[a + 1] - k[a]) // stride[a] + 1 for a in (0, 1))
  total = jnp.zeros((), x.dtype)
  for i in range(k[0]):
    for j in range(k[1]):
      ends = n, i + (rows - 1) * stride[0] + 1, j + (columns - 1) * stride[1] + 1, c
      total += lax.slice(x, (0, i, j, 0), ends, (1, *stride, 1)) * w[i, j, 0]
  return total


def depthwise(x, w, stride: int) -> jax.Array:
  """`shifted` on a CPU, `reference` on an accelerator."""
  return (shifted if jax.default_backend() == 'cpu' else reference)(x, w, stride)
