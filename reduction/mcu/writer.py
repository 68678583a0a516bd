"""`Graph` -> `.tflite`, which LiteRT, TensorFlow Lite for Microcontrollers and `reader` take.

A graph holds factors, a file real scales: those of weights are found from the factors, and every
factor, range and table is made again from what is written and compared, so that a file that is
written says exactly what the graph does. A window padded otherwise than the format's SAME becomes
PAD (before a maximum PADV2 of -128) and the window; a vector that is read as an image a RESHAPE.
"""

import dataclasses
import functools
import itertools

import numpy as np

from reduction.errors import MissingInput, UsageError, require
from reduction.mcu import fixed, scales, serialize
from reduction.mcu import graph as g
from reduction.mcu.flatbuffer import Value
from reduction.mcu.serialize import Written

SAME, VALID = 0, 1
LEAST = np.float32(1e-30)  # a scale whose factor is (0, 0) beside any others'


@dataclasses.dataclass
class Writing:
  """A file under way. at: the graph's tensor -> the file's; images: -> the file's of rank 4."""

  graph: g.Graph
  values: list = dataclasses.field(default_factory=list)
  operators: list = dataclasses.field(default_factory=list)
  at: dict[int, int] = dataclasses.field(default_factory=dict)
  images: dict[int, int] = dataclasses.field(default_factory=dict)


def write(graph: g.Graph) -> bytes:
  """The bytes of a file that computes what graph does, int8 in and out.

  What is read back equals graph where op and output have one name, tensors come in the order in
  which they are made, and no Pad stands before a product. Raises MissingInput without the package
  `tflite`, UsageError for an op that no operator of the format computes: a table that is no known
  function, pixels chosen by no rule of resizing, an average over a window padded otherwise than
  SAME, a clamp that is no activation of the format, a factor that no scale in float32 has.
  """
  made = Writing(graph)
  for index in graph.inputs:
    made.at[index] = made.images[index] = _value(made, index)
  for op in graph.ops:
    _check(type(op) in WRITERS, op, 'a kind')
    WRITERS[type(op)](made, op)
  ends = ([made.at[i] for i in part] for part in (graph.inputs, graph.outputs))
  return serialize.serialize(graph.name, made.values, made.operators, *ends)


def attempt(graph: g.Graph) -> tuple[bytes | None, str | None]:
  """(the bytes, None), or (None, why there is no such file)."""
  try:
    return write(graph), None
  except (UsageError, MissingInput) as error:
    return None, str(error)


def _add(made, name, kind, shape, scale=None, zero=None, data=None) -> int:
  made.values.append(Value(name, kind, tuple(shape), scale, zero, data))
  return len(made.values) - 1


def _value(made, index: int, *, flat: bool = False, shape=None, name=None) -> int:
  """Adds a tensor of the graph to the file, [1, h, w, c] or [1, c]; its index there."""
  tensor = made.graph.tensors[index]
  scale = np.float32(tensor.scale)
  exact = float(scale) == tensor.scale
  require(exact, f'{tensor.name} has scale {tensor.scale!r}; float32 has {float(scale)!r}')
  shape = shape or ((1, tensor.shape[2]) if flat else (1, *tensor.shape))
  quantized = np.array([scale]), np.array([tensor.zero])
  return _add(made, name or tensor.name, 'INT8', shape, *quantized)


def _constant(made, name, data, scale=None) -> int:
  kind = serialize.KINDS[data.dtype]
  zero = None if scale is None else np.zeros(len(scale), np.int64)
  return _add(made, name, kind, data.shape, scale, zero, np.ascontiguousarray(data))


def _image(made, index: int) -> int:
  """The file's tensor [1, h, w, c] of the graph's; a RESHAPE makes it of [1, c]."""
  if index not in made.images:
    name = f'{made.graph.tensors[index].name}, image'
    made.images[index] = _value(made, index, name=name)
    _reshape(made, made.at[index], made.images[index])
  return made.images[index]


def _reshape(made, before: int, after: int):
  shape = made.values[after].shape
  given = _constant(made, f'{made.values[after].name}, shape', np.array(shape, np.int32))
  fields = dict(NewShape=shape)
  made.operators.append(Written('RESHAPE', 1, (before, given), (after,), 'ReshapeOptions', fields))


def _append(made, op, kind, version, inputs, options='', *, flat=False, **fields):
  """Adds the operator that makes op's output."""
  made.at[op.output] = output = _value(made, op.output, flat=flat)
  if not flat:
    made.images[op.output] = output
  made.operators.append(Written(kind, version, tuple(inputs), (output,), options, fields))


def _tensors(made, op):
  """The tensors that op reads, and the one that it writes."""
  return [made.graph.tensors[i] for i in op.inputs], made.graph.tensors[op.output]


