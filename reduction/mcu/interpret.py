"""The exact meaning of a `Graph`: TFLite's reference kernels in NumPy, bit for bit.

The oracle for everything else: LiteRT, the C on the host, the C on an emulated microcontroller.
"""

import numpy as np

from reduction.errors import require
from reduction.mcu import fixed
from reduction.mcu.graph import (
  Add,
  Concat,
  Conv,
  Crop,
  Dense,
  Depthwise,
  Graph,
  Lookup,
  Mean,
  Mul,
  Pad,
  Paste,
  Pool,
  Reshape,
  Resize,
  Softmax,
  Window,
)  # fmt: skip
from reduction.mcu.sparse import Sparse


def interpret(graph: Graph, *inputs) -> list[np.ndarray]:
  """Outputs, int8 [n, h, w, c] each, for inputs int8 [n, h, w, c]."""
  values = every(graph, *inputs)
  return [values[t] for t in graph.outputs]


def every(graph: Graph, *inputs) -> dict[int, np.ndarray]:
  """All tensors, int8 [n, h, w, c], by index."""
  require(len(inputs) == len(graph.inputs), f'{len(inputs)} inputs for {len(graph.inputs)}')
  values = {}
  for index, x in zip(graph.inputs, inputs):
    want = graph.tensors[index].shape
    good = x.dtype == np.int8 and x.shape[1:] == want
    require(good, f'an input is {x.dtype} {x.shape}, where int8 [n, *{want}] is wanted')
    values[index] = x
  for op in graph.ops:
    tensors = [graph.tensors[i] for i in op.inputs], graph.tensors[op.output]
    values[op.output] = KERNELS[type(op)](op, [values[i] for i in op.inputs], *tensors)
  return values


def quantize(x, tensor) -> np.ndarray:
  """int8 of real values, as TFLite's QUANTIZE: to nearest, half away from 0."""
  scaled = np.asarray(x, np.float32) / np.float32(tensor.scale)
  rounded = np.trunc(scaled + np.copysign(np.float32(0.5), scaled))
  return np.clip(rounded + tensor.zero, -128, 127).astype(np.int8)


def dequantize(q, tensor) -> np.ndarray:
  """float32 of int8 values."""
  return (np.float32(tensor.scale) * (q.astype(np.int32) - tensor.zero)).astype(np.float32)


def windows(x, window: Window, fill: int) -> np.ndarray:
  """Views [n, oh, ow, kh, kw, c] of x [n, h, w, c], padded with fill."""
  top, bottom, left, right = window.pad
  x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)
  found = np.lib.stride_tricks.sliding_window_view(x, window.kernel, (1, 2))
  found = found[:, :: window.stride[0], :: window.stride[1]]
  return np.moveaxis(found, 3, -1)


def _finish(op, sums, output):
  """sums: exact integers [..., cout] as float64."""
  scaled = fixed.requantize(sums.astype(np.int64) + op.bias, op.multiplier, op.shift)
  return np.clip(scaled + output.zero, op.low, op.high).astype(np.int8)


def _conv(op, values, inputs, output):
  seen = windows(values[0], op.window, inputs[0].zero)
  n, oh, ow = seen.shape[:3]
  # a float64 sum of products of 8-bit integers is exact, and BLAS is 100 times faster
  columns = seen.reshape(n * oh * ow, -1).astype(np.float64) - inputs[0].zero
  weights = op.unpacked() if isinstance(op, Sparse) else op.weights
  sums = columns @ weights.reshape(len(weights), -1).T.astype(np.float64)
  return _finish(op, sums.reshape(n, oh, ow, -1), output)


