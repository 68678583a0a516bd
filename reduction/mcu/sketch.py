"""Graphs with random weights: to plan, emit and measure an architecture before it is trained."""

import dataclasses
import math

import numpy as np

from reduction.mcu import fixed
from reduction.mcu import graph as g


@dataclasses.dataclass
class Sketch:
  """A graph under way. shape: of the input, tensor 0. blank: weights are 0, for shapes alone."""

  shape: tuple[int, int, int]
  seed: int = 0
  blank: bool = False
  tensors: list = dataclasses.field(default_factory=list)
  ops: list = dataclasses.field(default_factory=list)

  def __post_init__(self):
    self.random = np.random.default_rng(self.seed)
    self.tensors.append(g.Tensor('input', tuple(self.shape), 0.02, -3))


def finish(sketch: Sketch, name: str, *outputs: int) -> g.Graph:
  """The graph; outputs: tensors, by default the last."""
  ends = outputs or (len(sketch.tensors) - 1,)
  return g.Graph(name, tuple(sketch.tensors), tuple(sketch.ops), (0,), ends)


def append(sketch: Sketch, kind, inputs, shape, scale=None, zero=None, **fields) -> int:
  """Adds an op and its output; the output's index. scale, zero: by default random."""
  name = f'{kind.__name__.lower()}{len(sketch.ops)}'
  scale = float(sketch.random.uniform(0.01, 0.05)) if scale is None else scale
  zero = int(sketch.random.integers(-20, 20)) if zero is None else zero
  sketch.tensors.append(g.Tensor(name, tuple(map(int, shape)), scale, zero))
  sketch.ops.append(kind(name, tuple(inputs), len(sketch.tensors) - 1, **fields))
  return len(sketch.tensors) - 1


def _weights(sketch, shape, cout: int, terms: int) -> dict:
  """Random weights whose outputs spread over int8."""
  random = sketch.random
  real = random.uniform(0.5, 2.0, cout) * 40 / (74 * 74 * math.sqrt(terms))
  multiplier, shift = fixed.quantize_multipliers(real)
  weights = np.zeros(shape, np.int8)
  if not sketch.blank:
    weights = random.integers(-127, 128, shape).astype(np.int8)
  bias = random.integers(-2_000, 2_000, cout).astype(np.int32)
  return dict(weights=weights, bias=bias, multiplier=multiplier, shift=shift)


def _window(kernel, stride, pad) -> g.Window:
  kernel, stride = ((n, n) if isinstance(n, int) else n for n in (kernel, stride))
  around = tuple(np.repeat([k // 2 for k in kernel], 2).tolist()) if pad is None else pad
  return g.Window(kernel, stride, around)


def conv(sketch: Sketch, x: int, cout: int, *, kernel=1, stride=1, pad=None) -> int:
  """A convolution, by default padded by half its kernel."""
  window, shape = _window(kernel, stride, pad), sketch.tensors[x].shape
  size = (cout, *window.kernel, shape[2])
  fields = _weights(sketch, size, cout, math.prod(size[1:]))
  return append(sketch, g.Conv, [x], (*window.over(shape), cout), window=window, **fields)


def depthwise(sketch: Sketch, x: int, *, kernel=3, stride=1, pad=None, multiplier=1) -> int:
  """A convolution channel by channel, by default padded by half its kernel."""
  window, shape = _window(kernel, stride, pad), sketch.tensors[x].shape
  cout = shape[2] * multiplier
  fields = _weights(sketch, (*window.kernel, cout), cout, math.prod(window.kernel))
  return append(sketch, g.Depthwise, [x], (*window.over(shape), cout), window=window, **fields)


def dense(sketch: Sketch, x: int, cout: int) -> int:
  """A product of the whole input."""
  size = sketch.tensors[x].size
  return append(sketch, g.Dense, [x], (1, 1, cout), **_weights(sketch, (cout, size), cout, size))


def add(sketch: Sketch, a: int, b: int) -> int:
  """The sum of two tensors of one shape."""
  scales = *(sketch.tensors[t].scale for t in (a, b)), float(sketch.random.uniform(0.02, 0.08))
  factors = fixed.add_factors(*scales)
  return append(sketch, g.Add, [a, b], sketch.tensors[a].shape, scales[2], factors=factors)


def mul(sketch: Sketch, a: int, b: int) -> int:
  """The product of two tensors of one shape, or of one and a vector of its channels."""
  factor = fixed.quantize_multiplier(float(sketch.random.uniform(0.005, 0.02)))
  return append(sketch, g.Mul, [a, b], sketch.tensors[a].shape, factor=factor)


def pool(sketch: Sketch, x: int, how: str, *, kernel=2, stride=2, pad=(0, 0, 0, 0)) -> int:
  """A pooling; 'average' or 'max'."""
  before, window = sketch.tensors[x], _window(kernel, stride, pad)
  shape = *window.over(before.shape), before.shape[2]
  return append(sketch, g.Pool, [x], shape, before.scale, before.zero, how=how, window=window)


def average(sketch: Sketch, x: int) -> int:
  """The mean over the whole image."""
  return pool(sketch, x, 'average', kernel=sketch.tensors[x].shape[:2], stride=1)


def copied(sketch: Sketch, kind, inputs, shape, **fields) -> int:
  """An op that copies values: Pad, Reshape, Concat, Resize."""
  before = sketch.tensors[inputs[0]]
  return append(sketch, kind, inputs, shape, before.scale, before.zero, **fields)
