"""Instructions of a network on a microcontroller, from those of a few that were measured.

A table of ops by their shape, as ProxylessNAS has for telephones. An op of a shape that was not
measured is estimated: for its kind, kernel and stride a sum of what grows with
multiply-accumulates, inputs, outputs, output pixels and rows, found by least squares of relative
errors; a whole network's estimate is then up to 15 % off, because compilers unroll by shape. What
is measured comes from `mcu.measure`, which counts exactly. Ops of one shape are one function of the
C, and what a network has once is compiled into the place of its call, so that it takes another
count. The table that comes along has every op of the spaces of configs/mcunet and configs/nas, on a
Cortex-M4 and M7, in instructions of the emulator, not cycles: rows(measured(space, covering(space),
core)) of each space, and of `paths.uniform`. Whole networks beside it: configs/bench/search.py.
"""

import functools
import json
import pathlib
from typing import NamedTuple

import numpy as np

from reduction.errors import did_you_mean, require
from reduction.mcu import boards, emit, measure, plan, zoo
from reduction.mcu.graph import Graph
from reduction.search import space as spaces
from reduction.search.arch import description
from reduction.search.cost import ABSENT, Ops, macs, ops_of_arch
from reduction.search.space import Space

TABLE = pathlib.Path(__file__).parent / 'instructions.jsonl'
KEYS = 'kind', 'kernel', 'stride', 'side', 'out', 'cin', 'cout', 'apart', 'shared'


