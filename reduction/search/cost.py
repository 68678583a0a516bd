"""What a mobile network costs, exactly and without arrays: sums, parameters, Flash, memory.

A network is a table of ops, many networks a table of [n, ops] integers, so that thousands are
costed at once. Memory is what the project's planner gives: in a chain of blocks at most three
things lie above each other at an op (the input that a shortcut holds, the larger of input and
output, which share a place, and scratch), and an order of placing that the planner tries stacks
them without a gap; nothing can be less, where sizes are multiples of 4 bytes.
"""

import functools
from typing import NamedTuple

import numpy as np

from reduction import energy
from reduction.errors import require
from reduction.mcu import overlap
from reduction.mcu.graph import Window
from reduction.search import space as spaces
from reduction.search.arch import Arch, make_divisible
from reduction.search.space import Space

ABSENT, CONV, DEPTHWISE, POINTWISE, ADD, POOL, DENSE = range(7)
OVERHEAD = 4 + 4 + 1  # bytes for each output channel: bias, multiplier, shift


class Ops(NamedTuple):
  """int64 [n, ops] each. sides: of the square input and output. cin, cout: channels.

  held: bytes of another tensor that lives on, a block's input. apart: whether the output may not
  lie over the input, because that lives on.
  """

  kind: np.ndarray
  side: np.ndarray
  out: np.ndarray
  cin: np.ndarray
  cout: np.ndarray
  kernel: np.ndarray
  stride: np.ndarray
  held: np.ndarray
  apart: np.ndarray


class _Table:
  """Ops under way: column by column, for n networks."""

  def __init__(self, count, side, channels):
    self.count, self.columns = count, []
    self.side, self.channels = self._full(side), self._full(channels)

  def _full(self, value):
    return np.broadcast_to(np.asarray(value, np.int64), (self.count,))

  def op(self, kind, cout, *, kernel=1, stride=1, held=0, apart=False, here=True, whole=False):
    """Adds an op where `here`; whole: its window is the image."""
    here = self._full(here).astype(bool)
    out = np.ones_like(self.side) if whole else (self.side - 1) // stride + 1
    out, cout = np.where(here, out, self.side), np.where(here, cout, self.channels)
    values = np.where(here, kind, ABSENT), self.side, out, self.channels, cout, kernel, stride
    self.columns.append([*map(self._full, (*values, held, apart))])
    self.side, self.channels = out, cout

  def block(self, middle, out, kernel, stride, shortcut, here=True):
    """An inverted bottleneck."""
    here, shortcut = self._full(here).astype(bool), self._full(shortcut).astype(bool)
    start = np.where(shortcut, self.side**2 * self.channels, 0)
    expands = here & (middle != self.channels)
    self.op(POINTWISE, middle, apart=shortcut, here=expands)
    self.op(
      DEPTHWISE, self.channels, kernel=kernel, stride=stride, here=here,
      held=np.where(expands, start, 0), apart=shortcut & ~expands,
    )  # fmt: skip
    self.op(POINTWISE, out, held=start, here=here)
    self.op(ADD, self.channels, held=start, here=here & shortcut)

  def finish(self, classes) -> Ops:
    self.op(POOL, self.channels, whole=True)
    self.op(DENSE, classes, apart=True)
    return Ops(*(np.stack(field, 1) for field in zip(*self.columns)))


def ops_of(space: Space, genes: np.ndarray) -> Ops:
  """The ops of networks of canonical genes [n, genes]; windows are padded by k // 2."""
  resolution, width, _, kernels, expansions = spaces.split(space, genes)
  here, sizes = spaces.active(space, genes), np.array(space.resolutions)
  channels = lambda base: np.array([space.width(base, w) for w in space.widths])[width]
  table = _Table(len(genes), sizes[resolution], space.channels)
  table.op(CONV, channels(space.stem[0]), kernel=space.stem[1], stride=space.stem[2])
  if space.first:
    table.block(table.channels, channels(space.first), 3, 1, False)
  kernel, expansion = np.array(space.kernels)[kernels], np.array(space.expansions)[expansions]
  for slot, (i, j) in enumerate(space.places()):
    stage = space.stages[i]
    stride, out = 1 if j else stage.stride, channels(stage.width)
    shortcut = (table.channels == out) & (stride == 1) & (not space.separable)
    table.block(table.channels * expansion[:, slot], out, kernel[:, slot], stride,
                shortcut, here[:, slot])  # fmt: skip
  if space.head:
    heads = np.array([make_divisible(space.head * max(w, 1.0)) for w in space.widths])
    table.op(POINTWISE, heads[width])
  return table.finish(space.classes)


def ops_of_arch(arch: Arch) -> Ops:
  """The ops of one network, [1, ops]."""
  table = _Table(1, arch.resolution, arch.channels)
  table.op(CONV, arch.stem[0], kernel=arch.stem[1], stride=arch.stem[2])
  for b in arch.blocks:
    table.block(b.middle, b.out, b.kernel, b.stride, b.shortcut)
  if arch.head:
    table.op(POINTWISE, arch.head)
  return table.finish(arch.classes)


def weights(ops: Ops) -> np.ndarray:
  """int64 [n, ops]: weights of each op."""
  area = ops.kernel**2
  full = area * ops.cin * ops.cout
  counts = {CONV: full, POINTWISE: full, DEPTHWISE: area * ops.cout, DENSE: ops.cin * ops.cout}
  return sum(np.where(ops.kind == kind, count, 0) for kind, count in counts.items())


