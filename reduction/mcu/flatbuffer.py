"""Safe reading of a .tflite file: its tensors, constants and operators as plain values."""

import functools
import math
import pathlib
import struct
from typing import Any, NamedTuple

import numpy as np

from reduction.errors import DataError, MissingInput, UsageError, require

TYPES = {'INT8': np.int8, 'INT32': np.int32, 'FLOAT32': np.float32}
FAULTS = (struct.error, LookupError, ValueError, TypeError, AttributeError, ArithmeticError)


class Value(NamedTuple):
  """A tensor as the file has it. data: its constant, or None. scale, zero: arrays, or None."""

  name: str
  kind: str
  shape: tuple[int, ...]
  scale: np.ndarray | None
  zero: np.ndarray | None
  data: np.ndarray | None


class Operator(NamedTuple):
  """kind as 'CONV_2D', name for messages, tensors, and a function: class of options -> options."""

  kind: str
  name: str
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]
  options: Any


class File(NamedTuple):
  """values: by index. inputs, outputs: indices."""

  name: str
  values: list[Value]
  operators: list[Operator]
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]


def library():
  """The package that knows the format. Raises MissingInput where it is not installed."""
  try:
    import tflite
  except ImportError as error:
    raise MissingInput("reading .tflite files needs: pip install 'reduction[mcu]'") from error
  return tflite


@functools.lru_cache(maxsize=2)
def _names(enum: str) -> dict[int, str]:
  members = vars(getattr(library(), enum))
  return {value: name for name, value in members.items() if isinstance(value, int)}


def read(path) -> File:
  """The file's one subgraph. Raises MissingInput, DataError for bytes that are no .tflite file."""
  path = pathlib.Path(path)
  if not path.is_file():
    raise MissingInput(f'{path} is not there; a .tflite file is wanted')
  return parse(path.read_bytes(), path.stem)


def parse(data: bytes, name: str) -> File:
  """As `read`, from bytes."""
  tflite = library()
  if data[4:8] != b'TFL3':
    raise DataError(f'{name} is no .tflite file: it does not say TFL3')
  try:
    model = tflite.Model.GetRootAsModel(data, 0)
    require(model.SubgraphsLength() == 1, f'{name} has {model.SubgraphsLength()} subgraphs, not 1')
    graph = model.Subgraphs(0)
    values = [_value(model, graph.Tensors(i), i) for i in range(graph.TensorsLength())]
    operators = [_operator(model, graph, i, values) for i in range(graph.OperatorsLength())]
    ends = _indices(graph.InputsAsNumpy(), values), _indices(graph.OutputsAsNumpy(), values)
  except (*FAULTS, DataError) as error:
    raise unsound(name, error) from error
  return File(name, values, operators, *ends)


def unsound(name: str, error: Exception) -> DataError:
  """What is said of a file whose bytes make no sense."""
  return DataError(f'{name} is no sound .tflite file: {" ".join(str(error).split())[:200]}')


def _indices(array, values) -> tuple[int, ...]:
  found = tuple(int(i) for i in array) if isinstance(array, np.ndarray) else ()
  if not all(-1 <= i < len(values) for i in found):
    raise DataError(f'tensors {found} are not all there')
  return found


def _text(raw, index) -> str:
  text = raw.decode('utf-8', 'replace') if raw else f'tensor {index}'
  return ''.join(c if c.isprintable() else '?' for c in text)[:1000]


def _value(model, tensor, index) -> Value:
  kind = _names('TensorType').get(tensor.Type(), str(tensor.Type()))
  shape = tuple(int(n) for n in tensor.ShapeAsNumpy()) if tensor.ShapeLength() else ()
  name = _text(tensor.Name(), index)
  signature = tensor.ShapeSignatureAsNumpy() if tensor.ShapeSignatureLength() else ()
  if any(n < 0 for n in (*shape, *tuple(signature)[1:])):  # the batch alone may be open
    raise UsageError(f'{name} has a dynamic shape {tuple(signature) or shape}; fix it and convert')
  quantization, scale, zero = tensor.Quantization(), None, None
  if quantization and quantization.ScaleLength():
    scale = np.array(quantization.ScaleAsNumpy(), np.float32)
    there = quantization.ZeroPointLength()
    zero = np.array(quantization.ZeroPointAsNumpy() if there else [0] * len(scale), np.int64)
    if len(scale) != len(zero) or not np.isfinite(scale).all():
      raise DataError(f'{name} has scales {scale[:4]} and zero points {zero[:4]}')
  return Value(name, kind, shape, scale, zero, _constant(model, tensor, kind, shape, name))


def _constant(model, tensor, kind, shape, name):
  buffer = model.Buffers(tensor.Buffer())
  if not buffer.DataLength():
    return None
  if kind not in TYPES:
    raise UsageError(f'{name} is a constant of type {kind}; {", ".join(TYPES)} are read')
  raw, dtype = buffer.DataAsNumpy(), np.dtype(TYPES[kind])
  if raw.nbytes != math.prod(shape) * dtype.itemsize:
    raise DataError(f'{name} has {raw.nbytes} bytes for a shape of {shape}')
  return raw.view(dtype).reshape(shape)


def _operator(model, graph, index, values) -> Operator:
  operator = graph.Operators(index)
  code = model.OperatorCodes(operator.OpcodeIndex())
  number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
  kind = _names('BuiltinOperator').get(number, f'operator {number}')
  inputs = _indices(operator.InputsAsNumpy(), values)
  outputs = _indices(operator.OutputsAsNumpy(), values)
  if not inputs or len(outputs) != 1 or min(outputs) < 0 or inputs[0] < 0:
    raise UsageError(f'operator {index} ({kind}) has {len(inputs)} inputs, {len(outputs)} outputs')

  def options(name: str):
    table = operator.BuiltinOptions()
    found = getattr(library(), name)()
    if table is None:
      raise DataError(f'operator {index} ({kind}) has no options')
    found.Init(table.Bytes, table.Pos)
    return found

  return Operator(kind, values[outputs[0]].name, inputs, outputs, options)
