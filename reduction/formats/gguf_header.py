"""What a GGUF says of itself: its fields, and where its weights lie (ggml-org/ggml, docs/gguf.md).

The header is read here: the package gguf, which knows how each kind of weight is packed, takes any
count in it at its word, and needs seconds for a vocabulary.
"""

import functools
import math
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reduction.errors import DataError, MissingInput

VERSIONS = 2, 3
MOST = 64 * 2**20  # bytes of a header: a vocabulary of 150,000 tokens has 8 MB
SCALARS = {**dict(enumerate('BbHhIif?')), 10: 'Q', 11: 'q', 12: 'd'}  # type -> struct's and numpy's
STRING, ARRAY = 8, 9


class Packed(NamedTuple):
  """Where a weight is: its kind by gguf's numbers, its shape [..., in], its bytes in the file."""

  kind: int
  shape: tuple[int, ...]
  offset: int
  size: int


class File(NamedTuple):
  """A file whose header is read and whose weights are not: all of them lie within it.

  fields: numbers, strings and lists of them, by name.
  """

  path: Path
  fields: dict[str, object]
  packed: dict[str, Packed]


def read(path: Path) -> File:
  """The header of a file.

  Raises MissingInput for the file or the package gguf, DataError where it is malformed or ends
  before its weights do.
  """
  if not path.is_file():
    raise MissingInput(f'{path} is not there')
  with path.open('rb') as file:
    take = functools.partial(_take, file, path)
    magic, version = take(4), _scalar(take, 'I')
    if magic != b'GGUF' or version not in VERSIONS:
      raise DataError(f'{path} is no GGUF of version {" or ".join(map(str, VERSIONS))}')
    count, fields, packed = _scalar(take, 'Q'), {}, {}
    for _ in range(_scalar(take, 'Q')):
      name = _new(_string(take, path), fields, path)
      fields[name] = _value(take, path)
    for _ in range(count):
      name = _new(_string(take, path), packed, path)
      packed[name] = _packed(take, path, name)
    start, alignment = file.tell(), fields.get('general.alignment', 32)
  if type(alignment) is not int or alignment < 8 or alignment % 8:
    raise DataError(f'{path}: general.alignment={alignment!r:.60} must be a multiple of 8')
  start += -start % alignment
  packed = {name: p._replace(offset=start + p.offset) for name, p in packed.items()}
  for name, p in packed.items():
    if p.offset % 8 or p.offset + p.size > path.stat().st_size:
      raise DataError(f'{path} ends before {name!r:.60} does; fetch it again')
  return File(path, fields, packed)


def package():
  try:
    import gguf
  except ModuleNotFoundError as error:
    raise MissingInput('GGUF files need the package gguf: pip install -e .[llm]') from error
  return gguf


def _take(file, path, count: int) -> bytes:
  """The next bytes of a header."""
  content = file.read(count) if count <= MOST - min(file.tell(), MOST) else b''
  if len(content) < count:
    raise DataError(f'{path} ends within its header, or has one above {MOST:,} bytes')
  return content


def _scalar(take, code: str):
  """A Python number or bool; of a float32 its shortest decimal, 1e-05."""
  value = struct.unpack(f'<{code}', take(struct.calcsize(f'<{code}')))[0]
  return float(str(np.float32(value))) if code == 'f' else value


def _string(take, path) -> str:
  try:
    return str(take(_scalar(take, 'Q')), 'utf-8')
  except UnicodeDecodeError as error:
    raise DataError(f'{path}: a name or text in the header is not UTF-8') from error


def _value(take, path):
  """A field's value: its type, then the value itself."""
  kind = _scalar(take, 'I')
  if kind in SCALARS:
    return _scalar(take, SCALARS[kind])
  if kind == STRING:
    return _string(take, path)
  kind, count = (_scalar(take, 'I'), _scalar(take, 'Q')) if kind == ARRAY else (kind, 0)
  if kind == STRING:
    return [_string(take, path) for _ in range(count)]
  if kind not in SCALARS:
    raise DataError(f'{path}: a field of type {kind} is not read')
  dtype = np.dtype(f'<{SCALARS[kind]}')
  return np.frombuffer(take(count * dtype.itemsize), dtype).tolist()


def _new(name: str, there: dict, path) -> str:
  if name in there:
    raise DataError(f'{path} has {name!r:.60} twice')
  return name


def _packed(take, path, name) -> Packed:
  """What the header says of a weight; its offset is within the weights."""
  gguf = package()
  count = _scalar(take, 'I')
  shape = tuple(_scalar(take, 'Q') for _ in range(min(count, 5)))[::-1]
  kind, offset = _scalar(take, 'I'), _scalar(take, 'Q')
  if not 1 <= count <= 4 or min(shape) < 1:
    raise DataError(f'{path}: {name!r:.60} has shape {list(shape)}')
  if kind not in gguf.GGML_QUANT_SIZES:
    raise DataError(f'{path}: {name!r:.60} is of unknown kind {kind}')
  block, size = gguf.GGML_QUANT_SIZES[kind]
  if shape[-1] % block:
    raise DataError(f'{path}: {name!r:.60} has rows of {shape[-1]}, not in blocks of {block}')
  return Packed(kind, shape, offset, math.prod(shape) // block * size)


def field(file: File, name: str, *default):
  """A setting of a file, or the default. Raises DataError where neither is given."""
  if name not in file.fields and not default:
    raise DataError(f'{file.path} has no field {name}')
  return file.fields.get(name, *default)
