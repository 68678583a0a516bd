"""Graphs with random weights: to plan, emit and measure an architecture before it is trained.

Factors come of random scales that float32 holds, so that a .tflite file can say them too.
"""

import dataclasses
import math

import numpy as np

from reduction.mcu import fixed, scales
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
    scale = float(np.float32(0.02))
    self.tensors.append(g.Tensor('input', tuple(self.shape), scale, -3))


def finish(sketch: Sketch, name: str, *outputs: int) -> g.Graph:
  """The graph; outputs: tensors, by default the last."""
  ends = outputs or (len(sketch.tensors) - 1,)
  return g.Graph(name, tuple(sketch.tensors), tuple(sketch.ops), (0,), ends)


def append(sketch: Sketch, kind, inputs, shape, scale=None, zero=None, **fields) -> int:
  """Adds an op and its output; the output's index. scale, zero: by default random."""
  name = f'{kind.__name__.lower()}{len(sketch.ops)}'
  scale = some(sketch, 0.01, 0.05) if scale is None else scale
  zero = int(sketch.random.integers(-20, 20)) if zero is None else zero
  sketch.tensors.append(g.Tensor(name, tuple(map(int, shape)), scale, zero))
  sketch.ops.append(kind(name, tuple(inputs), len(sketch.tensors) - 1, **fields))
  return len(sketch.tensors) - 1


def some(sketch: Sketch, low: float, high: float) -> float:
  """A random scale that float32 holds."""
  return float(np.float32(sketch.random.uniform(low, high)))


def _product(sketch, kind, x, shape, size, terms: int, *, whole=False, **fields) -> int:
  """Adds an op of random weights of shape `size` whose outputs spread over int8.

  terms: of a sum. whole: one scale for all weights.
  """
  random, cout, before = sketch.random, shape[2], sketch.tensors[x].scale
  after = some(sketch, 0.01, 0.05)
  real = random.uniform(0.5, 2.0, 1 if whole else cout) * 40 / (74 * 74 * math.sqrt(terms))
  weights = np.broadcast_to(np.float32(real * after / before), cout)
  whole = whole or (kind is g.Dense and cout == 1)
  multiplier, shift = scales.products(before, weights, after, whole=whole)
  codes = np.zeros(size, np.int8)
  if not sketch.blank:
    codes = random.integers(-127, 128, size).astype(np.int8)
  bias = random.integers(-2_000, 2_000, cout).astype(np.int32)
  fields |= dict(weights=codes, bias=bias, multiplier=multiplier, shift=shift)
  return append(sketch, kind, [x], shape, after, **fields)


def _window(kernel, stride, pad) -> g.Window:
  kernel, stride = ((n, n) if isinstance(n, int) else n for n in (kernel, stride))
  around = tuple(np.repeat([k // 2 for k in kernel], 2).tolist()) if pad is None else pad
  return g.Window(kernel, stride, around)


def conv(sketch: Sketch, x: int, cout: int, *, kernel=1, stride=1, pad=None, **fields) -> int:
  """A convolution, by default padded by half its kernel. fields: of `graph.Conv`."""
  window, before = _window(kernel, stride, pad), sketch.tensors[x].shape
  size, shape = (cout, *window.kernel, before[2]), (*window.over(before), cout)
  terms = math.prod(size[1:])
  return _product(sketch, g.Conv, x, shape, size, terms, window=window, **fields)


def depthwise(sketch: Sketch, x: int, *, kernel=3, stride=1, pad=None, multiplier=1, **fields):
  """A convolution channel by channel, by default padded by half its kernel."""
  window, before = _window(kernel, stride, pad), sketch.tensors[x].shape
  cout, terms = before[2] * multiplier, math.prod(window.kernel)
  size, shape = (*window.kernel, cout), (*window.over(before), cout)
  return _product(sketch, g.Depthwise, x, shape, size, terms, window=window, **fields)


def dense(sketch: Sketch, x: int, cout: int, *, whole: bool = False, **fields) -> int:
  """A product of the whole input. whole: one scale for all weights."""
  size = sketch.tensors[x].size
  shape = (1, 1, cout)
  return _product(sketch, g.Dense, x, shape, (cout, size), size, whole=whole, **fields)


def add(sketch: Sketch, a: int, b: int, **fields) -> int:
  """The sum of two tensors of one shape."""
  found = *(sketch.tensors[t].scale for t in (a, b)), some(sketch, 0.02, 0.08)
  fields |= dict(factors=fixed.add_factors(*found))
  return append(sketch, g.Add, [a, b], sketch.tensors[a].shape, found[2], **fields)


def mul(sketch: Sketch, a: int, b: int, **fields) -> int:
  """The product of two tensors of one shape, or of one and a vector of its channels."""
  before = [sketch.tensors[t].scale for t in (a, b)]
  after = float(np.float32(math.prod(before) / sketch.random.uniform(0.005, 0.02)))
  fields |= dict(factor=scales.product(*before, after))
  return append(sketch, g.Mul, [a, b], sketch.tensors[a].shape, after, **fields)


def mean(sketch: Sketch, x: int, axes=(0, 1)) -> int:
  """The mean over axes of 0 and 1, which are kept as 1."""
  before = sketch.tensors[x]
  shape = [1 if i in axes else n for i, n in enumerate(before.shape)]
  after = float(np.float32(before.scale / sketch.random.uniform(0.5, 3.0)))
  factor = scales.mean(before.scale, after)
  return append(sketch, g.Mean, [x], shape, after, axes=tuple(axes), factor=factor)


def pool(
  sketch: Sketch, x: int, how: str, *, kernel=2, stride=2, pad=(0, 0, 0, 0), **fields
) -> int:  # fmt: skip
  """A pooling; 'average' or 'max'."""
  before, window = sketch.tensors[x], _window(kernel, stride, pad)
  shape = *window.over(before.shape), before.shape[2]
  fields |= dict(how=how, window=window)
  return append(sketch, g.Pool, [x], shape, before.scale, before.zero, **fields)


def average(sketch: Sketch, x: int) -> int:
  """The mean over the whole image."""
  return pool(sketch, x, 'average', kernel=sketch.tensors[x].shape[:2], stride=1)


def copied(sketch: Sketch, kind, inputs, shape, **fields) -> int:
  """An op that copies values: Pad, Reshape, Concat, Resize."""
  before = sketch.tensors[inputs[0]]
  return append(sketch, kind, inputs, shape, before.scale, before.zero, **fields)
