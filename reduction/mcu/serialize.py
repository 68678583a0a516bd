"""The bytes of a .tflite file of one subgraph, from tensors and operators as plain values.

Schema: tensorflow/lite/schema/schema.fbs, version 3, by the functions of the package `tflite`.
"""

from typing import NamedTuple

import numpy as np

from reduction.mcu.flatbuffer import TYPES, Value, library

SCHEMA = 3
ALIGN = 16  # of constants, as the schema forces
KINDS = {np.dtype(dtype): kind for kind, dtype in TYPES.items()}


class Written(NamedTuple):
  """An operator: kind as 'CONV_2D', its version, tensors, class of options or '', fields."""

  kind: str
  version: int
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]
  options: str
  fields: dict


def serialize(name: str, values: list[Value], operators: list[Written], inputs, outputs) -> bytes:
  """The file. inputs, outputs: indices of values. Where a value's scale has several entries they
  run along axis 3 of a [1, ...] shape, and along axis 0 of others.
  """
  tflite = library()  # says so where it is not installed; what is imported next comes with it
  import flatbuffers

  builder = flatbuffers.Builder(1024)
  datas = [b'', *(v.data.tobytes() for v in values if v.data is not None)]
  buffers = _offsets(builder, [_buffer(builder, data) for data in datas])
  numbers = iter(range(1, len(datas)))
  at = [0 if v.data is None else next(numbers) for v in values]
  tensors = _offsets(builder, [_tensor(builder, v, b) for v, b in zip(values, at)])
  codes = list(dict.fromkeys((o.kind, o.version) for o in operators))
  made = _offsets(builder, [_operator(builder, codes, o) for o in operators])
  ends = dict(
    Inputs=_indices(builder, inputs), Outputs=_indices(builder, outputs),
    Name=builder.CreateString('main'),
  )  # fmt: skip
  graph = _table(builder, 'SubGraph', Tensors=tensors, Operators=made, **ends)
  graphs = _offsets(builder, [graph])
  numbered = [(getattr(tflite.BuiltinOperator, kind), version) for kind, version in codes]
  listed = _offsets(builder, [
    _table(builder, 'OperatorCode', DeprecatedBuiltinCode=min(code, 127), BuiltinCode=code,
           Version=version)
    for code, version in numbered
  ])  # fmt: skip
  said = builder.CreateString(name)
  model = _table(
    builder, 'Model', Version=SCHEMA, OperatorCodes=listed, Subgraphs=graphs, Description=said,
    Buffers=buffers,
  )  # fmt: skip
  builder.Finish(model, b'TFL3')
  return bytes(builder.Output())


def _table(builder, name: str, **fields) -> int:
  tflite = library()
  getattr(tflite, f'{name}Start')(builder)
  for field, value in fields.items():
    getattr(tflite, f'{name}Add{field}')(builder, value)
  return getattr(tflite, f'{name}End')(builder)


def _offsets(builder, offsets) -> int:
  builder.StartVector(4, len(offsets), 4)
  for offset in reversed(offsets):
    builder.PrependUOffsetTRelative(offset)
  return builder.EndVector()


def _indices(builder, numbers) -> int:
  return builder.CreateNumpyVector(np.array(numbers, np.int32))


def _buffer(builder, data: bytes) -> int:
  if not data:
    return _table(builder, 'Buffer')
  builder.StartVector(1, len(data), ALIGN)
  builder.head -= len(data)
  builder.Bytes[builder.head : builder.head + len(data)] = data
  return _table(builder, 'Buffer', Data=builder.EndVector())


def _tensor(builder, value: Value, buffer: int) -> int:
  name, shape = builder.CreateString(value.name), _indices(builder, value.shape)
  fields = dict(
    Shape=shape, Type=getattr(library().TensorType, value.kind), Buffer=buffer, Name=name,
    HasRank=True,
  )  # fmt: skip
  if value.scale is not None:
    scale = builder.CreateNumpyVector(np.asarray(value.scale, np.float32))
    zero = builder.CreateNumpyVector(np.asarray(value.zero, np.int64))
    axis = 3 if len(value.scale) > 1 and value.shape[0] == 1 else 0
    fields['Quantization'] = _table(
      builder, 'QuantizationParameters', Scale=scale, ZeroPoint=zero, QuantizedDimension=axis
    )
  return _table(builder, 'Tensor', **fields)


def _operator(builder, codes, operator: Written) -> int:
  fields = {}
  if operator.options:
    values = operator.fields.items()
    values = {k: _indices(builder, v) if isinstance(v, tuple) else v for k, v in values}
    fields['BuiltinOptions'] = _table(builder, operator.options, **values)
    fields['BuiltinOptionsType'] = getattr(library().BuiltinOptions, operator.options)
  return _table(
    builder, 'Operator', OpcodeIndex=codes.index((operator.kind, operator.version)),
    Inputs=_indices(builder, operator.inputs), Outputs=_indices(builder, operator.outputs),
    **fields,
  )  # fmt: skip
