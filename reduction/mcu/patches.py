"""The first layers patch by patch (Lin et al., MCUNetV2, NeurIPS 2021), as a graph again.

Early layers hold the largest images. Cut off after one of them, and made a patch of its output at a
time, only a patch of each image in between is ever held; pixels that two patches need are computed
twice. What comes out is a `Graph` with the same bytes, whose patches share their constants, so that
it is planned, interpreted and written as any other.
"""

import dataclasses
from typing import NamedTuple

from reduction.errors import require
from reduction.mcu.graph import (
  Add,
  Conv,
  Crop,
  Depthwise,
  Graph,
  Lookup,
  Mul,
  Op,
  Paste,
  Pool,
  Tensor,
  Window,
)  # fmt: skip
from reduction.mcu.overlap import Style
from reduction.mcu.plan import Plan, lower_bound, plan

FEW = 3  # cuts that are planned
WINDOWED = Conv | Depthwise | Pool


class Box(NamedTuple):
  """Pixels of an image: rows from top to bottom, columns from left to right, ends not included."""

  top: int
  bottom: int
  left: int
  right: int

  @property
  def area(self) -> int:
    """Pixels."""
    return (self.bottom - self.top) * (self.right - self.left)

  def union(self, other: 'Box') -> 'Box':
    """The least box that holds both."""
    return Box(min(self.top, other.top), max(self.bottom, other.bottom),
               min(self.left, other.left), max(self.right, other.right))  # fmt: skip


def cuts(graph: Graph) -> list[int]:
  """Ops after which one image alone lives on, made by ops that work on patches."""
  lives, found = graph.lifetimes(), []
  for i, op in enumerate(graph.ops):
    if not isinstance(op, WINDOWED | Add | Mul | Lookup) or len(graph.inputs) != 1:
      break
    same = all(graph.tensors[t].shape == graph.tensors[op.output].shape for t in op.inputs)
    if isinstance(op, Mul) and not same:
      break
    alive = [t for t, (first, last) in lives.items() if first <= i < last or t in graph.outputs]
    if [t for t in alive if lives[t][0] <= i] == [op.output] and op.output not in graph.outputs:
      found.append(i)
  return found


