"""Weights of a convolution pruned in blocks: a filterlet is all input channels at one place.

Kernels are [kh, kw, cin, cout]. A structure says which weights live or die together, and how many
of those blocks one choice holds: filterlets (Han et al., DTMM, INFOCOM 2024) lie between single
weights and whole filters.
"""

from typing import NamedTuple

import numpy as np

from reduction.errors import require

WHOLE = 0  # as a side of a block: the whole axis


class Block(NamedTuple):
  """Sides of a block along kh, kw, cin, cout; WHOLE is all of the axis. A rest is a block too."""

  sides: tuple[int, int, int, int]

  def over(self, shape) -> tuple[int, ...]:
    """The sides for a kernel of that shape."""
    return tuple(side or size for side, size in zip(self.sides, shape))


STRUCTURES = {
  'filterlet': Block((1, 1, WHOLE, 1)),
  'paired': Block((1, 1, WHOLE, 2)),  # one set of places for two filters
  'filter': Block((WHOLE, WHOLE, WHOLE, 1)),
  'weight': Block((1, 1, 1, 1)),
}


def sums(scores, block: Block) -> np.ndarray:
  """Sums of scores [kh, kw, cin, cout] over each block: one number a block, [.., .., .., ..]."""
  for axis, side in enumerate(block.over(np.shape(scores))):
    starts = np.arange(0, np.shape(scores)[axis], side)
    scores = np.add.reduceat(np.asarray(scores), starts, axis)
  return scores


def spread(units, shape, block: Block) -> np.ndarray:
  """units, one a block, as an array of a kernel's shape."""
  for axis, (side, size) in enumerate(zip(block.over(shape), shape)):
    units = np.take(np.repeat(units, side, axis), np.arange(size), axis)
  return units


def alive(mask, block: Block) -> np.ndarray:
  """Which blocks keep a weight: bool, one a block."""
  return sums(np.asarray(mask, np.int32), block) > 0


def n_of_m(scores, mask, n: int, m: int) -> np.ndarray:
  """The mask that keeps the n largest of every m scores in a row along cin; ties: the earlier.

  A rest shorter than m keeps up to n too. Weights that mask drops stay dropped.
  """
  require(0 < n <= m, f'{n} of {m} weights cannot be kept')
  kh, kw, cin, cout = scores.shape
  groups = -(-cin // m)
  padded = np.full((kh, kw, groups * m, cout), -np.inf)
  padded[:, :, :cin] = np.where(mask, scores, -np.inf)
  split = padded.reshape(kh, kw, groups, m, cout)
  kept = _ranks(-split, 3) < n
  return kept.reshape(kh, kw, -1, cout)[:, :, :cin] & np.asarray(mask)


def patterns(scores, mask, entries: int = 4, count: int = 8) -> np.ndarray:
  """The mask in which every kernel [kh, kw] keeps `entries` places, by one of `count` patterns.

  The patterns are those that kernels' largest entries form most often, as PatDNN's (Niu et al.,
  ASPLOS 2020); each kernel takes the one that keeps most of its score.
  """
  places = scores.shape[0] * scores.shape[1]
  flat = np.where(mask, scores, 0.0).reshape(places, -1)
  best = _ranks(-flat, 0) < entries
  shapes, times = np.unique(best.T, axis=0, return_counts=True)
  table = shapes[np.argsort(-times, kind='stable')[:count]]
  chosen = table[(table.astype(float) @ flat).argmax(0)]
  return chosen.T.reshape(scores.shape) & np.asarray(mask)


def _ranks(values, axis: int) -> np.ndarray:
  """The place of each value in rising order along an axis; ties: the earlier first."""
  return np.argsort(np.argsort(values, axis, kind='stable'), axis, kind='stable')


def smallest_blocks(scores: dict, masks: dict, block: Block, keep: dict) -> dict:
  """Masks by name that keep the keep[name] blocks of the largest sums among those still alive.

  scores, masks: kernels by name. keep: exact counts; a name it lacks keeps its mask. Equal
  sums: the earlier block stays; of keep equal to what is alive, nothing goes.
  Raises UsageError where a kernel would keep nothing.
  """
  after = dict(masks)
  for name, count in keep.items():
    mask = np.asarray(masks[name])
    total = block_count(mask.shape, block)
    require(count > 0, f'{name} would keep none of its {total} blocks and pass nothing on; keep '
            'one, or remove its filters')  # fmt: skip
    units = sums(np.where(mask, scores[name], 0.0), block)
    units = np.where(alive(mask, block), units, -np.inf)
    kept = (_ranks(-units.reshape(-1), 0) < count).reshape(units.shape)
    after[name] = spread(kept, mask.shape, block) & mask
  return after


def block_count(shape, block: Block) -> int:
  """How many blocks a kernel of that shape has."""
  return int(np.prod([-(-n // s) for n, s in zip(shape, block.over(shape))]))


def shares(units: dict, sizes: dict, budget: float, least: float = 0.05) -> dict:
  """Blocks that each kernel keeps of a budget of weights, the best by score a weight.

  units: sums of blocks by name, dead ones -inf. sizes: weights of a block by name. least: the share
  of its live blocks that every kernel keeps, rounded up, one at least, also beyond the budget.
  """
  require(budget > 0, f'{budget=} weights to keep must be above 0')
  value = {n: np.sort(np.ravel(u))[::-1] / sizes[n] for n, u in units.items()}
  value = {n: v[v > -np.inf] for n, v in value.items()}
  floors = {n: max(1, int(np.ceil(least * len(v)))) for n, v in value.items()}
  ranked = sorted(
    ((i >= floors[n], -score, n) for n, v in value.items() for i, score in enumerate(v)),
    key=lambda entry: entry[:2],
  )
  keep, held = dict.fromkeys(units, 0), 0.0
  for beyond, _, name in ranked:
    if beyond and held + sizes[name] > budget + 0.5:
      break
    keep[name], held = keep[name] + 1, held + sizes[name]
  return keep
