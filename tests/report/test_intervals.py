"""Intervals and how they are worded, by hand."""

import math

import numpy as np
import pytest

from reduction import report
from reduction.report import intervals
from reduction.report.intervals import MINUS


def test_interval_by_hand():
  # mean 2, s 1, t(2, .975) 4.3027: 2 +- 4.3027 / sqrt(3)
  found = intervals.interval([1, 2, 3])
  assert np.allclose(found, (2, 2 - 2.48414, 2 + 2.48414, 3), atol=1e-4)
  assert found.excludes(4.5) and not found.excludes(0)


def test_one_value_has_no_interval():
  found = intervals.interval([5.0])
  assert found == (5, -math.inf, math.inf, 1) and not found.excludes(0)
  assert intervals.wording(found) == '+5.00 (one seed, no interval)'


@pytest.mark.parametrize(
  'a, b, expected',
  [
    ([1.2, 2.3, 3.4], [1, 2, 3], '+0.30 pp [0.05, 0.55]'),  # differences .2 .3 .4
    ([1, 2, 3], [1.2, 2.3, 3.4], f'{MINUS}0.30 pp [{MINUS}0.55, {MINUS}0.05]'),
    ([1, 2, 3], [1, 3, 2], f'no difference found (0.00 pp [{MINUS}2.48, 2.48])'),
    ([1], [3], f'{MINUS}2.00 pp (one seed, no interval)'),
    ([], [], 'no seed in common'),
    ([math.nan, 1], [1, 1], 'not finite'),
  ],
)
def test_difference_is_claimed_only_where_the_interval_excludes_zero(a, b, expected):
  assert report.wording(report.paired_difference(a, b), ' pp') == expected


def test_unequal_pairs_raise():
  with pytest.raises(ValueError, match='3 values cannot be paired with 2'):
    report.paired_difference([1, 2, 3], [1, 2])


@pytest.mark.parametrize(
  'key, values, expected',
  [
    ('test_accuracy', [0.98, 0.982, 0.984], '98.20 [98.00, 98.40]'),
    ('accuracy', [0.98, 0.98], '98.00'),
    ('bytes', [1_066_440], '1.07 MB'),
    ('bytes', [999, 1001], '1.00 kB [1.00, 1.00]'),
    ('early_stop_step', [100, 100, 200], '133 [100, 200]'),
    ('kept', [0.0045], '0.45'),
    ('accuracy', [0.5, math.nan], 'not finite in 1 of 2'),
    ('accuracy', [], '\N{EN DASH}'),
  ],
)
def test_spread(key, values, expected):
  assert intervals.spread(key, values) == expected
