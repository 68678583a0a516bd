"""Orders by hand, and against brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from reduction import ranking

Y, S = [1, 0, 0, 1, 0, 0], [0.9, 0.8, 0.7, 0.6, 0.1, 0.05]


def test_by_hand():
  assert ranking.auc(Y, S) == 0.75
  assert ranking.reciprocal_rank(Y, S) == pytest.approx((1 + 1 / 4) / 2)
  assert ranking.ndcg(Y, S, 5) == ranking.ndcg(Y, S, 10) == pytest.approx(0.877215, abs=1e-6)
  equal = [0, 1, 0, 0], [0.5] * 4
  assert ranking.auc(*equal) == 0.5 and ranking.ndcg(*equal, 5) == pytest.approx(0.5)
  assert ranking.reciprocal_rank(*equal) == pytest.approx(1 / 3)


@settings(max_examples=30, deadline=None)
@given(some.lists(some.tuples(some.booleans(), some.integers(0, 4)), min_size=2, max_size=12))
def test_auc_is_a_count_of_pairs(items):
  labels, scores = zip(*items)
  pairs = list(itertools.product([s for l, s in items if l], [s for l, s in items if not l]))
  got = ranking.auc(labels, scores)
  if not pairs:
    assert np.isnan(got)
  else:
    assert got == pytest.approx(np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs]))


  counts = [i % 3 for i in range(len(labels))]  # as if each were there so often
  again = (np.repeat(part, counts) for part in (labels, scores))
  np.testing.assert_equal(ranking.auc(labels, scores, counts), ranking.auc(*again))


@settings(max_examples=30, deadline=None)
@given(some.lists(some.tuples(some.booleans(), some.integers(0, 4)), min_size=2, max_size=12))
def test_the_threshold_has_the_best_f(items):
  labels, scores = (np.array(part) for part in zip(*[*items, (True, 2)]))

  def f1(lowest):
    said = scores >= lowest
    return 2 * (said & labels).sum() / (said.sum() + labels.sum())

  found = ranking.threshold(labels, scores)
  assert found in scores and f1(found) == max(map(f1, scores))


def test_lists_of_one_kind_are_left_out():
  found = ranking.impressions([(Y, S), ([0, 0], [1, 2]), ([1, 1], [1, 2])])
  assert found['auc'] == 0.75 and found['mrr'] == pytest.approx(0.625)


def test_precision_recall_and_f_of_the_positive_class():
  logits = np.zeros((2, 5, 2))
  logits[0, :, 1] = 1, 1, 1, -1, -1
  logits[1, :, 1] = -1
  found = ranking.binary(logits, [1, 1, 0, 1, 0])
  np.testing.assert_allclose(found['test_precision'], [2 / 3, 0])
  np.testing.assert_allclose(found['test_recall'], [2 / 3, 0])
  np.testing.assert_allclose(found['test_f1'], [2 / 3, 0])
  np.testing.assert_allclose(found['test_auc'], [7 / 12, 0.5])
