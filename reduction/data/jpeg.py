"""CIFAR-10 as JPEG files in npz: lossy, so its figures do not compare with published ones.

Each npz holds jpeg (uint8, all files end to end), offset (int64 [n + 1]) and label (uint8 [n]):
file i is `jpeg[offset[i]:offset[i + 1]]`.
"""

import contextlib
import io
import itertools
import os
import tempfile
from pathlib import Path

import numpy as np
import xxhash

from reduction import cache
from reduction.data import npz
from reduction.data.data import Records, Split, check_records
from reduction.errors import DataError, MissingInput, UserError

FILES = ('cifar10_train_jpeg.npz', 'cifar10_test_jpeg.npz')
LARGEST = 2**25  # pixels of a picture that is scaled down
ARRAYS = ('train_x', 'train_y', 'test_x', 'test_y')


def find(folder: Path, shape: tuple, classes: int) -> Records | None:
  """The decoded images of both files in folder, or None where it has neither.

  Decoding takes seconds, so its result is kept under the cache directory where that can be written.
  Raises MissingInput where one of the files is missing.
  """
  paths = [folder / name for name in FILES]
  missing = [path.name for path in paths if not path.is_file()]
  if len(missing) == 2:
    return None
  if missing:
    raise MissingInput(f'{folder} has one JPEG file of CIFAR-10 but lacks {missing[0]}')
  cached = _cache_file(paths)
  if (splits := _load(cached, shape, classes)) is None:
    splits = [decode(path, shape, classes) for path in paths]
    _save(cached, splits)
  return Records(*splits, 'jpeg')


def decode(path: Path, shape: tuple, classes: int) -> Split:
  """Images [n, *shape] and labels of one npz. Raises DataError naming the record that fails."""
  arrays = npz.read(path, ('jpeg', 'offset', 'label'))
  content, offset, label = arrays['jpeg'], arrays['offset'].reshape(-1), arrays['label'].reshape(-1)
  if content.dtype != np.uint8 or offset.dtype.kind not in 'iu' or len(offset) != len(label) + 1:
    raise DataError(f'{path}: need jpeg uint8, offset [n + 1] and label [n]')
  if offset[0] or offset[-1] != content.size or (offset[1:] <= offset[:-1]).any():
    raise DataError(f'{path}: offset must rise from 0 to the {content.size} bytes of jpeg')
  images = np.empty((len(label), *shape), np.uint8)
  for record, (start, stop) in enumerate(itertools.pairwise(offset)):
    images[record] = picture(content[start:stop].tobytes(), shape, f'record {record} of {path}')
  return check_records(images, label, str(path), shape, classes)


def picture(encoded: bytes, shape: tuple, where: str) -> np.ndarray:
  """uint8 shape (height, width, channels) of a JPEG or PNG file, sized up before it is decoded."""
  from PIL import Image

  height, width, channels = shape
  try:
    with Image.open(io.BytesIO(encoded), formats=('JPEG', 'PNG')) as image:
      if image.size != (width, height):
        raise DataError(f'{where}: image is {image.size}, need {(width, height)}')
      mode = 'L' if channels == 1 else 'RGB'
      pixels = np.asarray(image if image.mode == mode else image.convert(mode))
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    raise DataError(f'{where}: broken image ({error})') from error
  return pixels.reshape(shape)


def resized(path: Path, shape: tuple) -> tuple[np.ndarray, tuple[int, int]]:
  """(uint8 shape of a JPEG or PNG file of any size, its own (height, width)); scaled to fit shape.

  Raises DataError where it is none, or too large to be decoded, MissingInput where it is not there.
  """
  from PIL import Image

  height, width, channels = shape
  try:
    with Image.open(path, formats=('JPEG', 'PNG')) as image:
      size = image.size[::-1]
      if size[0] * size[1] > LARGEST:
        raise DataError(f'{path}: {size[1]} x {size[0]} pixels are more than {LARGEST:,}')
      image.draft('RGB', (2 * width, 2 * height))  # a JPEG is decoded at a fraction of its size
      image = image.convert('L' if channels == 1 else 'RGB')
      pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
  except FileNotFoundError as error:
    raise MissingInput(f'{path} is not there') from error
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    raise DataError(f'{path}: broken image ({error})') from error
  return pixels.reshape(shape), size


def _cache_file(paths):
  folder = cache.folder()
  if folder is None:
    return None
  hashed = xxhash.xxh3_64()
  for path in paths:
    hashed.update(path.read_bytes())
  return folder / f'cifar10-jpeg-{hashed.hexdigest()}.npz'


def _load(cached, shape, classes):
  """Both splits of a cache file, or None where there is none or it is damaged."""
  try:
    if cached is None or not cached.is_file():
      return None
    arrays = npz.read(cached, ARRAYS)
    return [
      check_records(arrays[f'{part}_x'], arrays[f'{part}_y'], str(cached), shape, classes)
      for part in ('train', 'test')
    ]
  except (UserError, OSError):
    return None


def _save(cached, splits):
  """Writes the cache file whole or not at all; a cache that cannot be written is done without."""
  if cached is None:
    return
  arrays = [array for split in splits for array in split]
  with contextlib.suppress(OSError):
    cached.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=cached.parent, prefix='.cifar10-', suffix='.tmp')
    try:
      with os.fdopen(handle, 'wb') as file:
        np.savez(file, **dict(zip(ARRAYS, arrays)))
        file.flush()
        os.fsync(file.fileno())
      os.replace(temporary, cached)
    except OSError:
      os.unlink(temporary)