class Table(NamedTuple):
  """shapes: an op's numbers, as of KEYS -> instructions, the mean of those measured.

  shared: 1 where another op of the network has the same numbers. What an op holds is none of them.
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
  """(kind, kernel, stride) [n, ops, 3] and the shape [n, ops, 9], as of KEYS, of each op."""
  numbers = [getattr(ops, key) for key in KEYS[:-1]]
  one = np.ravel_multi_index(numbers, [values.max() + 1 for values in numbers])
  shared = (one[:, :, None] == one[:, None]).sum(2) > 1
  found = np.stack([*numbers, shared], -1)
  return found[..., :3], found


def rows(measured: list[tuple[Ops, np.ndarray]]) -> dict[tuple, float]:
  """Shape, as of KEYS -> instructions, the mean, of (ops [1, ops], counts of those there) each."""
  seen: dict[tuple, list] = {}
  for ops, counts in measured:
    here = ops.kind[0] != ABSENT
    require(here.sum() == len(counts), f'{len(counts)} counts for {here.sum()} ops')
    for shape, count in zip(_keys(ops)[1][0][here].tolist(), counts):
      seen.setdefault(tuple(shape), []).append(count)
  return {shape: float(np.mean(counts)) for shape, counts in seen.items()}


def shapes(ops: Ops) -> list[tuple]:
  """The different shapes, as of KEYS and none of them shared, of the ops of networks."""
  found = _keys(ops)[1][ops.kind != ABSENT] * (np.array(KEYS) != 'shared')
  return [tuple(one) for one in np.unique(found, axis=0).tolist()]


def fit(shapes: dict[tuple, float]) -> Table:
  """The table of `rows`."""
  groups: dict[tuple, list] = {}
  for shape, count in shapes.items():
    groups.setdefault(shape[:3], []).append((features(_ops_of_shape(shape))[0, 0], count))
  units = {}
  for key, pairs in groups.items():
    numbers, counts = (np.array(part, np.float64) for part in zip(*pairs))
    # columns of one size, each equation relative to its count
    scale = np.maximum(numbers.max(0), 1)
    solved = np.linalg.lstsq(numbers / scale / counts[:, None], np.ones(len(counts)), rcond=1e-9)[0]
    units[key] = solved / scale
  return Table(shapes, units)


def _ops_of_shape(shape) -> Ops:
  one = {key: np.array([[value]]) for key, value in zip(KEYS[:-1], shape)}
  return Ops(**one, held=np.zeros((1, 1), np.int64))


@functools.lru_cache(maxsize=8)
def read(core: str | pathlib.Path = 'm4') -> Table:
  """The table of a core of `mcu.boards.CORES` that comes along, empty where none was measured.

  Of a path: that of a file that `write` wrote. Raises UsageError for a core that is none.
  """
  path, column = (TABLE, core) if isinstance(core, str) else (core, 'instructions')
  known = path != TABLE or core in boards.CORES
  require(known, f'core {core!r} is not known.{did_you_mean(str(core), boards.CORES)}')
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  return fit({tuple(line[k] for k in KEYS): line[column] for line in lines if column in line})


def write(path: pathlib.Path, **columns: dict[tuple, float]):
  """A file of `rows` of the same shapes, a line a shape; instructions=: those that `read` takes."""
  told = lambda shape: {name: shapes[shape] for name, shapes in columns.items()}
  every = sorted(set().union(*columns.values()))
  lines = [dict(zip(KEYS, shape), **told(shape)) for shape in every]
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))


def covering(space: Space) -> np.ndarray:
  """Genes of few networks that have every op shape of a space of one resolution and width.

  An op's shape follows from its place and its block's choices alone: all blocks with each of them,
  at their most, where the later ones of a stage are equal, and two a stage, where none are.
  """
  one = len(space.resolutions) == len(space.widths) == 1
  require(one, f'{space.name} has several resolutions or widths: measure each, see Space.at')
  last, at = space.choices() - 1, 2 + len(space.stages)
  two = [min(sum(d < 2 for d in s.depths), len(s.depths) - 1) for s in space.stages]
  found = []
  for depths in last[2:at], two:
    for kernel in range(len(space.kernels)):
      for expansion in range(len(space.expansions)):
        row = last.copy()
        row[2:at], row[at::2], row[at + 1 :: 2] = depths, kernel, expansion
        found.append(row)
  return np.unique(spaces.canonical(space, np.stack(found)), axis=0)


def counted(graph: Graph, core: str = 'm4') -> list[int]:
  """Instructions of each op of a graph on an emulated core. Raises as `mcu.measure.measure`."""
  return measure.measure(emit.emit(graph, plan.plan(graph)), core=core).layers


def measured(space: Space, genes, core: str = 'm4') -> list[tuple[Ops, list[int]]]:
  """(ops [1, ops], instructions of each) of networks of genes, with random weights."""
  archs = [spaces.decode(space, row) for row in genes]
  build = lambda a: zoo.build(description(a), 'net', a.resolution, channels=a.channels)
  return [(ops_of_arch(a), counted(build(a), core)) for a in archs]


def predict(table: Table, ops: Ops) -> np.ndarray:
  """float64 [n]: instructions of each network: of its ops' shapes, else of their features.

  Raises UsageError for a kind of op, kernel and stride that no measured network had.
  """
  rows, (kinds, shapes) = features(ops), _keys(ops)
  here, total = ops.kind != ABSENT, np.zeros(ops.kind.shape)
  distinct, first, which = np.unique(shapes[here], axis=0, return_index=True, return_inverse=True)
  costs = []
  for shape, kind, row in zip(distinct.tolist(), kinds[here][first].tolist(), rows[here][first]):
    other = *shape[:-1], 1 - shape[-1]
    known = table.shapes.get(tuple(shape), table.shapes.get(other))
    if known is None:
      missing = f'no measured network has an op of (kind, kernel, stride) {tuple(kind)}'
      require(tuple(kind) in table.units, missing)
      known = row @ table.units[tuple(kind)]
    costs.append(known)
  total[here] = np.array(costs)[which.reshape(-1)]
  return total.sum(1)


def with_instructions(costs: dict, ops: Ops, table: Table | None = None) -> dict:
  """costs and 'instructions' [n] by a table, NaN where it has no op of some kind and window."""
  table = read() if table is None else table
  kinds = np.unique(_keys(ops)[0][ops.kind != ABSENT], axis=0).tolist()
  if all(tuple(kind) in table.units for kind in kinds):
    return dict(costs, instructions=np.round(predict(table, ops)))
  return dict(costs, instructions=np.full(len(ops.kind), np.nan))
