"""CIFAR-10's binary archive (https://www.cs.toronto.edu/~kriz/cifar.html)."""

import gzip
import re
import tarfile
import zlib
from pathlib import Path

import numpy as np

from reduction.data.data import Records, Split, check_records
from reduction.errors import DataError, StorageError

NAME = 'cifar-10-binary.tar.gz'
RECORD = 1 + 3 * 32 * 32  # the label, then the red, green and blue planes
LIMIT = 2**25  # bytes of one batch; each has 10,000 records, 31 MB


def find(folder: Path, shape: tuple, classes: int) -> Records | None:
  """The records of the archive in folder, batches in order, or None where it is not there."""
  path = folder / NAME
  if not path.is_file():
    return None
  batches = {}
  try:
    with gzip.open(path) as file, tarfile.open(fileobj=file, mode='r|') as archive:
      for member in archive:
        name = member.name.rsplit('/', 1)[-1]
        if member.isreg() and re.fullmatch(r'(data_batch_\d+|test_batch)\.bin', name):
          batches[name] = _batch(archive, member, f'{name} in {path}', shape, classes)
      while file.read(2**20):
        pass  # to the checksum, which is at the end
  except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
    raise DataError(f'{path}: broken archive ({error}); fetch it again') from error
  except OSError as error:
    raise StorageError(f'cannot read {path}: {error.strerror or error}') from error
  test = batches.pop('test_batch.bin', None)
  if test is None or not batches:
    raise DataError(f'{path} lacks data_batch_1.bin or test_batch.bin; fetch it again')
  train = [batches[name] for name in sorted(batches)]
  return Records(Split(*map(np.concatenate, zip(*train))), test, 'binary')


def _batch(archive, member, where, shape, classes):
  count, rest = divmod(member.size, RECORD)
  if rest or member.size > LIMIT:
    raise DataError(f'{where}: {member.size} bytes end in record {count}, {RECORD} bytes a record')
  rows = np.frombuffer(archive.extractfile(member).read(), np.uint8).reshape(count, RECORD)
  images = rows[:, 1:].reshape(count, 3, 32, 32).transpose(0, 2, 3, 1)
  return check_records(images, rows[:, 0], where, shape, classes)
