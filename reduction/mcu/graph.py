"""`Graph`, a static integer network: what is interpreted, planned and written as C.

Every tensor is one image [h, w, c] of int8, channels last; a vector is [1, 1, c]. A real value is
scale * (q - zero). Weights are int8 with zero point 0; sums are int32. A product's output is
clamp(zero + requantize(sum, multiplier, shift), low, high), `fixed.requantize`, with a multiplier
and a shift for each output channel, as TFLite's reference kernels have it.
"""

import dataclasses
import math

import numpy as np

from reduction.errors import require as check


@dataclasses.dataclass(frozen=True)
class Tensor:
  """name, shape (h, w, c), scale > 0 and zero in [-128, 127] of int8 values."""

  name: str
  shape: tuple[int, int, int]
  scale: float
  zero: int

  def __post_init__(self):
    good = len(self.shape) == 3 and all(isinstance(n, int) and n > 0 for n in self.shape)
    check(good, f'tensor {self.name!r} has shape {self.shape}; (h, w, c), all above 0, is wanted')
    check(math.prod(self.shape) < 2**31, f'tensor {self.name!r} of shape {self.shape} is too large')
    check(
      math.isfinite(self.scale) and self.scale > 0 and -128 <= self.zero <= 127,
      f'tensor {self.name!r} has scale {self.scale} and zero {self.zero}; scale > 0 and an int8 '
      'zero are wanted',
    )

  @property
  def size(self) -> int:
    """Bytes."""
    return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Window:
  """What slides over an image: kernel (h, w), stride (h, w), pad (top, bottom, left, right)."""

  kernel: tuple[int, int] = (1, 1)
  stride: tuple[int, int] = (1, 1)
  pad: tuple[int, int, int, int] = (0, 0, 0, 0)

  def __post_init__(self):
    sizes = (*self.kernel, *self.stride)
    check(min(sizes) > 0 <= min(self.pad), f'{self} has a size below 1 or a negative pad')
    within = all(p < k for p, k in zip(self.pad, np.repeat(self.kernel, 2)))
    check(within, f'{self} pads a whole kernel: some outputs would see no input')

  def over(self, shape) -> tuple[int, int]:
    """Height and width of the output for an input of shape (h, w, ...)."""
    (top, bottom, left, right), (kh, kw), (sh, sw) = self.pad, self.kernel, self.stride
    return (shape[0] + top + bottom - kh) // sh + 1, (shape[1] + left + right - kw) // sw + 1


@dataclasses.dataclass(frozen=True, eq=False)
class Op:
  """A node: name, indices of the tensors that it reads, index of the one that it writes."""

  name: str
  inputs: tuple[int, ...]
  output: int

  @property
  def kind(self) -> str:
    """'conv', 'add'..."""
    return type(self).__name__.lower()

  def arrays(self) -> list[np.ndarray]:
    """The constants that it takes along."""
    fields = (getattr(self, f.name) for f in dataclasses.fields(self))
    return [x for x in fields if isinstance(x, np.ndarray)]


@dataclasses.dataclass(frozen=True, eq=False)
class Product(Op):
  """An op of weights: weights int8, bias, multiplier and shift int32 [cout], low <= high."""

  weights: np.ndarray
  bias: np.ndarray
  multiplier: np.ndarray
  shift: np.ndarray
  window: Window = Window()
  low: int = -128
  high: int = 127


class Conv(Product):
  """A convolution; weights [cout, kh, kw, cin]. Pointwise where its window is 1 x 1, stride 1."""

  @property
  def pointwise(self) -> bool:
    """Whether each output pixel depends on the input pixel at its place alone."""
    return self.window == Window()


class Depthwise(Product):
  """A convolution channel by channel; weights [kh, kw, cout], cout a multiple of cin."""


class Dense(Product):
  """A product of the whole input, in order h, w, c; weights [cout, h * w * c]."""


@dataclasses.dataclass(frozen=True, eq=False)
class Add(Op):
  """(a << 20) scaled + (b << 20) scaled, scaled: factors are (multiplier, shift) of a, b, sum."""

  factors: tuple[tuple[int, int], ...]
  low: int = -128
  high: int = 127


@dataclasses.dataclass(frozen=True, eq=False)
class Mul(Op):
  """a * b scaled; b may be [1, 1, c] beside a of [h, w, c]."""

  factor: tuple[int, int]
  low: int = -128
  high: int = 127


@dataclasses.dataclass(frozen=True, eq=False)
class Pool(Op):
  """The mean ('average', half away from 0, of the pixels that are there) or the largest ('max')."""

  how: str
  window: Window
  low: int = -128
  high: int = 127