def _activation(made, op) -> dict:
  """The fused activation that clamps as op does."""
  output = made.graph.tensors[op.output]
  for activation, ends in scales.ACTIVATIONS.items():
    if scales.ends(*ends, output) == (op.low, op.high):
      return dict(FusedActivationFunction=activation)
  low, high = ((end - output.zero) * output.scale for end in (op.low, op.high))
  raise UsageError(
    f'{op.name} clamps to {low:.4g} .. {high:.4g}; a .tflite file has relu, relu6 and -1 .. 1'
  )


def _check(good: bool, op, what: str):
  require(good, f'{op.name} ({op.kind}) has {what}, which no .tflite operator has')


def _weight_scales(made, op, *, whole: bool) -> np.ndarray | None:
  """float32 scales of weights from which readers get op's factors; None where there are none."""
  (before,), after = _tensors(made, op)
  reals = op.multiplier * 2.0 ** (op.shift - 31.0) * after.scale / before.scale
  found = np.where(op.multiplier == 0, LEAST, reals).astype(np.float32)
  for step in (0, -1, 1, -2, 2):
    near = (found.view(np.int32) + np.int32(step)).view(np.float32)
    factors = scales.products(before.scale, near, after.scale, whole=whole)
    if all(np.array_equal(a, b) for a, b in zip(factors, (op.multiplier, op.shift))):
      return near
  return None


def _product(made, op, weights, input_: int, kind: str, version: int, options, **fields):
  """Adds an operator of weights, int8 as the file has them."""
  same = (op.multiplier == op.multiplier[0]).all() and (op.shift == op.shift[0]).all()
  dense = isinstance(op, g.Dense)
  found = _weight_scales(made, op, whole=True) if dense and same else None
  if found is not None:
    found, version = found[:1], min(version, 4)
  elif not dense or len(op.bias) > 1:
    found = _weight_scales(made, op, whole=False)
  _check(found is not None, op, 'factors')
  before = np.float32(made.graph.tensors[op.inputs[0]].scale)
  inputs = (
    input_, _constant(made, f'{op.name}, weights', weights, found),
    _constant(made, f'{op.name}, bias', op.bias, before * found),
  )  # fmt: skip
  _append(made, op, kind, version, inputs, options, **_activation(made, op), **fields)


def _window(made, op) -> tuple[int, dict]:
  """(the file's input, fields) of an operator that slides; adds a PAD where the format wants it."""
  (before,), _ = _tensors(made, op)
  window, input_ = op.window, _image(made, op.inputs[0])
  same = sum(map(scales.same, before.shape[:2], window.kernel, window.stride), ())
  fields = dict(StrideH=window.stride[0], StrideW=window.stride[1], Padding=VALID)
  if any(window.pad) and window.pad == same:
    fields['Padding'] = SAME
  elif any(window.pad):
    input_ = _padded(made, op, input_, before)
  return input_, fields


def _padded(made, op, input_, before) -> int:
  """The file's input of op with its window's pad around it."""
  largest = isinstance(op, g.Pool) and op.how == 'max'
  _check(largest or isinstance(op, g.Product), op, f'a window that pads {op.window.pad}')
  top, bottom, left, right = op.window.pad
  h, w, c = before.shape
  shape, name = (1, h + top + bottom, w + left + right, c), f'{op.name}, padded'
  inputs = input_, _around(made, op)
  if largest:
    quantized = np.array([before.scale], np.float32), np.array([before.zero])
    value = _add(made, f'{op.name}, pad value', 'INT8', (1,), *quantized, np.array([-128], np.int8))
    inputs = *inputs, value
  output = _value(made, op.inputs[0], shape=shape, name=name)
  kind = 'PADV2' if largest else 'PAD'
  options = 'PadV2Options' if largest else 'PadOptions'
  made.operators.append(Written(kind, 2, inputs, (output,), options, {}))
  return output


def _around(made, op) -> int:
  top, bottom, left, right = op.window.pad if hasattr(op, 'window') else op.pad
  pads = np.array([(0, 0), (top, bottom), (left, right), (0, 0)], np.int32)
  return _constant(made, f'{op.name}, pad', pads)


def _conv(made, op):
  input_, fields = _window(made, op)
  fields |= dict(DilationHFactor=1, DilationWFactor=1)
  _product(made, op, op.weights, input_, 'CONV_2D', 3, 'Conv2DOptions', **fields)


def _depthwise(made, op):
  input_, fields = _window(made, op)
  (before,), after = _tensors(made, op)
  fields |= dict(DilationHFactor=1, DilationWFactor=1)
  fields['DepthMultiplier'] = after.shape[2] // before.shape[2]
  options = 'DepthwiseConv2DOptions'
  _product(made, op, op.weights[None], input_, 'DEPTHWISE_CONV_2D', 3, options, **fields)


def _dense(made, op):
  kind, options = 'FULLY_CONNECTED', 'FullyConnectedOptions'
  _product(made, op, op.weights, made.at[op.inputs[0]], kind, 12, options, flat=True)


