"""Runs a plan in poisoned memory: every byte says whose it is, and every read must find its own.

What is executed is the order of reads and writes of the kernels, pixel by pixel; values do not
matter. A byte that was overwritten, or that no one wrote, fails the op that reads it.
"""

from typing import NamedTuple

import numpy as np

from reduction.errors import DataError
from reduction.mcu import overlap
from reduction.mcu.graph import (
  Concat,
  Conv,
  Crop,
  Dense,
  Depthwise,
  Graph,
  Mean,
  Mul,
  Pad,
  Paste,
  Pool,
  Reshape,
  Resize,
  Softmax,
)  # fmt: skip
from reduction.mcu.plan import Plan

NOBODY = -1


class Memory(NamedTuple):
  """The arena: each byte's owner (a tensor, or -2 - op for scratch), and which of its bytes."""

  owner: np.ndarray
  element: np.ndarray


def replay(graph: Graph, plan: Plan) -> int:
  """How many bytes were read. The outputs must be whole at the end.

  Raises DataError with the op's name where a read finds another's byte, or none.
  """
  memory = Memory(np.full(plan.peak, NOBODY), np.full(plan.peak, NOBODY))
  count = 0
  for t in graph.inputs:
    _write(memory, plan.offsets[t], t, np.arange(graph.tensors[t].size))
  for i, op in enumerate(graph.ops):
    try:
      for tensor, reads, writes in _accesses(graph, plan, i):
        if tensor is not None:
          _read(memory, _offset(plan, tensor), tensor, reads)
          count += len(reads)
        for target, elements in writes:
          _write(memory, _offset(plan, target), target, elements)
    except DataError as error:
      raise DataError(f'{op.name} ({op.kind}): {error}') from error
  for t in graph.outputs:
    _read(memory, plan.offsets[t], t, np.arange(graph.tensors[t].size))
    count += graph.tensors[t].size
  return count


def _offset(plan, tensor):
  return plan.scratch[-2 - tensor][0] if tensor < NOBODY else plan.offsets[tensor]


def _read(memory, offset, tensor, elements):
  at = offset + elements
  if len(at) and (at.min() < 0 or at.max() >= len(memory.owner)):
    raise DataError(f'reads byte {at.max()} of an arena of {len(memory.owner)}')
  wrong = (memory.owner[at] != tensor) | (memory.element[at] != elements)
  if wrong.any():
    byte = at[wrong][0]
    raise DataError(f'reads byte {byte}, which belongs to {memory.owner[byte]}, not to {tensor}')


def _write(memory, offset, tensor, elements):
  at = offset + elements
  if len(at) and (at.min() < 0 or at.max() >= len(memory.owner)):
    raise DataError(f'writes byte {at.max()} of an arena of {len(memory.owner)}')
  memory.owner[at], memory.element[at] = tensor, elements


def _accesses(graph, plan, index):
  """Steps of an op in the kernel's order: (tensor, its bytes read, [(tensor, bytes written)])."""
  op = graph.ops[index]
  match op:
    case Depthwise():
      return _depthwise(graph, plan, index)
    case Conv(pointwise=True):
      return _pointwise(graph, plan, index)
    case Conv():
      return _conv(graph, plan, index)
    case Pool():
      return _pool(graph, index)
    case Crop():
      return _crop(graph, index)
    case Paste():
      return _paste(graph, index)
    case Reshape() if index in plan.over:
      return _renamed(graph, index)
    case Dense() | Mean() | Pad() | Concat() | Resize() | Softmax():
      return _whole(graph, index)
  return _by_element(graph, index)


def _box(shape, at, of):
  """Bytes of an image of `shape` that a part of shape `of` covers from `at` on."""
  rows, columns = at[0] + np.arange(of[0]), at[1] + np.arange(of[1])
  pixels = (rows[:, None] * shape[1] + columns).reshape(-1, 1) * shape[2]
  return (pixels + np.arange(shape[2])).reshape(-1)


def _crop(graph, index):
  op = graph.ops[index]
  before, after = graph.tensors[op.inputs[0]], graph.tensors[op.output]
  yield op.inputs[0], _box(before.shape, op.at, after.shape), []
  yield None, None, [(op.output, _range(0, after.size))]


def _paste(graph, index):
  """In place: what was laid before keeps its bytes, under the new tensor's name."""
  op = graph.ops[index]
  made = {o.output: o for o in graph.ops}
  part, whole = graph.tensors[op.inputs[-1]], graph.tensors[op.output]
  before, there = op, []
  while len(before.inputs) == 2 and isinstance(made.get(before.inputs[0]), Paste):
    before = made[before.inputs[0]]
    there.append(_box(whole.shape, before.at, graph.tensors[before.inputs[-1]].shape))
  if len(before.inputs) == 2:
    there = [_range(0, whole.size)]
  if there:
    known = np.unique(np.concatenate(there))
    yield op.inputs[0], known, [(op.output, known)]
  yield op.inputs[-1], _range(0, part.size), [(op.output, _box(whole.shape, op.at, part.shape))]


def _range(start, stop):
  return np.arange(start, stop)