@dataclasses.dataclass(frozen=True, eq=False)
class Mean(Op):
  """The mean over axes (of 0, 1), kept as 1: zero + the sum of (q - zero of input), scaled."""

  axes: tuple[int, ...]
  factor: tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Softmax(Op):
  """Softmax over c: differences to the largest times factor (multiplier, left shift); 5 bits
  before the point; those below `least` count as exp = 0. The output has scale 1 / 256, zero -128.
  """

  factor: tuple[int, int]
  least: int


@dataclasses.dataclass(frozen=True, eq=False)
class Lookup(Op):
  """table[q + 128], int8 [256]: any function of one value, such as a logistic or another scale."""

  table: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Pad(Op):
  """Adds pixels of the zero point: pad (top, bottom, left, right)."""

  pad: tuple[int, int, int, int]


class Reshape(Op):
  """The same bytes under another shape."""


class Concat(Op):
  """Inputs of one scale and zero point, one after another along c."""


@dataclasses.dataclass(frozen=True, eq=False)
class Resize(Op):
  """The nearest pixel: output [y, x] is input [rows[y], columns[x]]."""

  rows: tuple[int, ...]
  columns: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Crop(Op):
  """The pixels from `at` (row, column) on, as many as the output has."""

  at: tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Paste(Op):
  """The first input with the last one's pixels from `at` (row, column) on.

  With one input alone it is laid into an image of which nothing else is known yet.
  """

  at: tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
  """Tensors and the ops that make them, in an order in which each input is made before it is read.

  inputs, outputs: indices of tensors. note: what a reader left out, for messages. Raises UsageError
  with the op's name where shapes, types, ranges or the order do not fit.
  """

  name: str
  tensors: tuple[Tensor, ...]
  ops: tuple[Op, ...]
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]
  note: str = ''

  def __post_init__(self):
    check(self.inputs and self.outputs and self.ops, f'graph {self.name!r} is empty')
    made = set()
    for index in self.inputs:
      check(0 <= index < len(self.tensors), f'graph input {index} is no tensor')
      made.add(index)
    for op in self.ops:
      for index in (*op.inputs, op.output):
        check(0 <= index < len(self.tensors), f'{op.name}: {index} is no tensor')
      for index in op.inputs:
        check(index in made, f'{op.name} reads {self.tensors[index].name!r} before it is made')
      check(op.output not in made, f'{op.name} writes {self.tensors[op.output].name!r} again')
      made.add(op.output)
      _check_op(op, [self.tensors[i] for i in op.inputs], self.tensors[op.output])
    check(made.issuperset(self.outputs), f'graph {self.name!r} has an output that no op makes')

  def lifetimes(self) -> dict[int, tuple[int, int]]:
    """Tensor -> (first op, last op) at which it takes memory; inputs from 0, outputs to the end."""
    first = dict.fromkeys(self.inputs, 0) | {op.output: i for i, op in enumerate(self.ops)}
    last = dict(first)
    for i, op in enumerate(self.ops):
      last |= dict.fromkeys(op.inputs, i)
    last |= dict.fromkeys(self.outputs, len(self.ops) - 1)
    return {t: (first[t], last[t]) for t in first}

  def macs(self, op: Op) -> int:
    """Multiply-accumulates of an op of weights."""
    if not isinstance(op, Product):
      return 0
    h, w, _ = self.tensors[op.output].shape
    return op.weights.size * (1 if isinstance(op, Dense) else h * w)

  def constants(self, op: Op) -> int:
    """Bytes of Flash that an op's weights, biases, multipliers, shifts and tables take."""
    return sum(x.nbytes for x in op.arrays())


def _check_op(op, inputs, output):
  """Raises UsageError unless an op fits its tensors."""
  say = lambda what: f'{op.name} ({op.kind}): {what}'
  counts = {Add: 2, Mul: 2}.get(type(op), None if isinstance(op, Concat | Paste) else 1)
  check(counts in (None, len(op.inputs)) and op.inputs, say(f'{len(op.inputs)} inputs'))
  if hasattr(op, 'low'):
    check(-128 <= op.low <= op.high <= 127, say(f'clamps to [{op.low}, {op.high}]'))
  want = _shape(op, [t.shape for t in inputs], output.shape)
  check(want == output.shape, say(f'makes {want}, but {output.name!r} has shape {output.shape}'))
  if isinstance(op, Product):
    _check_product(op, inputs[0], output, say)
  for multiplier, _ in _factors(op):
    check(0 <= multiplier < 2**31, say(f'multiplier {multiplier} is not in [0, 2^31)'))
  if isinstance(op, Lookup):
    check(op.table.shape == (256,) and op.table.dtype == np.int8, say('wants 256 int8 of a table'))
  if isinstance(op, Pad | Reshape | Concat | Resize | Pool | Crop | Paste):
    same = all((t.scale, t.zero) == (output.scale, output.zero) for t in inputs)
    check(same, say('copies values, so that input and output must have one scale and zero point'))
  if isinstance(op, Softmax):
    check((output.scale, output.zero) == (1 / 256, -128), say('wants an output of 1 / 256, -128'))
    c = output.shape[2]
    check(c < 2**12, say(f'sums of {c:,} values pass 32 bits; 4,095 are the most'))


