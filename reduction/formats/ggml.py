"""GGUF's blocks of 32 weights, Q4_0, Q4_1 and Q8_0, and GGUF files for llama.cpp.

A block is float16 numbers, then codes:
  Q4_0  18 bytes: d, 16 bytes    code c stands for (c - 8) * d
  Q4_1  20 bytes: d, m, 16 bytes    c * d + m
  Q8_0  34 bytes: d, 32 int8    c * d
In the 16 bytes, code i has the low half of byte i and code i + 16 the high one: codes
[1] * 16 + [2] * 16 are sixteen times 0x21.

github.com/ggml-org/llama.cpp, ggml/src/ggml-quants.c and gguf-py/gguf/quants.py, bit for bit.
"""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from reduction.checkpoint import whole_file
from reduction.errors import DataError, MissingInput, did_you_mean, require
from reduction.formats import packing
from reduction.formats.packing import Linear

BLOCK = 32
BYTES = dict(Q4_0=18, Q4_1=20, Q8_0=34)  # of a block


class Blocks(NamedTuple):
  """A weight [out, in] in blocks along its rows: uint8 [out, in / 32 * BYTES[kind]]."""

  data: np.ndarray
  kind: str


def quantize(weight, kind: str) -> Blocks:
  """weight, floats [out, in], in blocks.

  Raises UsageError where in is no multiple of 32, DataError for weights that are not finite or too
  large for a float16 scale.
  """
  _known(kind)
  require(weight.ndim == 2, f'a weight is [out, in], not {list(weight.shape)}')
  rows, width = weight.shape
  whole = width % BLOCK == 0
  require(whole, f'{kind} takes inputs in multiples of 32, not {width}; pad the layer')
  w = weight.astype(np.float32).reshape(-1, BLOCK)
  if not np.isfinite(w).all():
    raise DataError('the weight holds NaN or infinity')
  if kind == 'Q8_0':
    d = abs(w).max(1, keepdims=True) / np.float32(127)
    scaled = abs(w * _inverse(d))
    down = np.floor(scaled)
    codes = np.sign(w) * (down + np.floor(2 * (scaled - down)))  # half away from zero
    body = [codes.astype(np.int8).view(np.uint8)]
  else:
    low = np.take_along_axis(w, abs(w).argmax(1, keepdims=True), 1)  # the largest, with its sign
    d, start, half = low / np.float32(-8), np.float32(0), np.float32(8.5)
    if kind == 'Q4_1':
      start, half = w.min(1, keepdims=True), np.float32(0.5)
      d = (w.max(1, keepdims=True) - start) / np.float32(15)
    codes = np.trunc((w - start) * _inverse(d) + half).astype(np.uint8).clip(0, 15)
    body = [_nibbles(codes)] if kind == 'Q4_0' else [_half(start), _nibbles(codes)]
  return Blocks(np.concatenate([_half(d), *body], 1).reshape(rows, -1), kind)


def dequantize(blocks: Blocks) -> np.ndarray:
  """The weight, float32 [out, in]. Raises DataError where bytes are no whole blocks."""
  data, kind = blocks
  _known(kind)
  if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] % BYTES[kind]:
    raise DataError(f'{packing.told(data)} are no bytes of {kind} blocks')
  each = np.ascontiguousarray(data).reshape(-1, BYTES[kind])
  number = lambda at: each[:, at : at + 2].copy().view('<f2').astype(np.float32)
  if kind == 'Q8_0':
    w = each[:, 2:].copy().view(np.int8).astype(np.float32) * number(0)
  else:
    packed = each[:, -16:]
    codes = np.concatenate([packed & 15, packed >> 4], 1).astype(np.float32)
    w = number(0) * codes + number(2) if kind == 'Q4_1' else number(0) * (codes - np.float32(8))
  return w.reshape(len(data), -1)


