"""Codes in 32-bit words, and what the formats of other projects have in common.

Codes run on along an axis, low bits first, without a gap: [1, 2, 3] of 4 bits are the word 0x321.
32 codes of 3 bits are three words: the eleventh code has two bits on top of the first word and its
high bit at the bottom of the second, so [0] * 10 + [5] is [0x40000000, 1, 0].
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from reduction.errors import DataError, require


class Linear(NamedTuple):
  """A quantized linear layer [in, out]; code c stands for (c - zero) * scale of its row's group.

  codes: uint8 [in, out]. scale: floats [groups, out]. zero: uint8 [groups, out]; None where it is
  2^(bits - 1) everywhere (symmetric). index: int32 [in], the group of each row; None where
  neighboring rows share one.
  """

  codes: np.ndarray
  scale: np.ndarray
  zero: np.ndarray | None = None
  index: np.ndarray | None = None


def words(codes, bits: int, *, axis: int) -> np.ndarray:
  """Codes below 2^bits as int32; n along the axis become `width(n, bits)`, the last word filled."""
  codes = np.moveaxis(codes, axis, -1)
  *batch, count = codes.shape
  codes = np.pad(codes, [(0, 0)] * len(batch) + [(0, -count % 32)])
  codes = codes.reshape(*batch, -1, 32)
  packed = np.zeros((*codes.shape[:-1], bits), np.uint32)
  for i in range(32):
    word, shift = divmod(i * bits, 32)
    code = codes[..., i].astype(np.uint32)
    packed[..., word] |= code << shift
    if shift + bits > 32:
      packed[..., word + 1] |= code >> (32 - shift)
  packed = packed.reshape(*batch, -1)[..., : width(count, bits)].view(np.int32)
  return np.ascontiguousarray(np.moveaxis(packed, -1, axis))


def fields(packed, bits: int, count: int, *, axis: int) -> np.ndarray:
  """The first `count` codes along the axis of what `words` gives, uint8."""
  packed = np.moveaxis(packed, axis, -1).astype(np.uint32)
  *batch, have = packed.shape
  packed = np.pad(packed, [(0, 0)] * len(batch) + [(0, -have % bits)])
  packed = packed.reshape(*batch, -1, bits)
  codes = np.empty((*packed.shape[:-1], 32), np.uint8)
  for i in range(32):
    word, shift = divmod(i * bits, 32)
    code = packed[..., word] >> shift
    if shift + bits > 32:
      code |= packed[..., word + 1] << (32 - shift)
    codes[..., i] = code & (2**bits - 1)
  return np.ascontiguousarray(np.moveaxis(codes.reshape(*batch, -1)[..., :count], -1, axis))


def width(count: int, bits: int) -> int:
  """Words that so many codes take."""
  return -(-count * bits // 32)


def check(linear: Linear, bits: int, group: int | str) -> int:
  """Rows of a group, once all parts fit. group: a number of rows, or 'channel' for all of them.

  Raises UsageError where the group does not divide the rows, or a part has another shape or range.
  """
  codes, scale, zero, index = linear
  good = codes.ndim == 2 and codes.dtype == np.uint8 and codes.size
  require(good, f'codes are {told(codes)}, not uint8 [in, out]')
  rows, columns = codes.shape
  size = sized(group, rows)
  shape = rows // size, columns
  require(scale.shape == shape, f'scales are {told(scale)}; {rows} rows by {size} need {shape}')
  require(np.isfinite(scale.astype(np.float32)).all(), 'a scale is NaN or infinite')
  if zero is not None:
    good = zero.shape == shape and zero.dtype == np.uint8
    require(good, f'zero points are {told(zero)}, not uint8 {shape}')
  for what, part in ('code', codes), ('zero point', zero):
    most = 0 if part is None else int(part.max(initial=0))
    require(most < 2**bits, f'a {what} of {most} does not fit in {bits} bits')
  if index is not None:
    whole = index.shape == (rows,) and index.dtype.kind == 'i' and not (index < 0).any()
    whole = whole and (np.bincount(index, minlength=shape[0]) == size).all()
    require(whole, f'the index must give each of the {shape[0]} groups {size} of the {rows} rows')
  return size


def sized(group: int | str, rows: int) -> int:
  """Rows of a group. Raises UsageError where it does not divide the rows."""
  known_group(group)
  if group == 'channel':
    return rows
  way = f'pad the layer or choose a divisor such as {math.gcd(rows, group)}'
  require(rows % group == 0, f'{group=} does not divide the {rows} rows; {way}')
  return group


def known_group(group):
  """Raises UsageError unless it is a number of rows or 'channel'."""
  good = group == 'channel' or (type(group) is int and group > 0)
  require(good, f"{group=} must be a number of rows, or 'channel' for all of them")


def exactly(scale, dtype) -> np.ndarray:
  """scale as dtype. Raises UsageError where that changes it: codes were chosen for the scale."""
  with np.errstate(over='ignore'):
    kept = scale.astype(dtype)
  changed = int((kept.astype(np.float64) != scale.astype(np.float64)).sum())
  name = np.dtype(dtype).name
  require(
    not changed,
    f'{changed} of {scale.size} scales are no {name} numbers; quantize with scales in {name}',
  )
  return kept


def dequantized(linear: Linear, bits: int) -> np.ndarray:
  """What the codes stand for, float32 [in, out]."""
  codes, scale, zero, index = linear
  of = np.arange(len(codes)) // (len(codes) // len(scale)) if index is None else index
  zero = middle_for(zero, bits, scale)
  return (codes - zero[of].astype(np.float32)) * scale[of].astype(np.float32)


def by_group(linear: Linear) -> tuple[Linear, np.ndarray]:
  """(the layer with each group's rows together, their order): x[:, order] is its input then."""
  if linear.index is None:
    return linear, np.arange(len(linear.codes))
  order = np.argsort(linear.index, kind='stable')
  return Linear(linear.codes[order], linear.scale, linear.zero), order


def part(tensors: Mapping, name: str, kind: str, shape: tuple[int | None, ...]) -> np.ndarray:
  """One tensor of a packed layer. kind: 'int32', 'integer' or 'float'; None in shape: any size.

  Raises DataError where it lacks or is something else.
  """
  if name not in tensors:
    raise DataError(f'{name} is missing; this layer has {", ".join(sorted(tensors)) or "nothing"}')
  found = tensors[name]
  good = {
    'int32': found.dtype == np.int32,
    'integer': found.dtype.kind == 'i',
    'float': found.dtype.kind == 'f' or found.dtype.name == 'bfloat16',
  }[kind]
  fits = found.ndim == len(shape) and all(w in (None, f) for f, w in zip(found.shape, shape))
  if not good or not fits or not found.size:
    wanted = ', '.join('any' if w is None else str(w) for w in shape)
    raise DataError(f'{name} is {told(found)}; {kind} [{wanted}] is needed')
  return found


def index(tensors: Mapping, name: str, rows: int, size: int) -> np.ndarray | None:
  """The group of each row, int32; None where no such tensor says other than their order.

  Raises DataError where it names groups that are not there.
  """
  if name not in tensors:
    return None
  found, in_order = part(tensors, name, 'integer', (rows,)), np.arange(rows) // size
  if (found == in_order).all() or (found == -1).all():  # -1: never set
    return None
  if (found < 0).any() or (found > in_order[-1]).any():
    raise DataError(f'{name} holds {found.min()} to {found.max()}, not 0 to {in_order[-1]}')
  return found.astype(np.int32)


def told(array) -> str:
  """'float16 [3, 4]'."""
  return f'{array.dtype.name} {list(array.shape)}'


def middle_for(zero, bits: int, like) -> np.ndarray:
  """Zero points uint8 of the shape of `like`: those there are, or 2^(bits - 1) everywhere."""
  return np.full(like.shape, 2 ** (bits - 1), np.uint8) if zero is None else zero