def _whole(graph, index):
  """Reads while it writes: nothing of the inputs may be lost before the end."""
  op = graph.ops[index]
  size = graph.tensors[op.output].size
  if isinstance(op, Softmax):  # row by row, each read before it is written
    yield op.inputs[0], _range(0, size), [(op.output, _range(0, size))]
    return
  yield None, None, [(op.output, _range(0, size))]
  for t in op.inputs:
    yield t, _range(0, graph.tensors[t].size), []


def _renamed(graph, index):
  op = graph.ops[index]
  size = graph.tensors[op.output].size
  yield op.inputs[0], _range(0, size), [(op.output, _range(0, size))]


def _by_element(graph, index):
  op = graph.ops[index]
  size = graph.tensors[op.output].size
  if isinstance(op, Mul) and graph.tensors[op.inputs[1]].size < size:
    step = graph.tensors[op.inputs[1]].size
    for at in range(0, size, step):
      yield op.inputs[1], _range(0, step), []
      yield op.inputs[0], _range(at, at + step), [(op.output, _range(at, at + step))]
    return
  for at in range(0, size, 64):  # elementwise: how many at once makes no difference
    some = _range(at, min(at + 64, size))
    for t in op.inputs[:-1]:
      yield t, some, []
    yield op.inputs[-1], some, [(op.output, some)]


def _pointwise(graph, plan, index):
  op = graph.ops[index]
  (h, w, cin), cout, step = graph.tensors[op.inputs[0]].shape, len(op.weights), plan.style.pixels
  count, copy = h * w, index in plan.scratch
  blocks = [(i, min(i + step, count)) for i in range(0, count, step)]
  if copy and cout > cin:  # downwards; what is left over comes last, at the start
    blocks = [(max(stop - step, 0), stop) for stop in range(count, 0, -step)]
  for start, stop in blocks:
    reads, writes = _range(start * cin, stop * cin), _range(start * cout, stop * cout)
    if copy:
      yield op.inputs[0], reads, [(-2 - index, _range(0, len(reads)))]
      yield -2 - index, _range(0, len(reads)), [(op.output, writes)]
    else:  # byte by byte, so that reads come after the writes of the same block
      yield None, None, [(op.output, writes)]
      yield op.inputs[0], reads, []


def _window_reads(op, shape, oy, ox):
  """Bytes of the input that the window of an output pixel holds."""
  (kh, kw), (sh, sw), (top, _, left, _) = op.window.kernel, op.window.stride, op.window.pad
  rows = np.arange(max(oy * sh - top, 0), min(oy * sh - top + kh, shape[0]))
  columns = np.arange(max(ox * sw - left, 0), min(ox * sw - left + kw, shape[1]))
  pixels = (rows[:, None] * shape[1] + columns).reshape(-1, 1) * shape[2]
  return (pixels + np.arange(shape[2])).reshape(-1)


def _conv(graph, plan, index):
  op = graph.ops[index]
  shape, (oh, ow, cout) = graph.tensors[op.inputs[0]].shape, graph.tensors[op.output].shape
  step = overlap.windows(op, plan.style)
  depth = plan.scratch[index][1] // step
  for at in range(0, oh * ow, step):
    stop = min(at + step, oh * ow)
    for i, p in enumerate(range(at, stop)):
      column = _range(i * depth, (i + 1) * depth)
      yield op.inputs[0], _window_reads(op, shape, *divmod(p, ow)), [(-2 - index, column)]
    columns = _range(0, (stop - at) * depth)
    yield -2 - index, columns, [(op.output, _range(at * cout, stop * cout))]


def _pool(graph, index):
  op = graph.ops[index]
  shape, (oh, ow, c) = graph.tensors[op.inputs[0]].shape, graph.tensors[op.output].shape
  for p in range(oh * ow):
    yield None, None, [(op.output, _range(p * c, (p + 1) * c))]
    yield op.inputs[0], _window_reads(op, shape, *divmod(p, ow)), []


def _depthwise(graph, plan, index):
  op = graph.ops[index]
  (h, w, cin), (oh, ow, cout) = graph.tensors[op.inputs[0]].shape, graph.tensors[op.output].shape
  (kh, _), (sh, _), (top, _, left, _) = op.window.kernel, op.window.stride, op.window.pad
  rows, columns = overlap.rows_kept(op, (oh, ow, cout), plan.style)
  columns *= 2 if plan.style.wide else 1
  ring = -2 - index
  seen = min(w, overlap.rows_kept(op, (oh, ow, cout), plan.style)[1] - left)
  for c in range(cout):
    following = 0
    for oy in range(oh):
      for r in range(following, oy * sh + kh):
        slot = _range(r % rows * columns, (r % rows + 1) * columns)
        inside = 0 <= r - top < h
        reads = ((r - top) * w + np.arange(seen)) * cin + c // (cout // cin)
        yield (op.inputs[0], reads, [(ring, slot)]) if inside else (None, None, [(ring, slot)])
      following = max(following, oy * sh + kh)
      wanted = (oy * sh + np.arange(kh)) % rows
      reads = (wanted[:, None] * columns + np.arange(columns)).reshape(-1)
      yield ring, reads, [(op.output, (oy * ow + np.arange(ow)) * cout + c)]