def patched(graph: Graph, last: int, rows: int, columns: int) -> Graph:
  """The graph whose ops up to `last` run once for each of rows x columns patches of their output.

  Raises UsageError where the graph cannot be cut there, or has no such patches.
  """
  require(last in cuts(graph), f'{graph.name} cannot be cut after op {last}; see cuts()')
  h, w, _ = graph.tensors[graph.ops[last].output].shape
  fit = 1 <= rows <= h and 1 <= columns <= w
  require(fit, f'{rows} x {columns} patches of an image of {h} x {w}')
  work = _Work(graph, list(graph.tensors), [])
  whole = None
  for r in range(rows):
    for c in range(columns):
      box = Box(h * r // rows, h * (r + 1) // rows, w * c // columns, w * (c + 1) // columns)
      part = _patch(work, last, box, f'[{r}, {c}]')
      end = r == rows - 1 and c == columns - 1
      whole = _paste(work, graph.ops[last].output, whole, part, box, end)
  ops = (*work.ops, *graph.ops[last + 1 :])
  return dataclasses.replace(graph, tensors=tuple(work.tensors), ops=ops)


class Cut(NamedTuple):
  """A graph in patches: after which op, how many; its plan; multiply-accumulates against before."""

  graph: Graph
  last: int
  rows: int
  columns: int
  plan: Plan
  work: float


def best(
  graph: Graph, style: Style, *, sides: tuple[int, ...] = (2, 3, 4, 5), most: float = 1.25
) -> Cut | None:
  """The cut of the least arena with n x n patches, n of sides; None where none is less than whole.

  most: how many times the multiply-accumulates of the graph it may take. Cuts are ranked by their
  lower bounds, and the least few of them planned.
  """
  require(min(sides) > 0 and most >= 1, f'{sides=} must be above 0 and {most=} at least 1')
  before = sum(map(graph.macs, graph.ops))
  found = []
  for last in cuts(graph):
    h, w, _ = graph.tensors[graph.ops[last].output].shape
    for side in sides:
      if side <= min(h, w) and (work := _count(graph, last, side) / before) <= most:
        made = patched(graph, last, side, side)
        found.append((lower_bound(made), work, last, side, made))
  found = [
    Cut(made, last, side, side, plan(made, style), work)
    for _, work, last, side, made in sorted(found, key=lambda one: one[:4])[:FEW]
  ]
  least = min(found, key=lambda cut: (cut.plan.peak, cut.work), default=None)
  return least if least and least.plan.peak < plan(graph, style).peak else None


def _count(graph: Graph, last: int, side: int) -> int:
  """Multiply-accumulates in side x side patches, from sizes alone."""
  total = sum(map(graph.macs, graph.ops[last + 1 :]))
  h, w, _ = graph.tensors[graph.ops[last].output].shape
  for r in range(side):
    for c in range(side):
      box = Box(h * r // side, h * (r + 1) // side, w * c // side, w * (c + 1) // side)
      boxes = needed(graph, last, box)
      for op in graph.ops[: last + 1]:
        area, whole = boxes[op.output].area, graph.tensors[op.output].shape
        total += graph.macs(op) * area // (whole[0] * whole[1])
  return total


class _Work(NamedTuple):
  """A graph under way: the one that is cut, the tensors and ops so far."""

  graph: Graph
  tensors: list[Tensor]
  ops: list[Op]


def needed(graph: Graph, last: int, box: Box) -> dict[int, Box]:
  """tensor -> the box of it that ops up to `last` read for a box of their output."""
  found = {graph.ops[last].output: box}
  for op in reversed(graph.ops[: last + 1]):
    for t in op.inputs:
      reads = _reads(op, found[op.output], graph.tensors[t].shape)[0]
      found[t] = found[t].union(reads) if t in found else reads
  return found


def _reads(op, box: Box, shape) -> tuple[Box, tuple[int, int, int, int]]:
  """(box of the input that an op reads for a box of its output, pads where it would leave it)."""
  if not isinstance(op, WINDOWED):
    return box, (0, 0, 0, 0)
  window: Window = op.window
  (kh, kw), (sh, sw), (above, _, before, _) = window.kernel, window.stride, window.pad
  top, bottom = box.top * sh - above, (box.bottom - 1) * sh - above + kh
  left, right = box.left * sw - before, (box.right - 1) * sw - before + kw
  inside = Box(max(top, 0), min(bottom, shape[0]), max(left, 0), min(right, shape[1]))
  pads = inside.top - top, bottom - inside.bottom, inside.left - left, right - inside.right
  return inside, pads


def _patch(work, last: int, box: Box, mark: str) -> int:
  """Adds the ops of one patch; its tensor."""
  graph, boxes = work.graph, needed(work.graph, last, box)
  made = {t: t for t in graph.inputs}  # tensor of the graph -> that of the patch
  held = {t: Box(0, graph.tensors[t].shape[0], 0, graph.tensors[t].shape[1]) for t in graph.inputs}
  for t in graph.inputs:
    made[t], held[t] = _cropped(work, made[t], held[t], boxes[t], mark), boxes[t]
  for op in graph.ops[: last + 1]:
    inputs, pads = [], (0, 0, 0, 0)
    for t in op.inputs:
      reads, pads = _reads(op, boxes[op.output], graph.tensors[t].shape)
      inputs.append(_cropped(work, made[t], held[t], reads, mark))
    made[op.output] = _image(work, graph.tensors[op.output], boxes[op.output], mark)
    held[op.output] = boxes[op.output]
    fields = dict(name=f'{op.name} {mark}', inputs=tuple(inputs), output=made[op.output])
    if isinstance(op, WINDOWED):
      fields['window'] = dataclasses.replace(op.window, pad=pads)
    work.ops.append(dataclasses.replace(op, **fields))
  return made[graph.ops[last].output]


def _image(work, tensor: Tensor, box: Box, mark: str) -> int:
  shape = box.bottom - box.top, box.right - box.left, tensor.shape[2]
  work.tensors.append(dataclasses.replace(tensor, name=f'{tensor.name} {mark}', shape=shape))
  return len(work.tensors) - 1


def _cropped(work, t: int, held: Box, wanted: Box, mark: str) -> int:
  """A tensor of the pixels that are wanted of those that tensor t holds."""
  if held == wanted:
    return t
  tensor = work.tensors[t]
  new = _image(work, tensor, wanted, 'crop')
  at = wanted.top - held.top, wanted.left - held.left
  work.ops.append(Crop(f'crop of {tensor.name} {mark}', (t,), new, at))
  return new


def _paste(work, output: int, whole: int | None, part: int, box: Box, end: bool) -> int:
  """Lays a patch into its place; the last one makes the tensor that the rest reads."""
  tensor = work.graph.tensors[output]
  if not end:
    work.tensors.append(dataclasses.replace(tensor, name=f'{tensor.name} so far'))
  new = output if end else len(work.tensors) - 1
  inputs = (part,) if whole is None else (whole, part)
  work.ops.append(Paste(f'paste {tensor.name} [{box.top}, {box.left}]', inputs, new,
                        (box.top, box.left)))  # fmt: skip
  return new
