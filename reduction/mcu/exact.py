"""The least peak for small graphs, as a mixed integer program (scipy's HiGHS)."""

import itertools

import numpy as np
from scipy import optimize, sparse

from reduction.errors import require
from reduction.mcu.chain import conflicts, peak

MOST_PAIRS = 2_000


def place(chains, align: int, placed, seconds: float = 20.0):
  """[(chain, offset)] with the least peak; no worse than `placed`, which it starts from.

  Offsets count in units of align. Each pair of pieces that live at once has a binary that says
  which lies below. Raises UsageError for more than MOST_PAIRS such pairs.
  """
  units = lambda size: -(-size // align)
  most = units(peak(placed))
  pairs = [
    (i, j, p, q)
    for (i, a), (j, b) in itertools.combinations(enumerate(chains), 2)
    for p, q in conflicts(a, b)
  ]
  require(len(pairs) <= MOST_PAIRS, f'{len(pairs)} pairs of tensors are too many for an exact plan')
  count = len(chains) + len(pairs) + 1  # offsets, binaries, the peak
  rows, bounds = [], []

  def at_most(entries, bound):
    rows.append(entries)
    bounds.append(bound)

  for k, (i, j, p, q) in enumerate(pairs):
    below = len(chains) + k
    p_at, q_at = p.at // align, q.at // align
    at_most([(i, 1), (j, -1), (below, most)], most + q_at - p_at - units(p.size))
    at_most([(j, 1), (i, -1), (below, -most)], p_at - q_at - units(q.size))
  for i, chain in enumerate(chains):
    at_most([(i, 1), (count - 1, -1)], -max(p.at // align + units(p.size) for p in chain))
  matrix = sparse.lil_array((len(rows), count))
  for row, entries in enumerate(rows):
    for column, value in entries:
      matrix[row, column] = value
  cost = np.zeros(count)
  cost[-1] = 1
  upper = np.full(count, float(most))
  upper[len(chains) : -1] = 1
  found = optimize.milp(
    cost, integrality=np.ones(count), bounds=optimize.Bounds(0, upper),
    constraints=optimize.LinearConstraint(matrix.tocsr(), -np.inf, np.array(bounds, float)),
    options=dict(time_limit=seconds),
  )  # fmt: skip
  if found.x is None:
    return placed
  better = [(chain, round(float(x)) * align) for chain, x in zip(chains, found.x)]
  return min(better, placed, key=peak)
