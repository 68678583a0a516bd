"""GPTQ's packed layers, as AutoGPTQ and GPTQModel write and Transformers and vLLM read them.

qweight int32 [in * bits / 32, out]  rows run on in words: [1, 2, 3] of 4 bits are 0x321
qzeros  int32 [groups, out * bits / 32]  columns run on in words
scales  float16 [groups, out]
g_idx   int32 [in]  the group of each row

Version 1 ('gptq') stores zero - 1, version 2 ('gptq_v2') zero. A zero of 0 has no one meaning in
the former: AutoGPTQ's layers wrap within the field (but not in 3 bits), GPTQModel adds one to all
fields of a word and carries into the next column, vLLM's kernels read 2^bits. So it is neither
written nor read. vLLM 0.32 takes symmetric layers of 4 and 8 bits alone.

Frantar et al. 2023; github.com/AutoGPTQ/AutoGPTQ, auto_gptq/nn_modules/qlinear, and
github.com/ModelCloud/GPTQModel, gptqmodel/utils/model.py.
"""

from collections.abc import Mapping

import numpy as np

from reduction.errors import DataError, require
from reduction.formats import packing
from reduction.formats.packing import Linear

BITS = 2, 3, 4, 8


def pack(codes, scale, zero, bits: int, group: int | str, *, index=None, version: int = 2) -> dict:
  """The tensors of a layer. codes, scale, zero, index: as in `Linear`; group: rows, or 'channel'.

  Raises UsageError for what the format does not hold: rows or columns that are no multiple of 32,
  scales that are no float16 numbers, a zero point of 0 in version 1.
  """
  known(version, bits)
  size = packing.check(Linear(codes, scale, zero, index), bits, group)
  for what, count in zip(('rows', 'columns'), codes.shape):
    require(count % 32 == 0, f'gptq takes {what} in multiples of 32, not {count}; pad the layer')
  zero = packing.middle_for(zero, bits, scale)
  if version == 1:
    none = int((zero == 0).sum())
    require(
      not none,
      f'{none} groups have a zero point of 0, which readers of gptq take for different numbers; '
      'use gptq_v2',
    )
    zero = zero - np.uint8(1)
  index = np.arange(len(codes)) // size if index is None else index
  return dict(
    qweight=packing.words(codes, bits, axis=0),
    qzeros=packing.words(zero, bits, axis=1),
    scales=np.ascontiguousarray(packing.exactly(scale, np.float16)),
    g_idx=index.astype(np.int32),
  )


def unpack(tensors: Mapping, bits: int, group: int | str, *, version: int = 2) -> Linear:
  """The layer that was packed; tensors by their last name. index is None where rows are in order.

  Raises UsageError or DataError.
  """
  known(version, bits)
  qweight = packing.part(tensors, 'qweight', 'int32', (None, None))
  high, columns = qweight.shape
  if bits == 3 and high % 3:
    raise DataError(f'qweight has {high} words a column; 3 bits fill three at a time')
  rows = high * 32 // bits
  size = packing.sized(group, rows)
  scale = packing.part(tensors, 'scales', 'float', (rows // size, columns))
  wide = packing.width(columns, bits)
  qzeros = packing.part(tensors, 'qzeros', 'int32', (rows // size, wide))
  zero = packing.fields(qzeros, bits, columns, axis=1)
  if version == 1:
    if (zero == 2**bits - 1).any():
      raise DataError(
        'qzeros has fields of ones only, a zero point of 0, which the writers of gptq store in '
        'different ways; convert the model to gptq_v2 with the program that wrote it'
      )
    zero = zero + np.uint8(1)
  codes = packing.fields(qweight, bits, rows, axis=0)
  return Linear(codes, scale, zero, packing.index(tensors, 'g_idx', rows, size))


def known(version: int, bits: int):
  """Raises UsageError unless there are such layers."""
  require(version in (1, 2), f'gptq has versions 1 and 2, not {version!r}')
  require(bits in BITS, f'gptq packs {", ".join(map(str, BITS))} bits, not {bits}')
