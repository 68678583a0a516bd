"""Depthwise convolution: XLA's own, and one whose gradient is as cheap as its value.

XLA's takes up to 50 times as long on a CPU, and its gradient, or that of many nets beside each
other, is a convolution in groups of one channel, of which accelerators' libraries make little.
`shifted` is sums of shifted images: loops over vectors of channels, on a CPU over a few images at a
time that stay in its cache.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

CACHE = 2**20  # bytes of images at a time


def reference(x, w, stride: int) -> jax.Array:
  """`lax.conv_general_dilated` by channel, padded by k // 2. x: [n, h, w, c], w: [k, k, 1, c]."""
  pad = (w.shape[0] // 2,) * 2
  return lax.conv_general_dilated(
    x, w, (stride, stride), (pad, pad), dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=x.shape[3],
  )  # fmt: skip


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def shifted(x, w, stride: int) -> jax.Array:
  """`reference` as a sum of shifted images; its gradient has no gradient."""
  pad = (w.shape[0] // 2,) * 2
  return _in_parts(lambda x: _sum(x, w, stride, (pad, pad)), x)


def _forward(x, w, stride):
  return shifted(x, w, stride), (x, w)


def _backward(stride, saved, g):
  x, w = saved
  k, pad = w.shape[0], (w.shape[0] // 2,) * 2

  def part(total, x, g):
    seen = _shifts(x, k, stride, (pad, pad))
    total += jnp.stack([(one * g).sum((0, 1, 2)) for one in seen]).reshape(w.shape)
    apart = lax.pad(g, jnp.zeros((), g.dtype), ((0, 0, 0), *((0, 0, stride - 1),) * 2, (0, 0, 0)))
    low = k - 1 - pad[0]
    around = [(low, size + pad[0] - wide) for size, wide in zip(x.shape[1:3], apart.shape[1:3])]
    return total, _sum(apart, w[::-1, ::-1], 1, around)

  if _images(x) == len(x):
    dw, dx = part(jnp.zeros_like(w), x, g)
  else:
    step = lambda total, parts: part(total, *parts)
    dw, dx = lax.scan(step, jnp.zeros_like(w), (_parts(x, x), _parts(g, x)))
  return dx.reshape(x.shape), dw


shifted.defvjp(_forward, _backward)


def _shifts(x, k, stride, pad):
  """Each of k * k shifts of images, in the order of weights."""
  x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*p, 0) for p in pad), (0, 0, 0)))
  rows, columns = ((size - k) // stride + 1 for size in x.shape[1:3])
  for i in range(k):
    for j in range(k):
      ends = i + (rows - 1) * stride + 1, j + (columns - 1) * stride + 1
      yield lax.slice(x, (0, i, j, 0), (len(x), *ends, x.shape[3]), (1, stride, stride, 1))


def _sum(x, w, stride, pad):
  return sum(one * v for one, v in zip(_shifts(x, len(w), stride, pad), w.reshape(-1, w.shape[3])))


def _images(x) -> int:
  """How many images to take at a time."""
  if jax.default_backend() != 'cpu':
    return len(x)
  most = CACHE // (4 * math.prod(x.shape[1:])) or 1
  return next(b for b in range(min(most, len(x)), 0, -1) if len(x) % b == 0)


def _parts(a, x):
  few = _images(x)
  return a.reshape(-1, few, *a.shape[1:])


def _in_parts(f, x):
  if _images(x) == len(x):
    return f(x)
  y = lax.map(f, _parts(x, x))
  return y.reshape(-1, *y.shape[2:])
