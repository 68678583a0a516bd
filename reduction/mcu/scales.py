"""What TFLite's reference kernels derive from real scales: factors, ranges of activations, tables.

Readers, writers and quantizers of `Graph` share these, so that a factor has one rule. Scales are
floats that float32 holds; where the kernels multiply in float32, so do these.
"""

import math

import numpy as np

from reduction.errors import require
from reduction.mcu import fixed
from reduction.mcu.graph import Tensor

# fused activation, as the format numbers them -> real ends
ACTIVATIONS = {0: (None, None), 1: (0.0, None), 2: (-1.0, 1.0), 3: (0.0, 6.0)}
RELU, RELU6 = 1, 3
SHARES = 1 / 256, -128  # scale and zero point of what softmax and logistic put out


def products(input_: float, weights, output: float, *, whole: bool = False):
  """(multiplier, shift), int32 [cout], of sums of products. weights: scales, float32 [cout].

  whole: the weights have one scale, which a dense layer multiplies by its input's in float32.
  """
  weights = np.asarray(weights, np.float32)
  if whole:
    reals = np.float64(np.float32(input_) * weights) / np.float64(output)
  else:
    reals = np.float64(input_) * np.float64(weights) / np.float64(output)
  return fixed.quantize_multipliers(reals)


def product(a: float, b: float, output: float) -> tuple[int, int]:
  """The factor of `graph.Mul`."""
  return fixed.quantize_multiplier(a * b / output)


def mean(input_: float, output: float) -> tuple[int, int]:
  """The factor of `graph.Mean`."""
  return fixed.quantize_multiplier(input_ / output)


def softmax(scale: float) -> tuple[tuple[int, int], int]:
  """(factor, least) of `graph.Softmax` for beta times the scale of its input."""
  require(scale > 0, f'a softmax of scale {scale}')
  factor = fixed.quantize_multiplier(min(scale * 2**26, 2**31 - 1.0))
  require(factor[1] >= 0, f'a softmax of scale {scale}: below 2^-26')
  return factor, -(31 * 2**26 >> factor[1])


def ends(low: float | None, high: float | None, tensor: Tensor) -> tuple[int, int]:
  """The codes to which real ends clamp an output; None: as far as int8 goes."""
  code = lambda end: rounded(np.float32(end) / np.float32(tensor.scale)) + tensor.zero
  low = max(-128, -128 if low is None else min(code(low), 127))
  high = min(127, 127 if high is None else code(high))
  return low, max(low, high)


def rounded(x) -> int:
  """To nearest, half away from 0."""
  return int(math.floor(abs(float(x)) + 0.5) * math.copysign(1, x))


def _table(values) -> np.ndarray:
  return np.clip(values, -128, 127).astype(np.int8)


def _scaled(before: Tensor, after: Tensor) -> np.ndarray:
  factor = fixed.quantize_multiplier(before.scale / after.scale)
  return fixed.requantize(np.arange(-128, 128) - before.zero, *factor) + after.zero


def rescaled(before: Tensor, after: Tensor) -> np.ndarray:
  """The table, int8 [256], of the same values in another scale."""
  return _table(_scaled(before, after))


def clamped(activation: int, before: Tensor, after: Tensor) -> np.ndarray:
  """The table of an activation of ACTIVATIONS."""
  return _table(np.clip(_scaled(before, after), *ends(*ACTIVATIONS[activation], after)))


def logistic(before: Tensor, after: Tensor) -> np.ndarray:
  """The table of 1 / (1 + exp(-x)). Raises UsageError for another output than `SHARES`."""
  good = (after.scale, after.zero) == SHARES
  require(good, f'{after.name} has scale {after.scale}, zero {after.zero}; wanted: {SHARES}')
  values = np.arange(-128, 128) - before.zero
  multiplier, shift = fixed.quantize_multiplier(before.scale * 2**27)
  radius = math.floor(15 * 2.0**27 / 2.0**shift)
  inside = fixed.requantize(np.clip(values, -radius, radius), multiplier, shift)
  shares = np.minimum(fixed.rounding_shift(fixed.logistic(inside), 23), 255) - 128
  return _table(np.where(values <= -radius, -128, np.where(values >= radius, 127, shares)))


def nearest(before: int, after: int, corners: bool, half: bool) -> tuple[int, ...]:
  """Which of `before` pixels each of `after` is (RESIZE_NEAREST_NEIGHBOR)."""
  corners = corners and after > 1
  scale = np.float32((before - 1) / (after - 1) if corners else before / after)
  at = (np.arange(after, dtype=np.float32) + np.float32(0.5 if half else 0)) * scale
  found = np.floor(at + np.float32(0.5)) if corners else np.floor(at)
  return tuple(int(n) for n in np.clip(found, 0, before - 1))


def same(n: int, kernel: int, stride: int) -> tuple[int, int]:
  """Pad before and after n pixels that the format calls SAME."""
  whole = max((-(-n // stride) - 1) * stride + kernel - n, 0)
  return whole // 2, whole - whole // 2
