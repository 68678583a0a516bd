"""Two-dimensional convolution whose form follows the platform: XLA's own, and one for CPUs.

XLA's gradient of a convolution on a CPU turns the batch into channels, which reaches 6 to 40 % of
the machine's matrix speed (1 % for 64 channels at 32 x 32). `chunked` copies the patches of a few
images at a time, few enough to stay in the cache, and multiplies matrices: the same sums, 2 to 13
times as fast, also within `lax.scan`. Measured by configs/bench/conv.py.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

CACHE = 2**21  # bytes of patches at a time; 2**20 to 2**22 are within 10 % of each other
LAYOUT = ('NHWC', 'HWIO', 'NHWC')


def reference(x, w, strides, padding) -> jax.Array:
  """`lax.conv_general_dilated`. x: [n, h, w, c], w: [kh, kw, c, o] -> [n, oh, ow, o]."""
  return lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=LAYOUT)


def convolve(
  x, w, strides, padding, *, lhs_dilation=None, rhs_dilation=None, dimension_numbers=LAYOUT,
  feature_group_count=1, batch_group_count=1, precision=None, preferred_element_type=None,
) -> jax.Array:  # fmt: skip
  """As `lax.conv_general_dilated`, for `flax.linen.Conv(conv_general_dilated=convolve)`.

  On a CPU plain two-dimensional float32 convolutions are `chunked`; all others, and all on an
  accelerator, are XLA's.
  """
  settings = dict(
    lhs_dilation=lhs_dilation, rhs_dilation=rhs_dilation, dimension_numbers=dimension_numbers,
    feature_group_count=feature_group_count, batch_group_count=batch_group_count,
    precision=precision, preferred_element_type=preferred_element_type,
  )  # fmt: skip
  numbers = lax.conv_dimension_numbers(x.shape, w.shape, dimension_numbers)
  plain = (
    jax.default_backend() == 'cpu'
    and x.ndim == 4
    and numbers == lax.conv_dimension_numbers(x.shape, w.shape, LAYOUT)
    and x.dtype == w.dtype == jnp.float32
    and feature_group_count == batch_group_count == 1
    and not any(d != 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
  )
  if not plain:
    return lax.conv_general_dilated(x, w, strides, padding, **settings)
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(x.shape[1:3], w.shape[:2], strides, padding)
  return chunked(x, w, tuple(strides), tuple(map(tuple, padding)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def chunked(x, w, strides, padding) -> jax.Array:
  """`reference` as matrix products over the patches of a few images at a time.

  x: float32 [n, h, w, c], w: float32 [kh, kw, c, o]. padding: ((top, bottom), (left, right)).
  """
  matrix = w.reshape(-1, w.shape[-1])
  return _map(lambda part: patches(part, w.shape[:2], strides, padding) @ matrix, w.shape, x)


def _forward(x, w, strides, padding):
  return chunked(x, w, strides, padding), (x, w)


def _backward(strides, padding, saved, g):
  x, w = saved
  kernel = w.shape[:2]

  def of_w(part, g):
    columns = patches(part, kernel, strides, padding).reshape(-1, math.prod(w.shape[:3]))
    return columns.T @ g.reshape(-1, w.shape[3])

  def of_x(part, g):
    back = jax.linear_transpose(lambda x: patches(x, kernel, strides, padding), part)
    return back(g @ w.reshape(-1, w.shape[3]).T)[0]

  if strides == (1, 1):
    turned = w[::-1, ::-1].swapaxes(2, 3)
    rest = tuple((k - 1 - low, k - 1 - high) for k, (low, high) in zip(kernel, padding))
    dx = chunked(g, turned, strides, rest)
  else:
    dx = _map(of_x, w.shape, x, g)
  return dx, _sum(of_w, w.shape, x, g).reshape(w.shape)


chunked.defvjp(_forward, _backward)


def patches(x, kernel, strides, padding) -> jax.Array:
  """What each output sees: [n, h, w, c] -> [n, oh, ow, kh * kw * c], in the order of weights."""
  x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*p, 0) for p in padding), (0, 0, 0)))
  height, width = ((n - k) // s + 1 for n, k, s in zip(x.shape[1:3], kernel, strides))
  seen = lambda i, j: lax.slice(
    x, (0, i, j, 0),
    (x.shape[0], i + (height - 1) * strides[0] + 1, j + (width - 1) * strides[1] + 1, x.shape[3]),
    (1, *strides, 1),
  )  # fmt: skip
  return jnp.concatenate([seen(i, j) for i in range(kernel[0]) for j in range(kernel[1])], -1)


def _parts(shape, arrays):
  """arrays [n, ...] as [n / b, b, ...], b images whose patches fit the cache."""
  images, *size = arrays[-1].shape[:3]
  most = CACHE // (4 * math.prod(size) * math.prod(shape[:3])) or 1
  few = next(b for b in range(min(most, images), 0, -1) if images % b == 0)
  return [a.reshape(images // few, few, *a.shape[1:]) for a in arrays]


def _map(f, shape, *arrays):
  out = lax.map(lambda parts: f(*parts), _parts(shape, arrays))
  return out.reshape(-1, *out.shape[2:])


def _sum(f, shape, *arrays):
  add = lambda total, parts: (total + f(*parts), None)
  parts = _parts(shape, arrays)
  zero = jnp.zeros((math.prod(shape[:3]), shape[3]), jnp.float32)
  return lax.scan(add, zero, tuple(parts))[0]