def macs(ops: Ops) -> np.ndarray:
  """int64 [n, ops]: multiply-accumulates of each op."""
  return weights(ops) * _repeats(ops)


def _repeats(ops: Ops) -> np.ndarray:
  return np.where(ops.kind == DENSE, 1, ops.out**2)


def _bytes(ops: Ops):
  """(input, output) bytes of each op."""
  return ops.side**2 * ops.cin, ops.out**2 * ops.cout


def peak_sram(ops: Ops) -> np.ndarray:
  """int64 [n]: bytes of the arena that `mcu.plan.plan` makes with its default style."""
  style = overlap.Style()
  before, after = _bytes(ops)
  columns = (ops.out - 1) * ops.stride + ops.kernel
  scratch = np.where(ops.kind == DEPTHWISE, 2 * ops.kernel * columns, 0)
  conv, in_place = ops.kind == CONV, (ops.kind == POINTWISE) & (ops.apart == 0)
  scratch += np.where(conv | in_place, style.pixels * ops.kernel**2 * ops.cin, 0)
  lifted = np.where(conv, _lift(ops), 0)
  over = np.maximum(lifted + before, after)
  beside = _aligned(before, style.align) + after
  total = _aligned(np.where(ops.apart == 1, beside, over), style.align * (scratch > 0))
  total = _aligned(ops.held, style.align) + total + scratch
  return np.where(ops.kind == ABSENT, 0, total).max(1)


def _aligned(value, align):
  return (
    value
    if np.all(align == 0)
    else np.where(align, -(-value // np.maximum(align, 1)) * align, value)
  )


def _lift(ops: Ops) -> np.ndarray:
  """Bytes by which the inputs of convolutions lie above their outputs, aligned."""
  fields = np.stack([ops.side, ops.kernel, ops.stride, ops.cin, ops.cout], -1)
  found = np.zeros(ops.kind.shape, np.int64)
  chosen = ops.kind == CONV
  kinds, which = np.unique(fields[chosen], axis=0, return_inverse=True)
  lifts = np.array([_lift_of(*map(int, one)) for one in kinds])
  found[chosen] = lifts[which.reshape(-1)]
  return found


@functools.lru_cache(maxsize=4096)
def _lift_of(side, kernel, stride, cin, cout) -> int:
  style, pad = overlap.Style(), kernel // 2
  window = Window((kernel, kernel), (stride, stride), (pad,) * 4)
  out = window.over((side, side))
  least = overlap.distance(window, (side, side, cin), (*out, cout), style.pixels)
  return -(-least // style.align) * style.align


def tinyengine_sram(ops: Ops) -> np.ndarray:
  """int64 [n]: bytes of SRAM as TinyEngine's generator counts them; see `mcu.zoo.tinyengine`."""
  before, after = _bytes(ops)
  deep, conv = ops.kind == DEPTHWISE, (ops.kind == CONV) | (ops.kind == POINTWISE)
  live = ops.held + before + np.where(deep, 0, after)
  padded = ops.side + 2 * (ops.kernel // 2)
  columns = np.where(deep, 2 * padded**2, np.where(conv, 4 * ops.kernel**2 * ops.cin, 0))
  kernels = np.where(ops.kind == CONV, 2 * ops.kernel**2 * ops.cin * ops.cout, 0)
  kernels = np.where(ops.kernel == 1, 0, kernels)
  live = np.where(ops.kind == ABSENT, 0, live)
  return live.max(1) + columns.max(1) + kernels.max(1)


MEMORY = dict(planner=peak_sram, tinyengine=tinyengine_sram)


def moved(ops: Ops) -> np.ndarray:
  """int64 [n, ops]: bytes of activations read and written, each once an op."""
  before, after = _bytes(ops)
  total = before + after + np.where(ops.kind == ADD, ops.held, 0)
  return np.where(ops.kind == ABSENT, 0, total)


def cost(ops: Ops, *, memory: str = 'planner', picojoules: dict | None = None) -> dict:
  """macs, params, flash, sram, energy_uj of networks, each [n].

  params: as the authors count: weights, two a normalized channel, the last layer's biases. flash:
  bytes of the constants that `mcu.emit` writes: int8 weights and OVERHEAD for each channel; code
  is not in it. sram: bytes, by `memory` of MEMORY. energy_uj: an estimate by `picojoules`, as
  `energy.microjoules` takes them, every byte of activations and weights once an op.
  """
  require(memory in MEMORY, f'{memory=} is not one of {", ".join(MEMORY)}')
  held, channels, basic = weights(ops), _channels(ops), limits(ops, memory)
  took = energy.microjoules(basic['macs'], moved(ops).sum(1), basic['flash'], picojoules)
  params = (held + np.where(ops.kind == DENSE, 1, 2) * channels).sum(1)
  return dict(basic, params=params, energy_uj=took)


def limits(ops: Ops, memory: str = 'planner') -> dict:
  """macs, flash and sram alone, in less time."""
  held = weights(ops)
  return dict(
    macs=(held * _repeats(ops)).sum(1),
    flash=(held + OVERHEAD * _channels(ops)).sum(1),
    sram=MEMORY[memory](ops),
  )


def _channels(ops: Ops) -> np.ndarray:
  """Output channels of ops of weights."""
  return np.where(np.isin(ops.kind, (CONV, DEPTHWISE, POINTWISE, DENSE)), ops.cout, 0)
