"""`.tflite` -> `Graph`, for int8 models of the operators that microcontrollers are given.

A PAD before a convolution becomes its pad, as a PADV2 of -128 before MAX_POOL_2D; TRANSPOSE before
MEAN other axes; functions of one value a table. Where a model has float ends (QUANTIZE first,
DEQUANTIZE last), the graph is what lies between, and its note names what was left out.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from reduction.errors import UsageError, require
from reduction.mcu import fixed, flatbuffer, scales
from reduction.mcu import graph as g

PLAIN = (0, 1, 2, 3)


@dataclasses.dataclass
class Building:
  """A graph under way. at: the file's tensor -> (the graph's, order of its axes there)."""

  file: flatbuffer.File
  tensors: list = dataclasses.field(default_factory=list)
  ops: list = dataclasses.field(default_factory=list)
  at: dict[int, tuple[int, tuple]] = dataclasses.field(default_factory=dict)
  inputs: list = dataclasses.field(default_factory=list)
  outputs: list = dataclasses.field(default_factory=list)
  pads: dict[int, tuple[int, tuple, int | None]] = dataclasses.field(default_factory=dict)
  left_out: list = dataclasses.field(default_factory=list)


def read(path) -> g.Graph:
  """The integer network of a file.

  Raises MissingInput; DataError for bytes that are no model; UsageError for float models, dynamic
  shapes, several subgraphs and operators that are not supported, naming the layer.
  """
  return build(flatbuffer.read(path))


def build(file: flatbuffer.File) -> g.Graph:
  """As `read`, of a file that was read."""
  made = Building(file)
  try:
    for index in file.inputs:
      if file.values[index].kind == 'INT8':
        made.inputs.append(_add_tensor(made, index))
    for operator in file.operators:
      _take(made, operator)
    made.outputs += [made.at[i][0] for i in file.outputs if i in made.at]
    require(made.inputs and made.ops, f'{file.name} is no int8 model: quantize it when converting')
    ends = tuple(made.inputs), tuple(dict.fromkeys(made.outputs))
    note = ', '.join(made.left_out)
    return g.Graph(file.name, tuple(made.tensors), tuple(made.ops), *ends, note)
  except flatbuffer.FAULTS as error:
    raise flatbuffer.unsound(file.name, error) from error


def _take(made, operator):
  kind, first = operator.kind, operator.inputs[0]
  known = first in made.at or first in made.pads
  if kind == 'QUANTIZE' and first in made.file.inputs and not known:
    made.inputs.append(_add_tensor(made, operator.outputs[0]))
    made.left_out.append('QUANTIZE')
  elif not known:  # floats, after the end
    require(made.outputs, f'{operator.name} ({kind}) works on floats: an int8 model is wanted')
    made.left_out.append(kind)
  elif kind == 'DEQUANTIZE':
    made.outputs.append(_at(made, first))
    made.left_out.append(kind)
  else:
    if kind not in BUILDERS:
      known = ', '.join(sorted(BUILDERS))
      raise UsageError(f'layer {operator.name!r} is {kind}, which is not supported. Known: {known}')
    BUILDERS[kind](made, operator)


def _image(shape, name) -> tuple[int, int, int]:
  """(h, w, c) of a batch of one."""
  if len(shape) == 1:
    return 1, 1, shape[0]
  require(
    2 <= len(shape) <= 4 and shape[0] == 1, f'{name} has shape {shape}; a batch of 1 is wanted'
  )
  return (*shape[1:-1], *(1,) * (4 - len(shape)), shape[-1])


def _tensor(made, index, shape=None) -> g.Tensor:
  """The file's tensor as the graph would have it."""
  value = made.file.values[index]
  require(
    value.kind == 'INT8' and value.scale is not None and len(value.scale) == 1,
    f'{value.name} is {value.kind} without one scale; int8 activations are wanted',
  )
  shape = shape or _image(value.shape, value.name)
  return g.Tensor(value.name, tuple(map(int, shape)), float(value.scale[0]), int(value.zero[0]))


