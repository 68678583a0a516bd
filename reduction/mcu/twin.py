"""The interpreter's twin on any device of JAX: the same bits for whole batches, compiled.

Sums of products are float32 dots where they are exact: all terms are integers, so that a sum, in
whatever order, is exact while the sum of magnitudes stays within 2^24. Where a channel's weights
could pass that, the terms are dealt to several dots, and their sums added as int32. Scaling needs
the high half of a product of two int32, which four products of 16-bit halves make.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from reduction.kernels import conv
from reduction.mcu import graph as g
from reduction.mcu import interpret
from reduction.mcu.fixed import BARREL, MOST
from reduction.mcu.sparse import Sparse

EXACT = 2**24  # float32 holds all integers up to it
LAYOUT = 'NHWC', 'HWIO', 'NHWC'


def twin(graph: g.Graph):
  """run(*inputs int8 [n, h, w, c]) -> outputs, int8 [n, h, w, c], jitted: as `interpret.interpret`.

  Compiles once for each n.
  """

  @jax.jit
  def run(*inputs):
    values = dict(zip(graph.inputs, inputs, strict=True))
    for op in graph.ops:
      tensors = [graph.tensors[i] for i in op.inputs], graph.tensors[op.output]
      values[op.output] = KERNELS[type(op)](op, [values[i] for i in op.inputs], *tensors)
    return [values[t] for t in graph.outputs]

  return run


def logits(graph: g.Graph, x, *, batch: int = 64) -> np.ndarray:
  """Real-valued outputs [n, c] of the integer network for real inputs [n, h, w, c] or [n, d]."""
  before, after = graph.tensors[graph.inputs[0]], graph.tensors[graph.outputs[0]]
  x = np.asarray(x, np.float32)
  codes = interpret.quantize(x.reshape(len(x), *before.shape), before)
  batch = max(1, min(batch, len(x)))
  run, parts = twin(graph), []
  for i in range(0, len(x), batch):
    part = codes[i : i + batch]
    whole = np.concatenate([part, np.zeros((batch - len(part), *before.shape), np.int8)])
    parts.append(np.asarray(run(whole)[0])[: len(part)])
  return interpret.dequantize(np.concatenate(parts).reshape(len(x), -1), after)


def high_product(a, b):
  """`fixed.high_product` of int32 arrays; not both -2^31."""
  a, b = jnp.int32(a), jnp.int32(b)
  a_high, a_low, b_high, b_low = a >> 16, a & 0xFFFF, b >> 16, b & 0xFFFF
  low = lax.shift_right_logical(a_low * b_low, 16)  # of 32 bits without a sign
  middle = a_high * b_low + low
  other = a_low * b_high + (middle & 0xFFFF)
  high = a_high * b_high + (middle >> 16) + (other >> 16)
  return 2 * high + ((((other >> 14) & 3) + 1) >> 1)


def rounding_shift(x, right):
  """`fixed.rounding_shift` of int32 arrays; right in [0, 31]."""
  mask = jnp.int32((np.int64(1) << right) - 1)
  return (x >> right) + ((x & mask) > (mask >> 1) + (x < 0))


def saturating_shift(x, left: int):
  """`fixed.saturating_shift` of int32 arrays."""
  most = MOST >> left
  return jnp.where(x > most, MOST, jnp.where(x < -most - 1, -MOST - 1, x << left))


def requantize(x, multiplier, shift):
  """`fixed.requantize` of int32 arrays x [..., cout]; the factor is known when this is compiled."""
  left, right = np.maximum(shift, 0), np.maximum(-np.asarray(shift), 0)
  x = x << left if np.any(left) else x
  return rounding_shift(high_product(x, np.asarray(multiplier, np.int32)), right)


def exp_negative(x, integer_bits: int = 5):
  """`fixed.exp_negative` of int32 arrays."""
  bits = 31 - integer_bits
  quarter = 1 << (bits - 2)
  below = (x & (quarter - 1)) - quarter
  a = saturating_shift(below, integer_bits) + (1 << 28)
  a2 = high_product(a, a)
  a3, a4 = high_product(a2, a), high_product(a2, a2)
  third = high_product(rounding_shift(a4, 2) + a3, 715827883)
  result = 1895147668 + high_product(a + rounding_shift(third + a2, 1), 1895147668)
  rest = below - x
  for exponent, factor in zip(range(-2, 5), BARREL):
    if integer_bits > exponent:
      has = (rest >> (bits + exponent)) & 1
      result = jnp.where(has == 1, high_product(result, factor), result)
  return jnp.where(x == 0, MOST, result)


def reciprocal(x, integer_bits: int):
  """`fixed.reciprocal` of int32 arrays above 0."""
  zeros = lax.clz(x)
  half = (((x << zeros) & MOST) >> 1) + (1 << 30)  # of 1 + the rest, 0.31 fixed point
  found = 1515870810 + high_product(half, -1010580540)
  for _ in range(3):
    missing = (1 << 29) - high_product(half, found)
    found = found + saturating_shift(high_product(found, missing), 2)
  return saturating_shift(found, 1), integer_bits - zeros


def pieces(weights, span: int) -> list[slice]:
  """Ranges of cin within which sums of products are exact in float32.

  weights: int8 [kh, kw, cin, cout]; span: the largest magnitude of an input. Empty where the
  window over one channel is too large.
  """
  sizes = np.abs(weights.astype(np.int64)).sum((0, 1)) * span  # [cin, cout]
  if sizes.max(initial=0) > EXACT:
    return []
  found, start, total = [], 0, np.zeros(sizes.shape[1], np.int64)
  for i, size in enumerate(sizes):
    if (total + size).max() > EXACT:
      found.append(slice(start, i))
      start, total = i, 0 * total
    total = total + size
  return [*found, slice(start, len(sizes))]


def span(tensor: g.Tensor) -> int:
  """The largest |q - zero|."""
  return max(127 - tensor.zero, tensor.zero + 128)


def _finish(op, sums, output):
  """sums: int32 [..., cout]."""
  scaled = requantize(sums + op.bias, op.multiplier, op.shift)
  return _clip(scaled + output.zero, op.low, op.high)


def _clip(x, low=-128, high=127):
  return jnp.clip(x, low, high).astype(jnp.int8)


def _centered(x, tensor):
  """float32 of int8 values less their zero point."""
  return x.astype(jnp.float32) - tensor.zero


def _sums(weights, x, tensor, product, whole):
  """int32 sums of products. product: of float32 x, weights; whole: of int32, slow."""
  parts = pieces(weights, span(tensor))
  if not parts:
    return whole(x.astype(jnp.int32) - tensor.zero, weights.astype(np.int32))
  real = weights.astype(np.float32)
  found = [product(_centered(x[..., p], tensor), real[:, :, p]) for p in parts]
  return functools.reduce(jnp.add, (f.astype(jnp.int32) for f in found))


def _conv(op, values, inputs, output):
  top, bottom, left, right = op.window.pad
  fields = op.window.stride, ((top, bottom), (left, right))
  weights = op.weights.transpose(1, 2, 3, 0)

  def product(x, w):
    if op.pointwise:
      return jnp.dot(x, w[0, 0], precision=lax.Precision.HIGHEST)
    return conv.convolve(x, w, *fields, precision=lax.Precision.HIGHEST)

  whole = lambda x, w: lax.conv_general_dilated(x, w, *fields, dimension_numbers=LAYOUT)
  sums = _sums(weights, values[0], inputs[0], product, whole)
  return _finish(op, sums, output)


def _dense(op, values, inputs, output):
  x = values[0].reshape(len(values[0]), -1)
  weights = op.weights.T[None, None]
  product = lambda x, w: jnp.dot(x, w[0, 0], precision=lax.Precision.HIGHEST)
  sums = _sums(weights, x, inputs[0], product, lambda x, w: x @ w[0, 0])
  return _finish(op, sums[:, None, None], output)


def _taps(x, window: g.Window):
  """(row, column, what that tap of the window sees [n, oh, ow, c]) of x, which is padded."""
  (kh, kw), (sh, sw) = window.kernel, window.stride
  oh, ow = (x.shape[1] - kh) // sh + 1, (x.shape[2] - kw) // sw + 1
  for i in range(kh):
    for j in range(kw):
      yield i, j, x[:, i : i + sh * (oh - 1) + 1 : sh, j : j + sw * (ow - 1) + 1 : sw]


def _around(x, pad, value):
  """x with pixels of value around it, in memory: every tap reads it."""
  if not any(pad):
    return x
  top, bottom, left, right = pad
  around = (0, 0), (top, bottom), (left, right), (0, 0)
  return lax.optimization_barrier(jnp.pad(x, around, constant_values=value))


def _depthwise(op, values, inputs, output):
  (kh, kw, cout), cin = op.weights.shape, values[0].shape[-1]
  exact = kh * kw * 128 * span(inputs[0]) <= EXACT
  dtype = jnp.float32 if exact else jnp.int32
  x = _around(values[0].astype(dtype) - inputs[0].zero, op.window.pad, 0)
  x = jnp.repeat(x, cout // cin, -1) if cout > cin else x
  weights = op.weights.astype(dtype)
  sums = sum(tap * weights[i, j] for i, j, tap in _taps(x, op.window))
  return _finish(op, sums.astype(jnp.int32), output)


def _add(op, values, inputs, output):
  scaled = [
    requantize((x.astype(jnp.int32) - t.zero) << 20, *factor)
    for x, t, factor in zip(values, inputs, op.factors)
  ]
  return _clip(requantize(sum(scaled), *op.factors[2]) + output.zero, op.low, op.high)


def _mul(op, values, inputs, output):
  a, b = (x.astype(jnp.int32) - t.zero for x, t in zip(values, inputs))
  return _clip(requantize(a * b, *op.factor) + output.zero, op.low, op.high)


def _pool(op, values, inputs, output):
  del output
  if op.how == 'max':
    x = _around(values[0], op.window.pad, -128)
    found = functools.reduce(jnp.maximum, (tap for _, _, tap in _taps(x, op.window)))
    return _clip(found, op.low, op.high)
  there = interpret.windows(np.ones((1, *inputs[0].shape), np.int32), op.window, 0).sum((3, 4))
  x = values[0].astype(jnp.int32)
  if op.window == g.Window(inputs[0].shape[:2], op.window.stride):
    total = x.sum((1, 2), keepdims=True)
  else:
    total = sum(tap for _, _, tap in _taps(_around(x, op.window.pad, 0), op.window))
  return _clip(jnp.sign(total) * ((abs(total) + there // 2) // there), op.low, op.high)


def _mean(op, values, inputs, output):
  axes = tuple(a + 1 for a in op.axes)
  total = (values[0].astype(jnp.int32) - inputs[0].zero).sum(axes, keepdims=True)
  factor = interpret.mean_factor(op, inputs[0].shape)
  return _clip(requantize(total, *factor) + output.zero)


def _softmax(op, values, inputs, output):
  del inputs, output
  x = values[0].astype(jnp.int32)
  below = x - x.max(-1, keepdims=True)
  counts = below >= op.least
  multiplier, left = op.factor
  scaled = high_product(jnp.where(counts, below, 0) << left, multiplier)
  exps = jnp.where(counts, exp_negative(scaled), 0)
  total = rounding_shift(exps, 12).sum(-1, keepdims=True)
  scale, bits = reciprocal(total, 12)
  right = bits + 31 - 8
  shares = _rounding_shift_by(high_product(scale, exps), right) - 128
  return jnp.where(counts, _clip(shares), -128).astype(jnp.int8)


def _rounding_shift_by(x, right):
  """`rounding_shift` of x >= 0 by an array, which may pass 31."""
  within = jnp.minimum(right, 31)
  mask = jnp.where(within < 31, (1 << within) - 1, MOST)
  return jnp.where(right > 31, 0, (x >> within) + ((x & mask) > (mask >> 1)))


def _pad(op, values, inputs, output):
  return _around(values[0], op.pad, output.zero)


def _crop(op, values, inputs, output):
  (y, x), (h, w, _) = op.at, output.shape
  return values[0][:, y : y + h, x : x + w]


def _paste(op, values, inputs, output):
  whole = values[0] if len(values) == 2 else jnp.zeros((len(values[0]), *output.shape), jnp.int8)
  return lax.dynamic_update_slice(whole, values[-1], (0, *op.at, 0))


KERNELS = {
  g.Conv: _conv, Sparse: _conv, g.Depthwise: _depthwise, g.Dense: _dense, g.Add: _add, g.Mul: _mul,
  g.Pool: _pool, g.Mean: _mean, g.Softmax: _softmax, g.Pad: _pad, g.Crop: _crop, g.Paste: _paste,
  g.Lookup: lambda op, values, *_: jnp.asarray(op.table)[values[0].astype(jnp.int32) + 128],
  g.Reshape: lambda op, values, inputs, output: values[0].reshape(-1, *output.shape),
  g.Concat: lambda op, values, *_: jnp.concatenate(values, -1),
  g.Resize: lambda op, values, *_: values[0][:, np.array(op.rows)][:, :, np.array(op.columns)],
}  # fmt: skip
