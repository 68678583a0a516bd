"""Fixed-point arithmetic as TFLite's reference kernels do it, on int64 arrays that hold int32.

A real factor is multiplier / 2^31 * 2^shift. Products are rounded twice: by the high half of the
doubled product, then by the shift, both to nearest and ties away from 0 (gemmlowp).
"""

import math

import numpy as np

LEAST, MOST = -(2**31), 2**31 - 1


def quantize_multiplier(real: float) -> tuple[int, int]:
  """(multiplier, shift) of a double: |multiplier| in [2^30, 2^31), or 0.

  Some converters give weights negative scales, and the reference takes them as they are.
  """
  fraction, shift = math.frexp(abs(real))
  multiplier = math.floor(fraction * 2**31 + 0.5)
  if multiplier == 2**31:
    multiplier, shift = multiplier // 2, shift + 1
  if multiplier == 0 or shift < -31:
    return 0, 0
  multiplier, shift = (multiplier, shift) if shift <= 30 else (MOST, 30)
  return (multiplier if real > 0 else -multiplier), shift


def quantize_multipliers(reals) -> tuple[np.ndarray, np.ndarray]:
  """int32 arrays of `quantize_multiplier` of each."""
  pairs = [quantize_multiplier(float(r)) for r in reals]
  return tuple(np.array(part, np.int32) for part in zip(*pairs))


def add_factors(a: float, b: float, output: float) -> tuple[tuple[int, int], ...]:
  """Factors of `graph.Add` for the scales of its tensors: both inputs to twice the larger."""
  twice = 2 * max(a, b)
  reals = a / twice, b / twice, twice / ((1 << 20) * output)
  return tuple(quantize_multiplier(r) for r in reals)


def high_product(a, b):
  """round(a b / 2^31), ties up; cut off where both are -2^31. a, b: int64 arrays of int32."""
  return np.minimum((np.int64(a) * np.int64(b) + 2**30) >> 31, MOST)


def rounding_shift(x, right):
  """round(x / 2^right), ties away from 0. right: >= 0."""
  x, right = np.int64(x), np.int64(right)
  half = np.where(right > 0, np.int64(1) << np.maximum(right - 1, 0), 0)
  return (x + half - ((x < 0) & (right > 0))) >> right


def saturating_shift(x, left: int):
  """x 2^left, cut off to int32."""
  return np.clip(np.int64(x) << left, LEAST, MOST)


def requantize(x, multiplier, shift):
  """round(x multiplier / 2^31 2^shift), rounded twice (TFLite's MultiplyByQuantizedMultiplier)."""
  shift = np.int64(shift)
  left = np.int64(x) << np.maximum(shift, 0)
  return rounding_shift(high_product(left, multiplier), np.maximum(-shift, 0))


# exp(-2^e) in 0.31 fixed point for e = -2 .. 4
BARREL = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)


def exp_negative(x, integer_bits: int = 5):
  """exp of x <= 0, given with integer_bits before the point; 31 bits after the point come out."""
  x = np.int64(x)
  bits = 31 - integer_bits
  quarter = 1 << (bits - 2)
  below = (x & (quarter - 1)) - quarter
  result = _exp_of_quarter(saturating_shift(below, integer_bits))
  rest = below - x
  for exponent, factor in zip(range(-2, 5), BARREL):
    if integer_bits > exponent:
      has = (rest >> (bits + exponent)) & 1
      result = np.where(has == 1, high_product(result, factor), result)
  return np.where(x == 0, MOST, result)


def _exp_of_quarter(a):
  """exp of a in [-1/4, 0), by its series at -1/8."""
  x = a + (1 << 28)
  x2 = high_product(x, x)
  x3, x4 = high_product(x2, x), high_product(x2, x2)
  third = high_product(rounding_shift(x4, 2) + x3, 715827883)
  term = 1895147668  # exp(-1/8)
  return term + high_product(term, x + rounding_shift(third + x2, 1))


def reciprocal(x, integer_bits: int):
  """(1 / x in 0.31 fixed point of x scaled to [1, 2), the bits it was scaled by). x: > 0."""
  zeros = np.int64(32) - np.frexp(np.float64(x))[1]  # that lead x as 32 bits
  return _one_over_one_plus((np.int64(x) << zeros) - 2**31), integer_bits - zeros


def _one_over_one_plus(a):
  """1 / (1 + a) for a in [0, 1), 0.31 fixed point: three steps of Newton's."""
  half = (np.int64(a) + MOST + 1) >> 1
  x = 1515870810 + high_product(half, -1010580540)
  for _ in range(3):
    missing = (1 << 29) - high_product(half, x)
    x = x + saturating_shift(high_product(x, missing), 2)
  return saturating_shift(x, 1)


def logistic(x, integer_bits: int = 4):
  """1 / (1 + exp(-x)) in 0.31 fixed point; x has integer_bits before the point."""
  x = np.int64(x)
  positive = _one_over_one_plus(exp_negative(-np.abs(x), integer_bits))
  return np.where(x == 0, 1 << 30, np.where(x > 0, positive, MOST - positive))