def _add_tensor(made, index, shape=None) -> int:
  """Adds the file's tensor to the graph; its index there."""
  made.tensors.append(_tensor(made, index, shape))
  made.at[index] = len(made.tensors) - 1, PLAIN
  return made.at[index][0]


def _at(made, index) -> int:
  """The graph's tensor of the file's, in plain order; a pad not folded becomes an op."""
  if index in made.pads:
    inner, pad, value = made.pads.pop(index)
    before = _at(made, inner)
    output = _add_tensor(made, index)
    zero = made.tensors[output].zero
    require(value in (None, zero), f'{made.tensors[output].name} pads with {value}, not {zero}')
    made.ops.append(g.Pad(made.tensors[output].name, (before,), output, pad))
  require(index in made.at, f'{made.file.values[index].name} is used before it is made')
  found, order = made.at[index]
  name = made.file.values[index].name
  require(order == PLAIN, f'{name} is transposed, which only MEAN may read')
  return found


def _append(made, kind, operator, inputs, **fields):
  """Adds an op that reads the graph's tensors `inputs` and writes the operator's output."""
  output = _add_tensor(made, operator.outputs[0])
  made.ops.append(kind(operator.name, tuple(inputs), output, **fields))


def _range(made, activation: int, index: int) -> dict:
  """low and high of a fused activation for the file's tensor, which is in the graph."""
  value = made.file.values[index]
  known = activation in scales.ACTIVATIONS
  require(known, f'{value.name} has fused activation {activation}, not supported')
  real = scales.ACTIVATIONS[activation]
  low, high = scales.ends(*real, _tensor(made, index, (1, 1, 1)))
  return dict(low=low, high=high)


def _constant(made, index, dtype=np.int8):
  value = made.file.values[index]
  good = value.data is not None and value.data.dtype == dtype
  require(good, f'{value.name} is no constant of type {np.dtype(dtype).name}')
  return value.data


def _weights(made, operator, cout: int, *, whole: bool = False) -> dict:
  """Bias, multipliers, shifts. whole: as `scales.products` has it."""
  weight = made.file.values[operator.inputs[1]]
  require(weight.scale is not None and not weight.zero.any(), f'{weight.name} has a zero point')
  at = operator.inputs[2] if len(operator.inputs) > 2 else -1
  bias = _constant(made, at, np.int32) if at >= 0 else np.zeros(cout, np.int32)
  require(len(weight.scale) in (1, cout), f'{weight.name} has {len(weight.scale)} scales')
  first, last = (made.file.values[i].scale[0] for i in (operator.inputs[0], operator.outputs[0]))
  by_channel = np.broadcast_to(weight.scale, cout)
  multiplier, shift = scales.products(first, by_channel, last, whole=whole)
  return dict(bias=bias.reshape(-1), multiplier=multiplier, shift=shift)


def _window(made, operator, options, kernel) -> tuple[int, g.Window]:
  """(graph's input, window) of an operator that slides, with a PAD before it folded in."""
  index = operator.inputs[0]
  stride = options.StrideH(), options.StrideW()
  require(min(stride) > 0, f'{operator.name} has stride {stride}')
  shape = _image(made.file.values[index].shape, operator.name)
  pad = 0, 0, 0, 0
  if options.Padding() == 0:  # SAME
    pad = sum((scales.same(*sizes) for sizes in zip(shape[:2], kernel, stride)), ())
  if index in made.pads:
    inner, before, value = made.pads[index]
    both = tuple(a + b for a, b in zip(pad, before))
    inside = all(p < k for p, k in zip(both, np.repeat(kernel, 2)))
    if inside and _unseen(made, operator.kind, index, value):
      return _at(made, inner), g.Window(tuple(kernel), stride, both)
  return _at(made, index), g.Window(tuple(kernel), stride, pad)


def _unseen(made, kind: str, index: int, value: int | None) -> bool:
  """Whether pixels of that value (None: the zero point) are those that a window pads with."""
  if kind == 'MAX_POOL_2D':
    return value == -128
  return kind != 'AVERAGE_POOL_2D' and value in (None, int(made.file.values[index].zero[0]))


