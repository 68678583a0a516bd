"""npz files from elsewhere: never unpickled, and sized up before they are unpacked."""

import math
import zipfile
from pathlib import Path

import numpy as np

from reduction.data.data import Records, check_records
from reduction.errors import DataError, StorageError, UserError

LIMIT = 2**28  # bytes of one unpacked array; CIFAR-10's largest has 154 MB


def find(folder: Path, names: tuple[str, ...], shape: tuple, classes: int) -> Records | None:
  """Keras's layout, x_train, y_train, x_test, y_test, in the first of names in folder, or None."""
  path = next((folder / name for name in names if (folder / name).is_file()), None)
  if not path:
    return None
  arrays = read(path, ('x_train', 'y_train', 'x_test', 'y_test'))
  splits = [
    check_records(arrays[f'x_{part}'], arrays[f'y_{part}'], f'{part} in {path}', shape, classes)
    for part in ('train', 'test')
  ]
  return Records(*splits, 'npz')


def read(path: Path, names: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
  """The named arrays of an npz file, or all. Raises DataError on pickled objects, bombs, damage."""
  try:
    with open(path, 'rb') as file:
      return _arrays(file, path, names)
  except OSError as error:
    raise StorageError(f'cannot read {path}: {error.strerror or error}') from error


def _arrays(file, path, names):
  try:
    with zipfile.ZipFile(file) as archive:
      members = {info.filename.removesuffix('.npy'): info for info in archive.infolist()}
      names = tuple(members) if names is None else names
      if missing := [name for name in names if name not in members]:
        raise DataError(f'{path} lacks {", ".join(missing)}; it has {", ".join(members)}')
      return {name: _array(archive, members[name], f'{name} in {path}') for name in names}
  except UserError:
    raise
  except Exception as error:  # a hostile file reaches zipfile, zlib, tokenize and ast
    raise DataError(f'{path}: broken npz ({error}); fetch it again') from error


def _array(archive, info, where):
  if info.file_size > LIMIT:
    raise DataError(f'{where} unpacks to {info.file_size} bytes, more than {LIMIT}')
  with archive.open(info) as stream:
    major, _ = np.lib.format.read_magic(stream)
    if major > 2:
      raise DataError(f'{where}: npy version {major} is for structured arrays; save plain ones')
    header = (
      np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = header(stream)
    if dtype.hasobject:
      raise DataError(f'{where} holds pickled objects, which could run code; save plain arrays')
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or stream.tell() + size != info.file_size:
      raise DataError(f'{where}: {dtype}{list(shape)} does not fit its {info.file_size} bytes')
    content = stream.read(size)
  return np.frombuffer(content, dtype).reshape(shape, order='F' if fortran else 'C')
