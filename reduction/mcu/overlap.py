"""Which output may take the memory of an input that ends with the op, and at what distance.

The kernels of `templates` read and write in the order that is assumed here; `replay` executes that
order byte by byte.
"""

import math
from typing import NamedTuple

import numpy as np

from reduction.errors import require
from reduction.mcu.graph import (
  Add,
  Conv,
  Depthwise,
  Graph,
  Lookup,
  Mul,
  Op,
  Paste,
  Pool,
  Reshape,
  Softmax,
  Window,
)  # fmt: skip
from reduction.mcu.sparse import Sparse


class Style(NamedTuple):
  """How kernels use memory. Switches for ablations; the defaults are what is least and fast.

  depthwise, pointwise, add, diagonal: which outputs may overwrite their inputs (diagonal: those of
  windows that move on, at a distance). ring: a depthwise op keeps k rows of one channel instead of
  all. wide: those are int16, which dual multipliers read. pixels: that a product works on at once.
  align: of every tensor, in bytes. shared: one scratch for the net instead of one an op.
  """

  depthwise: bool = True
  pointwise: bool = True
  add: bool = True
  diagonal: bool = True
  ring: bool = True
  wide: bool = True
  pixels: int = 2
  align: int = 4
  shared: bool = False


class Overlay(NamedTuple):
  """The output begins `before` bytes before the input."""

  input: int
  before: int = 0


def check(style: Style):
  """Raises UsageError for a style that no kernel has."""
  require(style.pixels in (1, 2), f'{style.pixels=} is not 1 or 2')
  require(style.align in (1, 2, 4, 8, 16), f'{style.align=} is not 1, 2, 4, 8 or 16')
  require(not style.wide or style.align % 2 == 0, f'wide rings need an even {style.align=}')


def rows_kept(op: Depthwise, shape, style: Style) -> tuple[int, int]:
  """(rows, columns) of the scratch of a depthwise op for an output of shape (h, w, c)."""
  (kh, kw), (sh, sw) = op.window.kernel, op.window.stride
  columns = (shape[1] - 1) * sw + kw
  return kh if style.ring else (shape[0] - 1) * sh + kh, columns


def windows(op: Conv, style: Style) -> int:
  """How many windows a convolution copies before it writes their outputs."""
  return op.columns if isinstance(op, Sparse) else style.pixels


def scratch(graph: Graph, op: Op, style: Style, in_place: bool) -> int:
  """Bytes that an op's kernel needs beside its tensors."""
  if isinstance(op, Depthwise):
    rows, columns = rows_kept(op, graph.tensors[op.output].shape, style)
    return rows * columns * (2 if style.wide else 1)
  if isinstance(op, Sparse):
    return op.scratch()
  if isinstance(op, Conv):
    if op.pointwise and not in_place:
      return 0
    return style.pixels * math.prod(op.weights.shape[1:])
  return 0


def overlays(graph: Graph, index: int, ends, style: Style) -> list[Overlay]:
  """The ways in which op `index` may write over an input, best first. ends: tensors that end."""
  op = graph.ops[index]
  shapes = [graph.tensors[t].shape for t in op.inputs]
  output = graph.tensors[op.output]
  free = [t for t in dict.fromkeys(op.inputs) if t in ends]
  if not free:
    return []
  match op:
    case Depthwise():
      same = style.depthwise and output.shape[2] == shapes[0][2] and output.shape[1] <= shapes[0][1]
      moves = all(s <= k for s, k in zip(op.window.stride, op.window.kernel))
      return [Overlay(free[0])] if same and moves else []
    case Conv(pointwise=True):
      return [Overlay(free[0])] if style.pointwise else []
    case Conv() if style.diagonal:
      before = distance(op.window, shapes[0], output.shape, windows(op, style))
      return [Overlay(free[0], before)]
    case Pool() if style.diagonal:
      return [Overlay(free[0], distance(op.window, shapes[0], output.shape, 0))]
    case Add() | Mul() if style.add:
      whole = [t for t in free if graph.tensors[t].size == output.size]
      return [Overlay(t) for t in sorted(whole, key=lambda t: graph.lifetimes()[t])]
    case Paste() if len(op.inputs) == 2:
      return [Overlay(op.inputs[0])] if op.inputs[0] in ends else []
    case Lookup() | Reshape() | Softmax():
      return [Overlay(free[0])]
  return []


def distance(window: Window, shape, output, pixels: int) -> int:
  """The least distance by which an input must lie above an output that is made from its start on.

  shape, output: (h, w, c). pixels: how many windows are copied before their outputs are written; 0:
  none, an output must not touch its own window. May be negative: the output may begin later.
  """
  (top, _, left, _), (sh, sw) = window.pad, window.stride
  rows = np.clip(np.arange(output[0]) * sh - top, 0, shape[0] - 1)
  columns = np.clip(np.arange(output[1]) * sw - left, 0, shape[1] - 1)
  first = (rows[:, None] * shape[1] + columns).reshape(-1) * shape[2]  # read by each output pixel
  count = len(first)
  needed = np.minimum.accumulate(first[::-1])[::-1]  # by it and all later ones
  done = np.arange(max(pixels, 1), count + max(pixels, 1), max(pixels, 1)).clip(max=count)
  later = done if pixels else done - 1
  inside = later < count
  gaps = done[inside] * output[2] - needed[later[inside]]
  return max(0, int(gaps.max())) if len(gaps) else 0