def _sum(made, op):
  inputs, output = _tensors(made, op)
  factors = fixed.add_factors(*(t.scale for t in inputs), output.scale)
  _check(factors == op.factors, op, f'factors {op.factors} beside scales of {factors}')
  images = [_image(made, i) for i in op.inputs]
  _append(made, op, 'ADD', 2, images, 'AddOptions', **_activation(made, op))


def _mul(made, op):
  (a, b), output = _tensors(made, op)
  factor = scales.product(a.scale, b.scale, output.scale)
  _check(factor == op.factor, op, f'a factor {op.factor} beside scales of {factor}')
  images = [_image(made, i) for i in op.inputs]
  _append(made, op, 'MUL', 2, images, 'MulOptions', **_activation(made, op))


def _pool(made, op):
  input_, fields = _window(made, op)
  fields |= dict(FilterHeight=op.window.kernel[0], FilterWidth=op.window.kernel[1])
  kind = 'AVERAGE_POOL_2D' if op.how == 'average' else 'MAX_POOL_2D'
  _append(made, op, kind, 2, [input_], 'Pool2DOptions', **fields, **_activation(made, op))


def _mean(made, op):
  (before,), after = _tensors(made, op)
  factor = scales.mean(before.scale, after.scale)
  _check(factor == op.factor, op, f'a factor {op.factor} beside scales of {factor}')
  axes = _constant(made, f'{op.name}, axes', np.array([a + 1 for a in op.axes], np.int32))
  inputs = _image(made, op.inputs[0]), axes
  _append(made, op, 'MEAN', 2, inputs, 'ReducerOptions', KeepDims=True)


def _softmax(made, op):
  (before,), _ = _tensors(made, op)
  near = np.float32(op.factor[0] * 2.0 ** (op.factor[1] - 57) / before.scale)
  candidates = [1.0, *(float((near.view(np.int32) + np.int32(n)).view(np.float32))
                       for n in (0, -1, 1))]  # fmt: skip
  found = [b for b in candidates if scales.softmax(b * before.scale) == (op.factor, op.least)]
  _check(bool(found), op, f'a factor {op.factor} with least {op.least}')
  flat = made.graph.tensors[op.output].shape[:2] == (1, 1)
  input_ = made.at[op.inputs[0]]
  flat = flat and len(made.values[input_].shape) == 2
  _append(made, op, 'SOFTMAX', 2, [input_], 'SoftmaxOptions', flat=flat, Beta=found[0])


def _lookup(made, op):
  (before,), after = _tensors(made, op)
  clamped = lambda activation: functools.partial(scales.clamped, activation)
  tables = dict(QUANTIZE=scales.rescaled, RELU=clamped(scales.RELU))
  if (after.scale, after.zero) == scales.SHARES:
    tables['LOGISTIC'] = scales.logistic
  if (after.scale, after.zero) == (before.scale, before.zero):  # TFLM's RELU6 does not rescale
    tables['RELU6'] = clamped(scales.RELU6)
  kinds = [k for k, table in tables.items() if np.array_equal(table(before, after), op.table)]
  _check(bool(kinds), op, 'a table')
  input_ = made.at[op.inputs[0]]
  options = 'QuantizeOptions' if kinds[0] == 'QUANTIZE' else ''
  flat = len(made.values[input_].shape) == 2
  _append(made, op, kinds[0], 2, [input_], options, flat=flat)


def _pad(made, op):
  inputs = _image(made, op.inputs[0]), _around(made, op)
  _append(made, op, 'PAD', 2, inputs, 'PadOptions')


def _shaped(made, op):
  made.at[op.output] = made.images[op.output] = _value(made, op.output)
  _reshape(made, made.at[op.inputs[0]], made.at[op.output])


def _concat(made, op):
  images = [_image(made, i) for i in op.inputs]
  fields = dict(Axis=3, FusedActivationFunction=0)
  _append(made, op, 'CONCATENATION', 2, images, 'ConcatenationOptions', **fields)


def _resize(made, op):
  (before,), after = _tensors(made, op)
  sizes = list(zip(before.shape[:2], after.shape[:2]))
  for corners, half in itertools.product((False, True), repeat=2):
    if [scales.nearest(*size, corners, half) for size in sizes] == [op.rows, op.columns]:
      break
  else:
    _check(False, op, f'rows {op.rows} and columns {op.columns}')
  to = _constant(made, f'{op.name}, size', np.array(after.shape[:2], np.int32))
  inputs, options = (_image(made, op.inputs[0]), to), 'ResizeNearestNeighborOptions'
  fields = dict(AlignCorners=corners, HalfPixelCenters=half)
  _append(made, op, 'RESIZE_NEAREST_NEIGHBOR', 3, inputs, options, **fields)


WRITERS = {
  g.Conv: _conv, g.Depthwise: _depthwise, g.Dense: _dense, g.Add: _sum, g.Mul: _mul, g.Pool: _pool,
  g.Mean: _mean, g.Softmax: _softmax, g.Lookup: _lookup, g.Pad: _pad, g.Reshape: _shaped,
  g.Concat: _concat, g.Resize: _resize,
}  # fmt: skip
