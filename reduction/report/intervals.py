"""Numbers over seeds: their interval, the paired difference, and how both are written."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MINUS = '\N{MINUS SIGN}'
INFINITE = '\N{INFINITY}'
TIMES = '\N{MULTIPLICATION SIGN}'
NONE = '\N{EN DASH}'  # a cell that has no number
# endings of the keys that hold a fraction, shown in percent
FRACTIONS = ('kept', 'accuracy', 'instability', 'gain', 'word_error', 'changed')
SIZES = ('bytes', 'peak_sram')


class Interval(NamedTuple):
  """A mean and its 95 % interval; of one value the interval is infinite, of none all is NaN."""

  mean: float
  low: float
  high: float
  count: int

  def excludes(self, value: float) -> bool:
    """Whether value lies outside, which is what a claimed difference needs."""
    return self.low > value or self.high < value


def interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
  """The mean of values and its t-interval: mean +- t * s / sqrt(n), with n - 1 in s and t."""
  values = np.asarray(values, np.float64)
  if len(values) == 0:
    return Interval(math.nan, math.nan, math.nan, 0)
  mean = float(values.mean())
  if len(values) == 1:
    return Interval(mean, -math.inf, math.inf, 1)
  from scipy.special import stdtrit  # half a second, so only where an interval is wanted

  half = stdtrit(len(values) - 1, (1 + confidence) / 2) * values.std(ddof=1)
  half /= math.sqrt(len(values))
  return Interval(mean, float(mean - half), float(mean + half), len(values))


def paired_difference(a: Sequence[float], b: Sequence[float]) -> Interval:
  """The interval of a - b, pair by pair: a and b hold the same seeds in the same order."""
  if len(a) != len(b):
    raise ValueError(f'{len(a)} values cannot be paired with {len(b)}; give the same seeds')
  return interval(np.asarray(a, np.float64) - np.asarray(b, np.float64))


def relative_change(a: Sequence[float], b: Sequence[float]) -> Interval:
  """The interval of mean(a) / mean(b) - 1: how far two averaged curves lie apart, pairs kept.

  A mean of ratios would be ruled by the smallest b. By the delta method: with r = mean(a) /
  mean(b), the spread is that of (a - r b) / mean(b). Cochran 1977, section 2.9.
  """
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  ratio = a.mean() / b.mean()
  around = paired_difference((a - ratio * b) / b.mean(), np.zeros(len(b)))
  return Interval(ratio - 1, ratio - 1 + around.low, ratio - 1 + around.high, around.count)


def is_fraction(key: str) -> bool:
  """Whether rows hold key as a fraction 0..1."""
  return key.endswith(FRACTIONS)


def number(key: str, value: float, like: float | None = None) -> str:
  """value as tables show key, without a unit but for bytes; `like` sets the unit of those.

  number('test_accuracy', .98123) is '98.12', number('bytes', 1_066_440) is '1.07 MB'.
  """
  if not math.isfinite(value):
    return str(value)
  if key.endswith('kept'):
    return f'{100 * value:.{1 if value >= 0.00995 else 2}f}'
  if is_fraction(key):
    return f'{100 * value:.2f}'
  if key.endswith(SIZES):
    size = abs(value if like is None else like)
    power = 0 if size < 1 else min(3, int(math.log10(size)) // 3)
    return f'{value / 1000**power:.{0 if power == 0 else 2}f} {("B", "kB", "MB", "GB")[power]}'
  if key.endswith('perplexity'):
    return f'{value:,.2f}'
  if key.endswith('loss'):
    return f'{value:.4f}'
  return f'{value:,.0f}' if float(value).is_integer() or abs(value) >= 1000 else f'{value:,.4g}'


def spread(key: str, values: Sequence[float]) -> str:
  """'98.12 [98.02, 98.25]': the mean with least and greatest; a number alone where all agree."""
  if len(values) == 0:
    return NONE
  lost = int(np.sum(~np.isfinite(values)))
  if lost:
    return f'not finite in {lost} of {len(values)}'
  mean = float(np.mean(values))
  if key.endswith('step'):
    mean = round(mean)
  if min(values) == max(values):
    return number(key, mean)
  least, most = number(key, min(values), mean), number(key, max(values), mean)
  if key.endswith(SIZES):
    least = least.split()[0]
    most = most.split()[0]
  return f'{number(key, mean)} [{least}, {most}]'


def wording(
  found: Interval, unit: str = '', *, digits: int = 2, zero: float = 0.0, signed: bool = True
) -> str:
  """'+0.31 pp [0.10, 0.52]', or that no difference was found, where the interval holds `zero`.

  unit: as it follows the number, with its space. zero: what no difference would be, 1 for ratios.
  """
  if found.count == 0:
    return 'no seed in common'
  if not math.isfinite(found.mean):
    return 'not finite'
  plain = lambda x: f'{round(x, digits) + 0.0:.{digits}f}'.replace('-', MINUS)  # -0.0 + 0.0 is 0.0
  mean = ('+' if signed and round(found.mean, digits) > 0 else '') + plain(found.mean) + unit
  if found.count == 1:
    return f'{mean} (one seed, no interval)'
  high = plain(found.high) if found.high < math.inf else INFINITE
  text = f'{mean} [{plain(found.low)}, {high}]'
  return text if found.excludes(zero) else f'no difference found ({text})'
