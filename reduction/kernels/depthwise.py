"""Depthwise convolution: XLA's own, and one whose gradient is as cheap as its value.

XLA's takes up to 50 times as long on a CPU, and its gradient, or that of many nets beside each
other, is a convolution in groups of one channel, of which accelerators' libraries make little.
`shifted` is sums of shifted images: loops over vectors of channels, on a CPU over a few images at a
time that stay in its cache. Of CPUs with a C++ compiler `depthwise_cpu` is the form.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from reduction.kernels.depthwise_cpu import native_form, ready

CACHE = 2**20  # bytes of images at a time


def reference(x, w, stride: int) -> jax.Array:
  """`lax.conv_general_dilated` by channel, padded by k // 2. x: [n, h, w, c], w: [k, k, 1, c]."""
  pad = (w.shape[0] // 2,) * 2
  return lax.conv_general_dilated(
    x, w, (stride, stride), (pad, pad), dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=x.shape[3],
  )  # fmt: skip


def convolve(x, w, stride, padding=None) -> jax.Array:
  """`reference` in the form that trains fastest here; its gradient has no gradient.

  w: [kh, kw, 1, c]. stride: one for both axes, or of each. padding: ((top, bottom), (left, right)),
  by default half of the kernel.
  """
  stride = (stride,) * 2 if isinstance(stride, int) else tuple(stride)
  padding = [(size // 2,) * 2 for size in w.shape[:2]] if padding is None else padding
  form = native_form if ready(x, w) else shifted
  return form(x, w, stride, tuple(map(tuple, padding)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def shifted(x, w, stride, pad) -> jax.Array:
  """As `convolve`, all of whose arguments are given: a sum of shifted images."""
  return _in_parts(lambda x: _sum(x, w, stride, pad), x)


def _forward(x, w, stride, pad):
  return shifted(x, w, stride, pad), (x, w)


def _backward(stride, pad, saved, g):
  x, w = saved
  k = w.shape[:2]

  def part(total, x, g):
    seen = _shifts(x, k, stride, pad)
    total += jnp.stack([(one * g).sum((0, 1, 2)) for one in seen]).reshape(w.shape)
    between = [(0, 0, step - 1) for step in stride]
    apart = lax.pad(g, jnp.zeros((), g.dtype), ((0, 0, 0), *between, (0, 0, 0)))
    sizes = zip(k, pad, x.shape[1:3], apart.shape[1:3])
    around = [(most - 1 - low, size + low - wide) for most, (low, _), size, wide in sizes]
    return total, _sum(apart, w[::-1, ::-1], (1, 1), around)

  if _images(x) == len(x):
    dw, dx = part(jnp.zeros_like(w), x, g)
  else:
    step = lambda total, parts: part(total, *parts)
    dw, dx = lax.scan(step, jnp.zeros_like(w), (_parts(x, x), _parts(g, x)))
  return dx.reshape(x.shape), dw


shifted.defvjp(_forward, _backward)


def _shifts(x, k, stride, pad):
  """Each of kh * kw shifts of images, in the order of weights."""
  x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*p, 0) for p in pad), (0, 0, 0)))
  rows, columns = ((x.shape[a + 1] - k[a]) // stride[a] + 1 for a in (0, 1))
  for i in range(k[0]):
    for j in range(k[1]):
      ends = i + (rows - 1) * stride[0] + 1, j + (columns - 1) * stride[1] + 1
      yield lax.slice(x, (0, i, j, 0), (len(x), *ends, x.shape[3]), (1, *stride, 1))


def _sum(x, w, stride, pad):
  seen = _shifts(x, w.shape[:2], stride, pad)
  return sum(one * v for one, v in zip(seen, w.reshape(-1, w.shape[3])))


def _images(x) -> int:
  """How many images to take at a time."""
  if jax.default_backend() != 'cpu':
    return len(x)
  most = CACHE // (4 * math.prod(x.shape[1:])) or 1
  return next((b for b in range(min(most, len(x)), 0, -1) if len(x) % b == 0), len(x))


def _parts(a, x):
  few = _images(x)
  return a.reshape(-1, few, *a.shape[1:])


def _in_parts(f, x):
  if _images(x) == len(x):
    return f(x)
  y = lax.map(f, _parts(x, x))
  return y.reshape(-1, *y.shape[2:])
