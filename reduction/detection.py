"""Boxes: what a grid of cells should say of them, its loss, its reading, and average precision.

A box is (left, top, right, bottom) in shares of the image, 0 to 1. The cell that holds a box's
center tells it: (is there one, x, y within the cell, width, height, kinds), after a logistic all in
0 to 1, width and height as roots, so that small ones count too (Redmon et al. 2016, section 2.2).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

NOTHING, PLACE = 0.5, 5.0  # weights of empty cells and of places, as there


class Boxes(NamedTuple):
  """boxes [n, 4], kinds int [n], scores [n]; of the truth, scores are 1."""

  boxes: np.ndarray
  kinds: np.ndarray
  scores: np.ndarray


def targets(truth: Boxes, cells: tuple[int, int], kinds: int) -> np.ndarray:
  """What a grid should say, float32 [h, w, 5 + kinds]; of boxes in one cell the largest."""
  grid = np.zeros((*cells, 5 + kinds), np.float32)
  size = truth.boxes[:, 2:] - truth.boxes[:, :2]
  center = (truth.boxes[:, 2:] + truth.boxes[:, :2]) / 2
  for i in np.argsort(size.prod(1), kind='stable'):
    at = center[i] * np.array(cells[::-1])
    x, y = np.minimum(at.astype(int), np.array(cells[::-1]) - 1)
    grid[y, x] = 0
    grid[y, x, :5] = 1, *(at - (x, y)), *np.sqrt(size[i])
    grid[y, x, 5 + truth.kinds[i]] = 1
  return grid


def loss(outputs, grid) -> jax.Array:
  """The mean loss an image of outputs [n, h, w, 5 + kinds] against targets of that shape."""
  there = grid[..., 0]
  sure = jax.nn.softplus(outputs[..., 0]) - there * outputs[..., 0]  # a logistic's cross-entropy
  told = jnp.square(jax.nn.sigmoid(outputs[..., 1:5]) - grid[..., 1:5]).sum(-1)
  kind = -(grid[..., 5:] * jax.nn.log_softmax(outputs[..., 5:])).sum(-1)
  each = sure * jnp.where(there > 0, 1.0, NOTHING) + there * (PLACE * told + kind)
  return each.sum((1, 2)).mean()


def decode(outputs, *, least: float = 0.05, overlap: float = 0.5) -> list[Boxes]:
  """The boxes of outputs [n, h, w, 5 + kinds], best first.

  least: scores below are left out; a score is that of a thing times that of its kind. overlap: of
  boxes of one kind that share more (`iou`), the best alone stays.
  """
  return [_decoded(np.asarray(one, np.float64), least, overlap) for one in outputs]


def _decoded(cells, least, overlap) -> Boxes:
  h, w, _ = cells.shape
  rows, columns = np.mgrid[:h, :w]
  sure, x, y, root_w, root_h = (1 / (1 + np.exp(-cells[..., i])) for i in range(5))
  kinds = np.exp(cells[..., 5:] - cells[..., 5:].max(-1, keepdims=True))
  kinds /= kinds.sum(-1, keepdims=True)
  center = np.stack([(columns + x) / w, (rows + y) / h], -1)
  half = np.stack([root_w**2, root_h**2], -1) / 2
  boxes = np.concatenate([center - half, center + half], -1).reshape(-1, 4).clip(0, 1)
  scores, kind = (sure * kinds.max(-1)).reshape(-1), kinds.argmax(-1).reshape(-1)
  order = [i for i in np.argsort(-scores, kind='stable') if scores[i] >= least]
  kept = []
  for i in order:
    rivals = [j for j in kept if kind[j] == kind[i]]
    if not rivals or iou(boxes[i : i + 1], boxes[rivals]).max() <= overlap:
      kept.append(i)
  return Boxes(boxes[kept], kind[kept], scores[kept])


def iou(a, b) -> np.ndarray:
  """Intersection over union [n, m] of boxes a [n, 4] and b [m, 4]; 0 where both are empty."""
  low = np.maximum(a[:, None, :2], b[None, :, :2])
  high = np.minimum(a[:, None, 2:], b[None, :, 2:])
  shared = np.clip(high - low, 0, None).prod(-1)
  area = lambda boxes: (boxes[:, 2:] - boxes[:, :2]).prod(-1)
  union = area(a)[:, None] + area(b)[None] - shared
  return np.where(union > 0, shared / np.where(union > 0, union, 1), 0.0)


def average_precision(found: list[Boxes], truth: list[Boxes], *, overlap: float = 0.5) -> float:
  """The area under precision over recall, the mean of all kinds that the truth has.

  A box found is right if it shares at least `overlap` with a true one of its image and kind that no
  better one took; precision is made to fall (Everingham et al. 2010, all points). NaN without
  truth.
  """
  kinds = sorted({int(k) for one in truth for k in one.kinds})
  return float(np.mean([_of_kind(found, truth, k, overlap) for k in kinds])) if kinds else np.nan


def _of_kind(found, truth, kind, overlap) -> float:
  true = [one.boxes[one.kinds == kind] for one in truth]
  free = [np.ones(len(boxes), bool) for boxes in true]
  entries = [(score, i, box) for i, one in enumerate(found)
             for score, box, k in zip(one.scores, one.boxes, one.kinds) if k == kind]  # fmt: skip
  entries.sort(key=lambda entry: -entry[0])
  right = []
  for _, i, box in entries:
    shares = np.where(free[i], iou(box[None], true[i])[0], -1) if len(true[i]) else np.array([-1.0])
    best = int(shares.argmax())
    right.append(shares[best] >= overlap)
    if right[-1]:
      free[i][best] = False
  hits = np.cumsum(right)
  precision = hits / np.arange(1, len(right) + 1)
  falling = np.maximum.accumulate(precision[::-1])[::-1]
  return float(falling[np.asarray(right, bool)].sum() / sum(map(len, true)))
