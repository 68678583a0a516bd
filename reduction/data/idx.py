"""The idx format of MNIST and Fashion-MNIST, plain or gzipped (http://yann.lecun.com/exdb/mnist)."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from reduction.data.data import Records, check_records
from reduction.errors import DataError, MissingInput, StorageError

LIMIT = 2**30  # bytes of one unpacked file; MNIST's largest has 47 MB
BROKEN = (EOFError, gzip.BadGzipFile, zlib.error)


def find(folder: Path, shape: tuple, classes: int) -> Records | None:
  """The four files of an idx data set in folder, or None where it has none of them.

  shape: (height, width, 1) of an image. Raises MissingInput where some of the four are missing.
  """
  names = ('train-images', 'train-labels', 't10k-images', 't10k-labels')
  paths = [_path(folder, name) for name in names]
  if not any(paths):
    return None
  if not all(paths):
    missing = ', '.join(name for name, path in zip(names, paths) if not path)
    raise MissingInput(f'{folder} has idx files but lacks {missing}')
  splits = [
    check_records(read(images, shape[:2]), read(labels, ()), str(labels), shape, classes)
    for images, labels in (paths[:2], paths[2:])
  ]
  return Records(*splits, 'idx')


def read(path: Path, item: tuple) -> np.ndarray:
  """uint8 [n, *item] of an idx file of bytes; item: () for labels, (28, 28) for images.

  Layout: 00 00 08 rank, rank sizes as big-endian uint32, the bytes. Two labels 7, 9 are
  00000801 00000002 07 09. Raises DataError with the record where the file is not exactly that.
  """
  try:
    with _open(path) as file:
      count = _header(file, path, item)
      body = _body(file, path, count, math.prod(item))
  except BROKEN as error:
    raise DataError(f'{path}: broken gzip ({error}); fetch it again') from error
  except OSError as error:
    raise StorageError(f'cannot read {path}: {error.strerror or error}') from error
  return np.frombuffer(body, np.uint8).reshape(count, *item)


def _path(folder, name):
  stem = name + ('-idx3' if name.endswith('images') else '-idx1')
  options = [
    s + end for s in (stem, stem.replace('-idx', '.idx')) for end in ('-ubyte', '-ubyte.gz')
  ]
  return next((folder / option for option in options if (folder / option).is_file()), None)


def _open(path):
  with open(path, 'rb') as file:
    packed = file.read(2) == b'\x1f\x8b'
  return gzip.open(path) if packed else open(path, 'rb')


def _header(file, path, item):
  """The count of records in the header of file, whose sizes must be [count, *item]."""
  rank = 1 + len(item)
  head = file.read(4 + 4 * rank)
  magic = bytes([0, 0, 8, rank])
  if head[:4] != magic:
    raise DataError(
      f'{path}: magic 0x{head[:4].hex()}, need 0x{magic.hex()} (idx of bytes in {rank} dimensions)'
    )
  if len(head) < 4 + 4 * rank:
    raise DataError(f'{path}: ends within its header; fetch it again')
  count, *sizes = struct.unpack(f'>{rank}I', head[4:])
  if tuple(sizes) != item:
    raise DataError(f'{path}: records are {tuple(sizes)}, need {item}')
  if count * math.prod(item) > LIMIT:
    raise DataError(f'{path}: claims {count} records, {count * math.prod(item)} bytes > {LIMIT}')
  return count


def _body(file, path, count, size):
  """The count * size bytes of the records, after which file must end."""
  body = bytearray()
  try:
    while len(body) < count * size and (part := file.read1(min(count * size - len(body), 2**20))):
      body += part
    rest = file.read(1)
  except BROKEN as error:
    raise DataError(
      f'{path}: {error} in record {len(body) // size} of {count}; fetch it again'
    ) from error
  if len(body) < count * size:
    raise DataError(f'{path}: ends in record {len(body) // size} of {count}; fetch it again')
  if rest:
    raise DataError(f'{path}: more bytes after record {count - 1}, the last; fetch it again')
  return body
