"""Instructions of a network on a microcontroller, from those of a few that were measured.

A table of ops by their shape, as ProxylessNAS has for telephones. An op of a shape that was not
measured is estimated: for its kind, kernel and stride a sum of what grows with
multiply-accumulates, inputs, outputs, output pixels and rows, found by least squares of relative
errors; a whole network's estimate is then up to 15 % off, because compilers unroll by shape. What
is measured comes from `mcu.measure`, which counts exactly.
"""

from typing import NamedTuple

import numpy as np

from reduction.errors import require
from reduction.search.cost import ABSENT, Ops, macs


class Table(NamedTuple):
  """shapes: all of an op's numbers but what it holds -> instructions, the mean of those measured.

  units: (kind, kernel, stride) -> [6], instructions a unit of each feature.
  """

  shapes: dict[tuple, float]
  units: dict[tuple, np.ndarray]


def features(ops: Ops) -> np.ndarray:
  """float64 [n, ops, 6]: multiply-accumulates, inputs, outputs, output pixels and rows, 1."""
  pixels = ops.out**2
  values = ops.side**2 * ops.cin, pixels * ops.cout
  parts = macs(ops), *values, pixels, ops.out, np.ones_like(pixels)
  return np.stack(parts, -1).astype(np.float64)


def _keys(ops: Ops) -> tuple[np.ndarray, np.ndarray]:
  """(kind, kernel, stride) [n, ops, 3] and the shape [n, ops, 8] of each op."""
  kinds = np.stack([ops.kind, ops.kernel, ops.stride], -1)
  sizes = np.stack([ops.side, ops.out, ops.cin, ops.cout, ops.apart], -1)
  return kinds, np.concatenate([kinds, sizes], -1)


def fit(measured: list[tuple[Ops, np.ndarray]]) -> Table:
  """measured: (ops [1, ops], the instructions of those that are not absent) of each network."""
  groups: dict[tuple, list] = {}
  seen: dict[tuple, list] = {}
  for ops, counts in measured:
    here = ops.kind[0] != ABSENT
    require(here.sum() == len(counts), f'{len(counts)} counts for {here.sum()} ops')
    kinds, shapes = (keys[0][here].tolist() for keys in _keys(ops))
    for kind, shape, row, count in zip(kinds, shapes, features(ops)[0][here], counts):
      groups.setdefault(tuple(kind), []).append((row, count))
      seen.setdefault(tuple(shape), []).append(count)
  units = {}
  for key, pairs in groups.items():
    rows, counts = (np.array(part, np.float64) for part in zip(*pairs))
    # columns of one size, each equation relative to its count
    scale = np.maximum(rows.max(0), 1)
    solved = np.linalg.lstsq(rows / scale / counts[:, None], np.ones(len(rows)), rcond=1e-9)[0]
    units[key] = solved / scale
  return Table({shape: float(np.mean(found)) for shape, found in seen.items()}, units)


def predict(table: Table, ops: Ops) -> np.ndarray:
  """float64 [n]: instructions of each network: of its ops' shapes, else of their features.

  Raises UsageError for a kind of op, kernel and stride that no measured network had.
  """
  rows, (kinds, shapes) = features(ops), _keys(ops)
  here, total = ops.kind != ABSENT, np.zeros(ops.kind.shape)
  distinct, first, which = np.unique(shapes[here], axis=0, return_index=True, return_inverse=True)
  costs = []
  for shape, kind, row in zip(distinct.tolist(), kinds[here][first].tolist(), rows[here][first]):
    known = table.shapes.get(tuple(shape))
    if known is None:
      missing = f'no measured network has an op of (kind, kernel, stride) {tuple(kind)}'
      require(tuple(kind) in table.units, missing)
      known = row @ table.units[tuple(kind)]
    costs.append(known)
  total[here] = np.array(costs)[which.reshape(-1)]
  return total.sum(1)