def _conv(made, operator):
  options = operator.options('Conv2DOptions')
  dilation = options.DilationHFactor(), options.DilationWFactor()
  require(dilation == (1, 1), f'{operator.name} has dilation {dilation}, not supported')
  weights = _constant(made, operator.inputs[1])
  input_, window = _window(made, operator, options, weights.shape[1:3])
  fields = _weights(made, operator, len(weights))
  fields |= _range(made, options.FusedActivationFunction(), operator.outputs[0])
  _append(made, g.Conv, operator, [input_], weights=weights, window=window, **fields)


def _depthwise(made, operator):
  options = operator.options('DepthwiseConv2DOptions')
  dilation = options.DilationHFactor(), options.DilationWFactor()
  require(dilation == (1, 1), f'{operator.name} has dilation {dilation}, not supported')
  weights = _constant(made, operator.inputs[1])[0]
  input_, window = _window(made, operator, options, weights.shape[:2])
  fields = _weights(made, operator, weights.shape[-1])
  fields |= _range(made, options.FusedActivationFunction(), operator.outputs[0])
  _append(made, g.Depthwise, operator, [input_], weights=weights, window=window, **fields)


def _dense(made, operator):
  options = operator.options('FullyConnectedOptions')
  weights = _constant(made, operator.inputs[1])
  scale = made.file.values[operator.inputs[1]].scale
  whole = scale is not None and len(scale) == 1
  fields = _weights(made, operator, len(weights), whole=whole)
  fields |= _range(made, options.FusedActivationFunction(), operator.outputs[0])
  _append(made, g.Dense, operator, [_at(made, operator.inputs[0])], weights=weights, **fields)


def _scales(made, operator) -> list[float]:
  """Scales of the inputs, then of the output."""
  return [float(made.file.values[i].scale[0]) for i in (*operator.inputs, *operator.outputs)]


def _add(made, operator):
  inputs = [_at(made, i) for i in operator.inputs]
  fields = _range(made, operator.options('AddOptions').FusedActivationFunction(),
                  operator.outputs[0])  # fmt: skip
  _append(
    made, g.Add, operator, inputs, factors=fixed.add_factors(*_scales(made, operator)), **fields
  )


def _mul(made, operator):
  inputs = [_at(made, i) for i in operator.inputs]
  if made.tensors[inputs[0]].size < made.tensors[inputs[1]].size:
    inputs.reverse()
  a, b, output = _scales(made, operator)
  fields = _range(made, operator.options('MulOptions').FusedActivationFunction(),
                  operator.outputs[0])  # fmt: skip
  factor = scales.product(a, b, output)
  _append(made, g.Mul, operator, inputs, factor=factor, **fields)


def _pool(made, operator):
  options = operator.options('Pool2DOptions')
  kernel = options.FilterHeight(), options.FilterWidth()
  input_, window = _window(made, operator, options, kernel)
  fields = _range(made, options.FusedActivationFunction(), operator.outputs[0])
  how = 'average' if operator.kind == 'AVERAGE_POOL_2D' else 'max'
  _append(made, g.Pool, operator, [input_], how=how, window=window, **fields)


def _pad(made, operator):
  pads = _constant(made, operator.inputs[1], np.int32)
  good = pads.shape == (4, 2) and not pads[[0, 3]].any() and pads.min() >= 0
  require(good, f'{operator.name} pads {pads.tolist()}; height and width alone are wanted')
  value = int(_constant(made, operator.inputs[2]).item()) if operator.kind == 'PADV2' else None
  around = tuple(int(n) for n in pads[1:3].reshape(-1))
  made.pads[operator.outputs[0]] = operator.inputs[0], around, value


def _transpose(made, operator):
  order = tuple(int(a) for a in _constant(made, operator.inputs[1], np.int32))
  require(sorted(order) == list(PLAIN), f'{operator.name} transposes by {order}')
  made.at[operator.outputs[0]] = _at(made, operator.inputs[0]), order