def from_codes(codes, scale, zero, bits: int, group: int | str, *, rounded: bool = False) -> Blocks:
  """A quantized layer as blocks that stand for the same numbers; its arguments as in `Linear`.

  4 bits become Q4_0 where every zero point is 8 (or None) and Q4_1 elsewhere, 8 bits Q8_0.
  rounded: lets m = -zero * scale be rounded to a float16, by 2^-11 of it or 0.7 % of a step at
  most. Raises UsageError for what blocks do not hold: groups that are no multiple of 32, scales
  (and, unless rounded, m) that are no float16 numbers, 8 bits with zero points.
  """
  size = packing.check(Linear(codes, scale, zero), bits, group)
  require(bits in (4, 8), f'blocks hold 4 or 8 bits, not {bits}')
  require(size % BLOCK == 0, f'blocks are of 32 rows, which groups of {size} are no multiple of')
  middle = 2 ** (bits - 1)
  symmetric = zero is None or bool((zero == middle).all())
  require(symmetric or bits == 4, 'Q8_0 has no zero points; quantize symmetric')
  by_block = lambda x: np.repeat(x, size // BLOCK, 0).T.reshape(-1, 1)
  d = packing.exactly(by_block(scale), np.float16)
  codes = codes.T.reshape(-1, BLOCK)
  if bits == 8:
    kind, body = 'Q8_0', [(codes ^ np.uint8(128))]  # c - 128 as int8
  elif symmetric:
    kind, body = 'Q4_0', [_nibbles(codes)]
  else:
    exact = -by_block(zero).astype(np.float32) * d.astype(np.float32)
    with np.errstate(over='ignore'):
      m = exact.astype(np.float16)
    wrong = int((m.astype(np.float32) != exact).sum())
    require(
      rounded or not wrong,
      f'{wrong} of {m.size} blocks have -zero * scale that is no float16 number; pass rounded=True '
      'or quantize symmetric',
    )
    kind, body = 'Q4_1', [_half(m), _nibbles(codes)]
  columns = scale.shape[1]
  return Blocks(np.concatenate([_half(d), *body], 1).reshape(columns, -1), kind)


def write(path, metadata: dict, tensors: Iterable[tuple[str, np.ndarray | Blocks]]):
  """Writes a GGUF file, whole or not at all.

  metadata: 'general.architecture' and whatever it needs: str, bool, int (stored as uint32), float
  (float32), and lists of one of them. tensors: names and float16 or float32 arrays [out, in], or
  blocks, which wait in a second file there and not in memory. llama.cpp wants the rows of a llama's
  queries and keys in pairs, not in Hugging Face's halves; the caller sees to it. Needs the package
  gguf.
  Raises UsageError, MissingInput, StorageError.
  """
  try:
    import gguf
  except ModuleNotFoundError as error:
    raise MissingInput('GGUF files need the package gguf: pip install -e .[llm]') from error
  metadata = dict(metadata)
  arch = metadata.pop('general.architecture', None)
  require(isinstance(arch, str), "metadata needs 'general.architecture', such as 'llama'")
  path = pathlib.Path(path)
  with whole_file(path) as file, tempfile.TemporaryFile(dir=path.parent) as waiting:
    writer = gguf.GGUFWriter(file.name, arch, use_temp_file=True)  # opens the same file again
    writer.temp_file = waiting
    with contextlib.closing(writer):
      for key, value in metadata.items():
        getattr(writer, f'add_{_metadata_kind(key, value)}')(key, value)
      seen = set()
      for name, tensor in tensors:
        require(name not in seen, f'{name} comes twice')
        seen.add(name)
        if isinstance(tensor, Blocks):
          kind = gguf.GGMLQuantizationType[tensor.kind]
          writer.add_tensor(name, np.ascontiguousarray(tensor.data), raw_dtype=kind)
        else:
          good = tensor.dtype in (np.float16, np.float32)
          require(good, f'{name} is {packing.told(tensor)}, not float16, float32 or blocks')
          writer.add_tensor(name, np.ascontiguousarray(tensor))
      writer.write_header_to_file()
      writer.write_kv_data_to_file()
      writer.write_tensors_to_file()


def _metadata_kind(key, value) -> str:
  """What GGUFWriter calls such a value; it drops empty texts and lists in silence."""
  kinds = {str: 'string', bool: 'bool', int: 'uint32', float: 'float32', list: 'array'}
  require(
    type(value) in kinds, f'{key}={value!r} is no {", ".join(kind.__name__ for kind in kinds)}'
  )
  empty = value in ('', [])
  mixed = isinstance(value, list) and len({type(x) for x in value}) > 1
  require(not empty and not mixed, f'{key}={value!r} is empty or of several kinds')
  fits = type(value) is not int or 0 <= value < 2**32
  require(fits, f'{key}={value} does not fit in a uint32')
  return kinds[type(value)]


def _known(kind):
  require(kind in BYTES, f'blocks of kind {kind!r} are unknown.{did_you_mean(str(kind), BYTES)}')


def _inverse(d):
  """1 / d, and 0 where that is none."""
  with np.errstate(divide='ignore', over='ignore'):
    inverse = np.float32(1) / d
  return np.where(np.isfinite(inverse), inverse, np.float32(0))


def _half(numbers):
  """float16, as bytes [blocks, 2]. Raises DataError where one is too large."""
  with np.errstate(over='ignore'):
    half = numbers.astype('<f2')
  if not np.isfinite(half).all():
    raise DataError(f'{abs(numbers).max():.3g} is too large for a float16')
  return half.view(np.uint8)


def _nibbles(codes):
  """Codes [blocks, 32] as bytes [blocks, 16]."""
  return codes[:, :16] | codes[:, 16:] << np.uint8(4)