def _factors(op):
  return getattr(op, 'factors', None) or ([op.factor] if hasattr(op, 'factor') else [])


def _shape(op, shapes, output):
  """The shape that an op makes of its inputs' shapes."""
  h, w, c = shapes[0]
  match op:
    case Dense():
      return 1, 1, op.weights.shape[0]
    case Conv():
      return *op.window.over(shapes[0]), op.weights.shape[0]
    case Depthwise():
      return *op.window.over(shapes[0]), op.weights.shape[-1]
    case Pool():
      return *op.window.over(shapes[0]), c
    case Mean():
      return 1 if 0 in op.axes else h, 1 if 1 in op.axes else w, c
    case Pad(pad=(top, bottom, left, right)):
      return h + top + bottom, w + left + right, c
    case Resize():
      inside = max(op.rows) < h and max(op.columns) < w and min(*op.rows, *op.columns) >= 0
      check(inside, f'{op.name}: reads outside of {shapes[0]}')
      return len(op.rows), len(op.columns), c
    case Crop(at=(y, x)):
      inside = 0 <= y <= h - output[0] and 0 <= x <= w - output[1]
      check(inside, f'{op.name}: {output} from {op.at} on leaves {shapes[0]}')
      return *output[:2], c
    case Paste(at=(y, x)):
      (h, w, c), whole = shapes[-1], output if len(shapes) == 1 else shapes[0]
      inside = 0 <= y <= whole[0] - h and 0 <= x <= whole[1] - w
      check(inside and len(shapes) <= 2, f'{op.name}: {shapes} at {op.at} in {whole}')
      return *whole[:2], c
    case Concat():
      check(len({s[:2] for s in shapes}) == 1, f'{op.name}: joins {shapes}')
      return h, w, sum(s[2] for s in shapes)
    case Mul():
      check(shapes[1] in (shapes[0], (1, 1, c)), f'{op.name}: multiplies {shapes}')
    case Add():
      check(shapes[0] == shapes[1], f'{op.name}: adds {shapes}')
    case Reshape():
      return output if math.prod(shapes[0]) == math.prod(output) else shapes[0]
  return shapes[0]


def _check_product(op, input_, output, say):
  h, w, c = input_.shape
  (kh, kw), cout = op.window.kernel, output.shape[2]
  shapes = {Conv: (cout, kh, kw, c), Depthwise: (kh, kw, cout), Dense: (cout, h * w * c)}
  want = next(shape for kind, shape in shapes.items() if isinstance(op, kind))
  check(op.weights.shape == want, say(f'weights {op.weights.shape}, where {want} are wanted'))
  check(op.weights.dtype == np.int8, say(f'weights are {op.weights.dtype}, not int8'))
  check(cout % c == 0 or not isinstance(op, Depthwise), say(f'{cout} outputs of {c} channels'))
  for name in ('bias', 'multiplier', 'shift'):
    values = getattr(op, name)
    good = values.shape == (cout,) and values.dtype == np.int32
    check(good, say(f'{name} is {values.dtype} {values.shape}, where int32 ({cout},) is wanted'))
  check(op.multiplier.min() > -(2**31), say('has a multiplier of -2^31'))
  check(op.shift.min() >= -31 and op.shift.max() <= 30, say('has a shift outside [-31, 30]'))
  most = (largest_sums(op) << np.maximum(op.shift, 0)).max()
  check(most < 2**31, say(f'its sums can reach {most}, which passes 32 bits'))


def largest_sums(op: Product) -> np.ndarray:
  """int64 [cout]: the largest magnitude that a sum can have; |q - zero| is at most 255."""
  span = np.abs(op.weights.astype(np.int64))
  span = span.sum((0, 1) if isinstance(op, Depthwise) else tuple(range(1, span.ndim)))
  return span * 255 + np.abs(op.bias.astype(np.int64))
