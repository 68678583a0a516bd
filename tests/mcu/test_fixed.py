"""Fixed-point arithmetic against exact rational numbers and the real functions."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reduction.mcu import fixed

INT32 = st.integers(-(2**31) + 1, 2**31 - 1)


def away(x: Fraction) -> int:
  """x to nearest, ties away from 0."""
  return int(math.copysign(math.floor(abs(x) + Fraction(1, 2)), x))


@pytest.mark.parametrize(
  'real, multiplier, shift',
  [(0.5, 2**30, 0), (1.0, 2**30, 1), (0.75, 3 * 2**29, 0), (0.0, 0, 0), (2.0**-33, 0, 0),
   (-0.75, -3 * 2**29, 0), (1 - 2.0**-40, 2**30, 1)],
)  # fmt: skip
def test_multipliers_by_hand(real, multiplier, shift):
  assert fixed.quantize_multiplier(real) == (multiplier, shift)


@given(st.floats(1e-8, 1e4))
def test_a_multiplier_says_its_factor_to_31_bits(real):
  multiplier, shift = fixed.quantize_multiplier(real)
  assert 2**30 <= multiplier < 2**31
  assert abs(multiplier * 2.0 ** (shift - 31) / real - 1) <= 2**-31


@given(INT32, INT32)
def test_the_high_product_rounds_ties_up(a, b):
  assert fixed.high_product(a, b) == math.floor(Fraction(a * b, 2**31) + Fraction(1, 2))


@given(INT32, st.integers(0, 31))
def test_a_shift_rounds_ties_away_from_zero(x, right):
  assert fixed.rounding_shift(x, right) == away(Fraction(x, 2**right))


@given(st.integers(-(2**24), 2**24), st.integers(2**30, 2**31 - 1), st.integers(-20, 5))
def test_requantize_is_its_factor_rounded_twice(x, multiplier, shift):
  scaled = Fraction(x * multiplier * 2 ** max(shift, 0), 2**31)
  want = away(Fraction(math.floor(scaled + Fraction(1, 2)), 2 ** max(-shift, 0)))
  assert fixed.requantize(x, multiplier, shift) == want


def test_exp_logistic_and_reciprocal_come_near_the_functions():
  x = np.linspace(-31.9, 0, 4001)
  found = fixed.exp_negative((x * 2**26).astype(np.int64)) / 2**31
  np.testing.assert_allclose(found, np.exp(x), atol=1e-6)
  y = np.linspace(-7.9, 7.9, 1001)
  found = fixed.logistic((y * 2**27).astype(np.int64)) / 2**31
  np.testing.assert_allclose(found, 1 / (1 + np.exp(-y)), atol=1e-6)
  scale, bits = fixed.reciprocal(np.array([2**19, 3 * 2**19, 2**20 - 1]), 12)
  np.testing.assert_allclose(
    scale / 2.0**31 * 2.0**-bits, [1, 1 / 3, 2**19 / (2**20 - 1)], rtol=1e-6
  )