def _depthwise(op, values, inputs, output):
  (kh, kw, cout), cin = op.weights.shape, values[0].shape[-1]
  # sums below 2^24 are exact in float32, which is twice as fast
  dtype = np.float32 if kh * kw * 255 * 128 < 2**24 else np.float64
  seen = windows(values[0].astype(dtype) - inputs[0].zero, op.window, 0)
  weights = op.weights.reshape(kh, kw, cin, cout // cin).astype(dtype)
  sums = sum(
    seen[:, :, :, y, x, :, None] * weights[y, x] for y in range(kh) for x in range(kw)
  )  # [n, oh, ow, cin, multiplier]
  return _finish(op, sums.reshape(*sums.shape[:3], cout), output)


def _dense(op, values, inputs, output):
  x = values[0].reshape(len(values[0]), 1, 1, -1).astype(np.float64) - inputs[0].zero
  return _finish(op, x @ op.weights.T.astype(np.float64), output)


def _add(op, values, inputs, output):
  scaled = [
    fixed.requantize((x.astype(np.int64) - t.zero) << 20, *factor)
    for x, t, factor in zip(values, inputs, op.factors)
  ]
  total = fixed.requantize(sum(scaled), *op.factors[2]) + output.zero
  return np.clip(total, op.low, op.high).astype(np.int8)


def _mul(op, values, inputs, output):
  a, b = (x.astype(np.int64) - t.zero for x, t in zip(values, inputs))
  return np.clip(fixed.requantize(a * b, *op.factor) + output.zero, op.low, op.high).astype(np.int8)


def _pool(op, values, inputs, output):
  del inputs, output
  if op.how == 'max':
    found = windows(values[0], op.window, -128).max((3, 4))
  else:
    total = windows(values[0].astype(np.int64), op.window, 0).sum((3, 4))
    there = windows(np.ones_like(values[0], np.int64), op.window, 0).sum((3, 4))
    found = np.sign(total) * ((np.abs(total) + there // 2) // there)
  return np.clip(found, op.low, op.high).astype(np.int8)


def _mean(op, values, inputs, output):
  axes = tuple(a + 1 for a in op.axes)
  x = values[0].astype(np.int64) - inputs[0].zero
  multiplier, shift = mean_factor(op, inputs[0].shape)
  scaled = fixed.requantize(x.sum(axes, keepdims=True), multiplier, shift)
  return np.clip(scaled + output.zero, -128, 127).astype(np.int8)


def mean_factor(op: Mean, shape) -> tuple[int, int]:
  """op.factor with 1 / n folded in, for means over n values of an input of shape (h, w, c)."""
  n = int(np.prod([shape[a] for a in op.axes]))
  multiplier, shift = op.factor
  more = min(n.bit_length() - 1, 32, 31 + shift)
  return (multiplier << more) // n, shift - more


def _softmax(op, values, inputs, output):
  del inputs, output
  x = values[0].astype(np.int64)
  below = x - x.max(-1, keepdims=True)
  counts = below >= op.least
  multiplier, left = op.factor
  scaled = fixed.high_product(np.where(counts, below, 0) << left, multiplier)
  exps = np.where(counts, fixed.exp_negative(scaled), 0)
  total = fixed.rounding_shift(exps, 12).sum(-1, keepdims=True)
  scale, bits = fixed.reciprocal(total, 12)
  shares = fixed.rounding_shift(fixed.high_product(scale, exps), bits + 31 - 8) - 128
  return np.where(counts, np.clip(shares, -128, 127), -128).astype(np.int8)


def _pad(op, values, inputs, output):
  top, bottom, left, right = op.pad
  around = (0, 0), (top, bottom), (left, right), (0, 0)
  return np.pad(values[0], around, constant_values=output.zero)


def _crop(op, values, inputs, output):
  (y, x), (h, w, _) = op.at, output.shape
  return values[0][:, y : y + h, x : x + w]


def _paste(op, values, inputs, output):
  (y, x), (h, w, _) = op.at, inputs[-1].shape
  whole = values[0] if len(values) == 2 else np.zeros((len(values[0]), *output.shape), np.int8)
  found = whole.copy()
  found[:, y : y + h, x : x + w] = values[-1]
  return found


KERNELS = {
  Conv: _conv, Sparse: _conv, Depthwise: _depthwise, Dense: _dense, Add: _add, Mul: _mul,
  Pool: _pool, Mean: _mean, Softmax: _softmax, Pad: _pad, Crop: _crop, Paste: _paste,
  Lookup: lambda op, values, *_: op.table[values[0].astype(np.int64) + 128],
  Reshape: lambda op, values, inputs, output: values[0].reshape(-1, *output.shape),
  Concat: lambda op, values, *_: np.concatenate(values, -1),
  Resize: lambda op, values, *_: values[0][:, list(op.rows)][:, :, list(op.columns)],
}  # fmt: skip
