"""How good an order is: AUC, MRR and nDCG of scores against labels 0 and 1, on the host.

Ties: AUC counts them half; an order is by falling score, of equal scores the later item first, as
MIND's own program has it.
"""

import numpy as np


def auc(labels, scores, counts=None) -> float:
  """The chance that a positive scores above a negative; NaN where one of them lacks.

  labels: bool or 0 and 1, [n]; scores: [n]; counts: how often each is there, by default once.
  """
  labels, scores = np.asarray(labels, bool), np.asarray(scores, np.float64)
  counts = np.ones(len(labels)) if counts is None else np.asarray(counts, np.float64)
  _, place = np.unique(scores, return_inverse=True)
  positive, negative = (np.bincount(place, counts * one) for one in (labels, ~labels))
  if not positive.any() or not negative.any():
    return float('nan')
  below = np.cumsum(negative) - negative / 2  # of equal scores half
  return float(positive @ below / (positive.sum() * negative.sum()))


def threshold(labels, scores) -> float:
  """The score from which on 'positive' has the best F; of several such the lowest.

  labels: bool or 0 and 1, [n], one of them 1 at least; scores: [n].
  """
  labels, scores = np.asarray(labels, bool), np.asarray(scores, np.float64)
  steps, place = np.unique(scores, return_inverse=True)
  said, right = (np.cumsum(np.bincount(place, one)[::-1])[::-1] for one in (None, labels))
  return float(steps[np.argmax(2 * right / (said + labels.sum()))])


def ordered(labels, scores) -> np.ndarray:
  """labels from the highest score to the lowest."""
  return np.asarray(labels, np.float64)[np.argsort(np.asarray(scores), kind='stable')[::-1]]


def reciprocal_rank(labels, scores) -> float:
  """The mean of 1 / rank over all positives, not of the first alone."""
  found = ordered(labels, scores)
  return float((found / np.arange(1, len(found) + 1)).sum() / found.sum())


def ndcg(labels, scores, top: int) -> float:
  """Discounted gain of the first `top` over the best that could be."""
  gain = lambda order: (order[:top] / np.log2(np.arange(2, len(order[:top]) + 2))).sum()
  return float(gain(ordered(labels, scores)) / gain(np.sort(np.asarray(labels, float))[::-1]))


def impressions(lists) -> dict:
  """auc, mrr, ndcg5 and ndcg10, means over the lists (labels, scores) that have both labels."""
  lists = [(l, s) for l, s in lists if 0 < np.sum(l) < len(l)]
  measures = dict(
    auc=auc, mrr=reciprocal_rank, ndcg5=lambda l, s: ndcg(l, s, 5),
    ndcg10=lambda l, s: ndcg(l, s, 10),
  )  # fmt: skip
  return {name: float(np.mean([f(*one) for one in lists])) for name, f in measures.items()}


def offered(logits, labels, split: str = 'test') -> dict:
  """The measures of `impressions`, [R], where labels int [n] name the one positive of each list.

  logits: [R, n, candidates].
  """
  hot = np.eye(np.asarray(logits).shape[-1])[np.asarray(labels)]
  each = [impressions(list(zip(hot, one))) for one in np.asarray(logits)]
  return {f'{split}_{name}': np.array([found[name] for found in each], np.float32)
          for name in each[0]}  # fmt: skip


def binary(logits, labels, split: str = 'test') -> dict:
  """precision, recall, f1 and auc of the class 1, [R]; logits [R, n, 2]. Of nothing found, 0."""
  labels, logits = np.asarray(labels) == 1, np.asarray(logits)
  said = logits.argmax(-1) == 1
  right = (said & labels).sum(1)
  ratio = lambda a, b: (a / np.maximum(b, 1)).astype(np.float32)
  found = dict(
    precision=ratio(right, said.sum(1)), recall=ratio(right, labels.sum()),
    f1=ratio(2 * right, said.sum(1) + labels.sum()),
    auc=np.array([auc(labels, one[:, 1] - one[:, 0]) for one in logits], np.float32),
  )  # fmt: skip
  return {f'{split}_{name}': values for name, values in found.items()}
