"""Instructions of a network on a microcontroller, from those of a few that were measured.

For each kind of op and kernel the instructions are a sum of what grows with multiply-accumulates,
with inputs, outputs, output pixels and rows, and a constant; found by least squares of relative
errors. What is measured comes from `mcu.measure`, which counts exactly.
"""

import numpy as np

from reduction.errors import require
from reduction.search.cost import ABSENT, Ops, macs

Table = dict  # (kind, kernel, stride) -> [6] instructions a unit of each feature


def features(ops: Ops) -> np.ndarray:
  """float64 [n, ops, 6]: multiply-accumulates, inputs, outputs, output pixels and rows, 1."""
  pixels = ops.out**2
  values = ops.side**2 * ops.cin, pixels * ops.cout
  parts = macs(ops), *values, pixels, ops.out, np.ones_like(pixels)
  return np.stack(parts, -1).astype(np.float64)


def _keys(ops: Ops) -> np.ndarray:
  return np.stack([ops.kind, ops.kernel, ops.stride], -1)


def fit(measured: list[tuple[Ops, np.ndarray]]) -> Table:
  """measured: (ops [1, ops], the instructions of those that are not absent) of each network."""
  groups: dict[tuple, list] = {}
  for ops, counts in measured:
    here = ops.kind[0] != ABSENT
    require(here.sum() == len(counts), f'{len(counts)} counts for {here.sum()} ops')
    for key, row, count in zip(_keys(ops)[0][here], features(ops)[0][here], counts):
      groups.setdefault(tuple(map(int, key)), []).append((row, count))
  table = {}
  for key, pairs in groups.items():
    rows, counts = (np.array(part, np.float64) for part in zip(*pairs))
    # columns of one size, each equation relative to its count
    scale = np.maximum(rows.max(0), 1)
    solved = np.linalg.lstsq(rows / scale / counts[:, None], np.ones(len(rows)), rcond=1e-9)[0]
    table[key] = solved / scale
  return table


def predict(table: Table, ops: Ops) -> np.ndarray:
  """float64 [n]: instructions of each network.

  Raises UsageError for a kind of op, kernel and stride that no measured network had.
  """
  rows, keys, total = features(ops), _keys(ops), np.zeros(len(ops.kind))
  kinds = np.unique(keys[ops.kind != ABSENT], axis=0)
  for key in kinds:
    name = tuple(map(int, key))
    require(name in table, f'no measured network has an op of (kind, kernel, stride) {name}')
    total += np.where((keys == key).all(-1), rows @ table[name], 0.0).sum(1)
  return total
