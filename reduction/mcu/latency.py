"""Instructions of a convolution from a table of measured ones: by shape, form and what is kept.

For one shape and form the count is linear in the filterlets that are kept, in 'csr' in the weights,
whatever their values; between shapes it is a sum of loops, whose costs are fitted to the table
(non-negative least squares of relative errors). Instructions of the emulator, not cycles.
"""

import dataclasses
import functools
import json
import math
import pathlib
from typing import NamedTuple

import numpy as np
from scipy import optimize

from reduction.errors import require
from reduction.mcu import boards, emit, measure, plan, sketch, sparse
from reduction.mcu.graph import Conv, Graph

TABLE = pathlib.Path(__file__).parent / 'instructions.jsonl'
SINGLE = 0.4, 0.1  # shares of weights: more of the largest shape pass the 32,767 of its integers
ALL = 'dense', 'wide'  # forms whose kernels read every weight, also those that are 0
DENSE = 1.3  # instructions of a multiplication in a dense layer
LIKE = dict(m7='m4', m33='m4')  # which dual products these have too


class Shape(NamedTuple):
  """A convolution: its input, filters, window. pad: half of the kernel, as in all nets here."""

  h: int
  w: int
  cin: int
  cout: int
  kernel: int
  stride: int

  @property
  def places(self) -> int:
    """Filterlets of a filter."""
    return self.kernel**2

  @property
  def pixels(self) -> int:
    """Of the output."""
    side = lambda n: (n + 2 * (self.kernel // 2) - self.kernel) // self.stride + 1
    return side(self.h) * side(self.w)


class Row(NamedTuple):
  """A measurement. form: 'dense' or of `sparse`. kept: filterlets; of 'csr', weights."""

  core: str
  form: str
  shape: Shape
  kept: int
  instructions: int


SHAPES = tuple(Shape(*sizes) for sizes in (
  (16, 16, 3, 8, 3, 1), (32, 32, 3, 16, 3, 1), (32, 32, 8, 8, 3, 1), (16, 16, 8, 16, 3, 1),
  (16, 16, 16, 16, 3, 1), (8, 8, 16, 32, 3, 1), (8, 8, 32, 32, 3, 1), (4, 4, 64, 64, 3, 1),
  (8, 8, 64, 64, 3, 1), (4, 4, 32, 64, 3, 1), (9, 7, 20, 30, 3, 2), (8, 8, 24, 40, 3, 1),
  (16, 16, 16, 32, 1, 2), (8, 8, 12, 18, 5, 1), (4, 4, 128, 64, 3, 1), (8, 8, 1, 16, 3, 1),
  (5, 5, 10, 9, 3, 1), (10, 10, 1, 6, 3, 1), (12, 12, 3, 4, 3, 1),
))  # fmt: skip


def items(shapes=SHAPES, shares=(1.0, 0.5, 0.1)) -> list[tuple[str, Shape, int]]:
  """What the table that comes along holds of each core: `measured(items(), core)`, then `write`."""
  found = []
  for shape in shapes:
    full = shape.places * shape.cout
    found += [('dense', shape, full), ('wide', shape, full)]
    found += [(form, shape, max(1, round(s * full))) for form in ('fwcs', 'bitmap') for s in shares]
    found += [('csr', shape, max(1, round(s * full * shape.cin))) for s in SINGLE]
  return found


def shape_of(graph: Graph, op: Conv) -> Shape:
  """The shape of a convolution of a graph. Raises UsageError for a window that is not square."""
  (kh, kw), (sh, sw) = op.window.kernel, op.window.stride
  require(kh == kw and sh == sw, f'{op.name}: the table knows square windows, not {op.window}')
  h, w, cin = graph.tensors[op.inputs[0]].shape
  return Shape(h, w, cin, len(op.weights), kh, sh)


def measured(items: list[tuple[str, Shape, int]], core: str = 'm4') -> list[Row]:
  """Rows of (form, shape, filterlets kept), each counted in the emulator, all in one program."""
  graphs = [_single(*item, seed=i) for i, item in enumerate(items)]
  graph = _beside(graphs)
  found = measure.measure(emit.emit(graph, plan.plan(graph)), core=core)
  return [Row(core, *item, count) for item, count in zip(items, found.layers, strict=True)]


def _single(form: str, shape: Shape, kept: int, seed: int) -> Graph:
  """One convolution with random weights in `kept` random filterlets, pairs of them, or places."""
  s = sketch.Sketch((shape.h, shape.w, shape.cin), seed)
  sketch.conv(s, 0, shape.cout, kernel=shape.kernel, stride=shape.stride)
  op = s.ops[0]
  together = 2 if form == 'paired' else 1
  channels = shape.cin if form == 'csr' else 1
  size = -(-shape.cout // together), shape.kernel, shape.kernel, channels
  chosen = s.random.permutation(math.prod(size)) < kept / together
  alive = np.repeat(chosen.reshape(size), together, 0)[: shape.cout]
  op = dataclasses.replace(op, weights=np.where(alive, op.weights | 1, 0).astype(np.int8))
  # pairs of filters by pairs of pixels: four sums, as one filter by four
  s.ops[0] = op if form == 'dense' else sparse.as_form(op, form, 2 if together == 2 else 4)
  return sketch.finish(s, 'single')


def _beside(graphs: list[Graph]) -> Graph:
  """Graphs of one op as one, with an input each; only the last output lives to the end."""
  tensors, ops = [], []
  for graph in graphs:
    at = len(tensors)
    tensors += graph.tensors
    ops.append(dataclasses.replace(graph.ops[0], inputs=(at,), output=at + 1))
  return Graph('table', tuple(tensors), tuple(ops), tuple(range(0, len(tensors), 2)),
               (len(tensors) - 1,))  # fmt: skip


def features(form: str, shape: Shape, kept: int, core: str = 'm4') -> np.ndarray:
  """How often each loop of a form's kernel runs; vectors take 16 channels at once, and a rest."""
  n, cout, depth = shape.pixels, shape.cout, shape.places * shape.cin
  vector = boards.CORES[core].vector
  cut = lambda size: (size // 16, size % 16 > 0) if vector else divmod(size, 4)
  place = n * shape.places
  if form == 'dense':
    blocks, (groups, rest) = math.ceil(n / 2) * math.ceil(cout / 2), cut(depth)
    return np.array([1, n, place, place * shape.cin, n * cout, blocks, blocks * groups,
                     blocks * rest])  # fmt: skip
  blocks, (groups, rest) = n // 4 + n % 4, cut(shape.cin)
  if form == 'csr':
    return np.array([1, n, place, place * shape.cin, n * cout, blocks * cout, blocks * kept])
  return np.array([1, n, place, place * groups, place * rest, n * cout, blocks * cout,
                   blocks * kept, blocks * kept * groups, blocks * kept * rest])  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Table:
  """Measured rows of one core. Raises UsageError where a form has none."""

  rows: tuple[Row, ...]

  def __post_init__(self):
    require(len({row.core for row in self.rows}) == 1, 'a table holds the rows of one core')

  @property
  def core(self) -> str:
    """Whose instructions they are."""
    return self.rows[0].core

  @property
  def forms(self) -> list[str]:
    """Those of `sparse` that have rows."""
    return sorted({row.form for row in self.rows} - {'dense'})

  @functools.cached_property
  def costs(self) -> dict[str, np.ndarray]:
    """Form -> instructions of each of its loops, fitted to relative errors."""
    found = {}
    for form in {row.form for row in self.rows}:
      rows = [row for row in self.rows if row.form == form]
      x = np.array([features(*row[1:4], self.core) / row.instructions for row in rows])
      scale = x.max(0)
      found[form] = optimize.nnls(x / scale, np.ones(len(rows)))[0] / scale
    return found

  @functools.cached_property
  def lines(self) -> dict[tuple[str, Shape], np.ndarray]:
    """(form, shape) -> [points, 2] of kept and instructions, rising."""
    found = {}
    for row in self.rows:
      found.setdefault((row.form, row.shape), []).append((row.kept, row.instructions))
    return {key: np.array(sorted(points)) for key, points in found.items()}

  def instructions(self, form: str, shape: Shape, kept: int) -> float:
    """The count of a shape: interpolated where it is in the table, else from the loops' costs."""
    kept = shape.places * shape.cout if form in ALL else kept
    line = self.lines.get((form, shape))
    if line is not None and line[0, 0] <= kept <= line[-1, 0]:
      return float(np.interp(kept, *line.T))
    require(form in self.costs, f'the table has no rows of {form!r}; it has {sorted(self.costs)}')
    return float(features(form, shape, kept, self.core) @ self.costs[form])

  def best(self, shape: Shape, kept: int, without: tuple[str, ...] = ()) -> tuple[float, str]:
    """The least count over forms of filterlets, and its form; one that keeps all may be dense."""
    forms = sorted(form for form in self.costs if form not in (*without, 'csr'))
    return min((self.instructions(form, shape, kept), form) for form in forms)

  def error(self, rows) -> tuple[float, float]:
    """(mean, largest) relative error on rows, by the costs of loops alone."""
    said = lambda row: features(*row[1:4], self.core) @ self.costs[row.form]
    found = [abs(said(row) / row.instructions - 1) for row in rows]
    return float(np.mean(found)), float(np.max(found))


def read(core: str = 'm4', path: pathlib.Path = TABLE) -> Table:
  """The table of a core among a file of rows. Cores of the same instructions share one.

  Raises UsageError for a core without rows.
  """
  core = LIKE.get(core, core)
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  rows = [Row(**{**line, 'shape': Shape(*line['shape'])}) for line in lines]
  known = sorted({row.core for row in rows})
  require(core in known, f'{path.name} has no rows of {core!r}, it has {", ".join(known)}')
  return Table(tuple(row for row in rows if row.core == core))


def stored(op: Conv, form: str) -> int:
  """What a form keeps of a convolution: filterlets, in 'csr' single weights."""
  return int(np.count_nonzero(op.weights) if form == 'csr' else sparse.kept(op.weights).sum())


def fastest(graph: Graph, table: Table, most: float = math.inf) -> Graph:
  """graph with each convolution in the form of the fewest instructions.

  most: bytes of the arena; where `wide` windows do not fit into it, none are.
  """
  count = lambda op, form: table.instructions(form, shape_of(graph, op), stored(op, form))
  fewest = sparse.sparsify(graph, tuple(table.forms), cost=count)
  if plan.plan(fewest).peak <= most:
    return fewest
  return sparse.sparsify(graph, tuple(f for f in table.forms if f != 'wide'), cost=count)


def predicted(graph: Graph, table: Table) -> float:
  """Instructions of a graph: its plain convolutions by the table, dense layers DENSE a weight.

  All others, depthwise convolutions too, count as none.
  """
  total = 0.0
  for op in graph.ops:
    if op.kind == 'conv':
      form = getattr(op, 'form', 'dense')
      total += table.instructions(form, shape_of(graph, op), stored(op, form))
    elif op.kind == 'dense':
      total += DENSE * op.weights.size
  return total


def write(rows, path: pathlib.Path):
  """A file that `read` reads."""
  path.write_text(''.join(json.dumps(row._asdict()) + '\n' for row in rows))