def _mean(made, operator):
  input_, order = made.at.get(operator.inputs[0]) or (_at(made, operator.inputs[0]), PLAIN)
  axes = _constant(made, operator.inputs[1], np.int32).reshape(-1)
  axes = {order[int(a) % len(order)] for a in axes}
  require(axes <= {1, 2}, f'{operator.name} takes a mean over other axes than height and width')
  h, w, c = made.tensors[input_].shape
  output = operator.outputs[0]
  shape = 1 if 1 in axes else h, 1 if 2 in axes else w, c
  index = _add_tensor(made, output, shape)
  kept = order if operator.options('ReducerOptions').KeepDims() else (
    tuple(a for a in order if a not in axes))  # fmt: skip
  made.at[output] = index, PLAIN if list(kept) == sorted(kept) else kept
  factor = scales.mean(made.tensors[input_].scale, made.tensors[index].scale)
  fields = dict(axes=tuple(sorted(a - 1 for a in axes)), factor=factor)
  made.ops.append(g.Mean(operator.name, (input_,), index, **fields))


def _softmax(made, operator):
  beta = operator.options('SoftmaxOptions').Beta()
  input_ = _at(made, operator.inputs[0])
  factor, least = scales.softmax(beta * made.tensors[input_].scale)
  _append(made, g.Softmax, operator, [input_], factor=factor, least=least)


def _reshape(made, operator):
  value = made.file.values[operator.outputs[0]]
  inner = _at(made, operator.inputs[0])
  if made.tensors[inner].shape == _image(value.shape, value.name):
    made.at[operator.outputs[0]] = inner, PLAIN
  else:
    _append(made, g.Reshape, operator, [inner])


def _concat(made, operator):
  options = operator.options('ConcatenationOptions')
  rank = len(made.file.values[operator.outputs[0]].shape)
  require(options.Axis() % rank == rank - 1, f'{operator.name} joins along axis {options.Axis()}')
  require(options.FusedActivationFunction() == 0, f'{operator.name} has a fused activation')
  _append(made, g.Concat, operator, [_at(made, i) for i in operator.inputs])


def _resize(made, operator):
  options = operator.options('ResizeNearestNeighborOptions')
  corners, half = options.AlignCorners(), options.HalfPixelCenters()
  before = _image(made.file.values[operator.inputs[0]].shape, operator.name)
  after = _image(made.file.values[operator.outputs[0]].shape, operator.name)
  require(min(after) > 0 and max(after) < 2**15, f'{operator.name} resizes to {after}')
  rows, columns = (scales.nearest(before[i], after[i], corners, half) for i in (0, 1))
  input_ = _at(made, operator.inputs[0])
  _append(made, g.Resize, operator, [input_], rows=rows, columns=columns)


def _lookup(table):
  """A builder of table(tensor before, tensor after)."""

  def builder(made, operator):
    input_ = _at(made, operator.inputs[0])
    shape = made.tensors[input_].shape
    after = _tensor(made, operator.outputs[0], shape)
    _append(made, g.Lookup, operator, [input_], table=table(made.tensors[input_], after))

  return builder


def _relu(activation: int):
  return _lookup(functools.partial(scales.clamped, activation))


BUILDERS: dict[str, Any] = {
  'CONV_2D': _conv, 'DEPTHWISE_CONV_2D': _depthwise, 'FULLY_CONNECTED': _dense, 'ADD': _add,
  'MUL': _mul, 'AVERAGE_POOL_2D': _pool, 'MAX_POOL_2D': _pool, 'PAD': _pad,
  'TRANSPOSE': _transpose, 'MEAN': _mean, 'SOFTMAX': _softmax, 'RESHAPE': _reshape,
  'CONCATENATION': _concat, 'RESIZE_NEAREST_NEIGHBOR': _resize, 'PADV2': _pad,
  'QUANTIZE': _lookup(scales.rescaled), 'LOGISTIC': _lookup(scales.logistic),
  'RELU': _relu(scales.RELU), 'RELU6': _relu(scales.RELU6),
}  # fmt: skip
