"""AWQ's packed layers, as AutoAWQ writes and Transformers and vLLM read them: 4 bits, zero points.

gemm  qweight int32 [in, out / 8], qzeros int32 [groups, out / 8], scales float16 [groups, out]
      Eight neighboring columns are a word, in the order that a GPU takes them apart in:
      columns [0, 1, 2, 3, 4, 5, 6, 7] are the word 0x75316420.
gemv  qweight int32 [out, in / 8], qzeros int32 [out, w], scales float16 [out, 8 w]
      Eight neighboring rows are a word, in order: 0x76543210. w words hold the zero points of a
      column and are filled up, to an even number for groups of 64, to a multiple of 4 for 32.

vLLM reads gemm alone. Lin et al. 2024; github.com/casper-hansen/AutoAWQ, awq/modules/linear.
"""

from collections.abc import Mapping

import numpy as np

from reduction.errors import require
from reduction.formats import packing
from reduction.formats.packing import Linear

ORDER = 0, 2, 4, 6, 1, 3, 5, 7  # the column of each nibble of a word, low bits first
VERSIONS = 'gemm', 'gemv'


def pack(codes, scale, zero, bits: int, group: int | str, *, version: str = 'gemm') -> dict:
  """The tensors of a layer. codes, scale, zero: as in `Linear`; group: rows, or 'channel'.

  Raises UsageError for what the format does not hold: other bits than 4, no zero points, columns
  that are no multiple of 8, scales that are no float16 numbers.
  """
  known(version, bits)
  size = packing.check(Linear(codes, scale, zero), bits, group)
  rows, columns = codes.shape
  require(zero is not None, 'awq has a zero point for each group; give 8 everywhere')
  require(columns % 8 == 0, f'awq packs 8 columns in a word and {columns} are none; pad the layer')
  scale = packing.exactly(scale, np.float16)
  if version == 'gemm':
    qweight, qzeros = (packing.words(_shuffled(x, ORDER), 4, axis=1) for x in (codes, zero))
    return dict(qweight=qweight, qzeros=qzeros, scales=np.ascontiguousarray(scale))
  require(rows % 32 == 0, f'awq gemv takes rows in multiples of 32, not {rows}; pad the layer')
  filled = _zero_words(rows // size, size)
  fill = lambda x: np.pad(x.T, [(0, 0), (0, 8 * filled - len(x))])
  return dict(
    qweight=packing.words(codes.T, 4, axis=1),
    qzeros=packing.words(fill(zero), 4, axis=1),
    scales=fill(scale),
  )


def unpack(tensors: Mapping, bits: int, group: int | str, *, version: str = 'gemm') -> Linear:
  """The layer that was packed; tensors by their last name. Raises UsageError or DataError."""
  known(version, bits)
  qweight = packing.part(tensors, 'qweight', 'int32', (None, None))
  if version == 'gemm':
    rows, columns = qweight.shape[0], 8 * qweight.shape[1]
    groups = rows // packing.sized(group, rows)
    qzeros = packing.part(tensors, 'qzeros', 'int32', (groups, columns // 8))
    scale = packing.part(tensors, 'scales', 'float', (groups, columns))
    back = np.argsort(ORDER)
    codes, zero = (
      _shuffled(packing.fields(x, 4, columns, axis=1), back) for x in (qweight, qzeros)
    )
    return Linear(codes, scale, zero)
  rows, columns = 8 * qweight.shape[1], qweight.shape[0]
  size = packing.sized(group, rows)
  groups, filled = rows // size, _zero_words(rows // size, size)
  qzeros = packing.part(tensors, 'qzeros', 'int32', (columns, filled))
  scale = packing.part(tensors, 'scales', 'float', (columns, 8 * filled))[:, :groups]
  codes, zero = packing.fields(qweight, 4, rows, axis=1), packing.fields(qzeros, 4, groups, axis=1)
  return Linear(*(np.ascontiguousarray(x.T) for x in (codes, scale, zero)))


def known(version: str, bits: int):
  """Raises UsageError unless there are such layers."""
  require(version in VERSIONS, f'awq version {version!r} is none of {", ".join(VERSIONS)}')
  require(bits == 4, f'awq packs 4 bits, not {bits}; use gptq_v2 or compressed-tensors')


def _shuffled(x, order):
  """The columns of each eight in another order."""
  return np.take(x.reshape(len(x), -1, 8), order, axis=2).reshape(x.shape)


def _zero_words(groups: int, size: int) -> int:
  """Words of the zero points of one column in gemv."""
  require(
    size in (32, 64) or size >= 128, f'awq gemv takes groups of 32, 64 or 128 and more, not {size}'
  )
  several = {32: 4, 64: 2}.get(size, 1)
  return -(-packing.width(groups, 4) // several) * several
