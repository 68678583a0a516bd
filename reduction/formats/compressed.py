"""Layers in the 'pack-quantized' form of compressed-tensors, which Transformers and vLLM read.

weight_packed      int32 [out, words(in)]  rows run on in words: codes [1, 2, 3] of 4 bits are 0x321
weight_scale       floats [out, groups]
weight_zero_point  int32 [words(out), groups]  columns run on in words; asymmetric layers alone
weight_shape       int64 [out, in]

Codes and zero points are signed there, c - 2^(bits - 1), and stored with that added again: as here.
3 bits run on across words since version 0.18; older ones put 10 in a word, which is read too. Rows
in another order (weight_g_idx) are read and not written, since readers from 0.19 on refuse them.
vLLM 0.32 takes 2 to 8 bits, with zero points or without, where it has a kernel for them (for zero
points older ones take 4 and 8 alone); Transformers 5 reads zero points with
CompressedTensorsConfig(dequantize=True) only.

github.com/vllm-project/compressed-tensors, compressors/pack_quantized.
"""

from collections.abc import Mapping

import numpy as np

from reduction.errors import DataError, require
from reduction.formats import packing
from reduction.formats.packing import Linear

BITS = 2, 3, 4, 8
SCALES = 'float16', 'bfloat16', 'float32'


def pack(codes, scale, zero, bits: int, group: int | str) -> dict:
  """The tensors of a layer. codes, scale, zero: as in `Linear`; group: rows, or 'channel'.

  scale stays as it is. Raises UsageError for what the format does not hold: rows of 3 bits that are
  no multiple of 32.
  """
  known(bits)
  packing.check(Linear(codes, scale, zero), bits, group)
  rows, columns = codes.shape
  ragged = bits == 3 and rows % 32
  require(not ragged, f'3 bits take rows in multiples of 32, not {rows}; pad the layer')
  name = scale.dtype.name
  require(name in SCALES, f'scales are {name}, which is none of {", ".join(SCALES)}')
  tensors = dict(
    weight_packed=packing.words(codes.T, bits, axis=1),
    weight_scale=np.ascontiguousarray(scale.T),
    weight_shape=np.array([columns, rows], np.int64),
  )
  if zero is not None:
    tensors['weight_zero_point'] = packing.words(zero.T, bits, axis=0)
  return tensors


def unpack(tensors: Mapping, bits: int, group: int | str) -> Linear:
  """The layer that was packed; tensors by their last name. zero is None where there are none.

  Raises UsageError or DataError.
  """
  known(bits)
  shape = packing.part(tensors, 'weight_shape', 'integer', (2,))
  packed = packing.part(tensors, 'weight_packed', 'int32', (None, None))
  columns, rows = map(int, shape)
  read, wide = _layout(bits, rows, packed.shape[1])
  if packed.shape[0] != columns:
    raise DataError(f'weight_packed is {packing.told(packed)} for a weight of {columns} x {rows}')
  size = packing.sized(group, rows)
  groups = rows // size
  scale = packing.part(tensors, 'weight_scale', 'float', (columns, groups))
  zero = None
  if 'weight_zero_point' in tensors:
    zero = packing.part(tensors, 'weight_zero_point', 'int32', (wide(columns), groups))
    zero = np.ascontiguousarray(read(zero, columns, axis=0).T)
  index = packing.index(tensors, 'weight_g_idx', rows, size)
  codes = np.ascontiguousarray(read(packed, rows, axis=1).T)
  return Linear(codes, np.ascontiguousarray(scale.T), zero, index)


def known(bits: int):
  """Raises UsageError unless there are such layers."""
  require(bits in BITS, f'compressed-tensors packs {", ".join(map(str, BITS))} bits, not {bits}')


def _layout(bits, rows, have):
  """(what reads words, the words of n codes) of a layer whose rows take so many words."""
  runs_on, by_ten = packing.width(rows, bits), -(-rows // (32 // bits))
  if have not in (runs_on, by_ten) or rows < 1:
    raise DataError(f'weight_packed has {have} words for {rows} rows of {bits} bits')
  if bits != 3 or have != by_ten:
    return lambda x, n, axis: packing.fields(x, bits, n, axis=axis), (
      lambda n: packing.width(n, bits)
    )
  if by_ten == runs_on:
    raise DataError(f'{rows} rows of 3 bits take {have} words in old and new layers alike')
  return _fields_by_ten, lambda n: -(-n // 10)


def _fields_by_ten(packed, count, *, axis):
  """The codes of words that hold ten of 3 bits and two bits of nothing."""
  packed = np.moveaxis(packed, axis, -1).astype(np.uint32)
  codes = (packed[..., None] >> np.arange(0, 30, 3, dtype=np.uint32)) & 7
  codes = codes.reshape(*packed.shape[:-1], -1)[..., :count].astype(np.uint8)
  return np.moveaxis(codes, -1, axis)
