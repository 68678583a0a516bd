"""`Data`, what every run trains on: three splits of images or texts with labels, checked."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import xxhash

from reduction.errors import DataError

PARTS = ('train', 'validation', 'test')


class Split(NamedTuple):
  """Examples and labels, y: int32 [n].

  x: images, float32 [n, height, width, channels] in [0, 1], or texts, int32 [n, length] tokens,
  0 where a text has ended.
  """

  x: np.ndarray
  y: np.ndarray


class Clips(NamedTuple):
  """Which frames of a split are of one recording, in order. lengths, words: int [clips]."""

  lengths: np.ndarray
  words: np.ndarray

  def cut(self, frames: np.ndarray) -> list[np.ndarray]:
    """frames [n, ...] of the split, recording by recording."""
    return np.split(frames, np.cumsum(self.lengths)[:-1])


class Records(NamedTuple):
  """What a source holds: Splits of x uint8 [n, height, width, channels] and y uint8 [n]."""

  train: Split
  test: Split
  source: str


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
  """A data set ready for training.

  name: as tables print it. classes: labels are 0 .. classes - 1. source: what it was read from
  ('idx', 'npz', 'tfds', 'jpeg', 'debian', 'scikit-learn'). augment: (key, x) -> x, how a batch of
  training images is changed, or None. clips: for frames of recordings, the Clips of each split.
  vocabulary: for texts, tokens are 0 .. vocabulary - 1. owners: int [n], who each training example
  is of (an author, a document), or None. lists: whether examples are lists of titles, which may be
  longer in the test split.
  Raises DataError, with split and record, unless each split has Split's types and ranges, at least
  one record, more than one class, and all splits have examples of one shape, but for such lists.
  The validation split alone may be empty: then nothing is chosen by it.
  """

  name: str
  train: Split
  validation: Split
  test: Split
  classes: int
  source: str
  augment: Callable | None = None
  clips: dict[str, Clips] | None = None
  vocabulary: int = 0
  owners: np.ndarray | None = None
  lists: bool = False

  def __post_init__(self):
    for part in PARTS:
      split = getattr(self, part)
      if part != 'validation' or len(split.x) or len(split.y):
        _check(split, f'the {part} split of {self.name}', self.classes, self.vocabulary)
    shapes = {part: getattr(self, part).x.shape[1:] for part in PARTS}
    if self.lists and shapes['test'] > shapes['train']:
      del shapes['test']
    if len(set(shapes.values())) > 1:
      raise DataError(f'{self.name}: examples must have one shape in all splits, not {shapes}')

  def splits(self) -> dict[str, Split]:
    """The splits by name: a tree that `jax.device_put` takes."""
    return {part: getattr(self, part) for part in PARTS}


def digest(data: Data) -> str:
  """xxh3_64, in hex, of the arrays of all splits: it changes with any pixel or label."""
  hashed = xxhash.xxh3_64()
  for part in PARTS:
    for array in getattr(data, part):
      hashed.update(f'{array.dtype}{array.shape}'.encode())
      hashed.update(np.ascontiguousarray(array).data)
  return hashed.hexdigest()


def check_labels(y: np.ndarray, where: str, classes: int):
  """Raises DataError naming the first record of y [n] whose label is not 0 .. classes - 1."""
  wrong = np.flatnonzero((y < 0) | (y >= classes))
  if wrong.size:
    record = wrong[0]
    raise DataError(
      f'label {y[record]} in record {record} of {where}; labels must be 0 to {classes - 1}'
    )


def check_records(x: np.ndarray, y: np.ndarray, where: str, shape: tuple, classes: int) -> Split:
  """x, y as a Split of bytes, images [n, *shape]. DataError unless types, counts and labels fit.

  Files are checked here, in their own order, so that an error names the record of the file.
  """
  if x.dtype != np.uint8 or y.dtype.kind not in 'iu':
    raise DataError(f'{where}: images are {x.dtype}, labels {y.dtype}; need uint8 and integers')
  if x.ndim == len(shape) and shape[-1] == 1:
    x = x[..., None]
  if x.shape[1:] != shape:
    raise DataError(f'{where}: images are {x.shape[1:]}, need {shape}')
  y = y.reshape(-1)
  if len(x) != len(y):
    raise DataError(f'{where}: {len(x)} images but {len(y)} labels; fetch both files again')
  if not len(x):
    raise DataError(f'{where}: no records')
  check_labels(y, where, classes)
  return Split(x, y.astype(np.uint8))


def _check(split: Split, where: str, classes: int, vocabulary: int):
  x, y = split
  kind, axes = ('int32', '[n, length]') if vocabulary else (
    'float32', '[n, height, width, channels]')  # fmt: skip
  if x.ndim != axes.count(',') + 1 or x.dtype != kind or y.ndim != 1 or y.dtype != np.int32:
    raise DataError(
      f'{where}: x is {x.dtype}{list(x.shape)}, y {y.dtype}{list(y.shape)}; need {kind} {axes} '
      'and int32 [n]'
    )
  if len(x) != len(y):
    raise DataError(f'{where}: {len(x)} examples but {len(y)} labels')
  if not x.size:
    raise DataError(f'{where} is empty')
  most = vocabulary - 1 if vocabulary else 1
  if not (x.min() >= 0 and x.max() <= most):  # also false where a pixel is NaN
    found = (_outside(one, most) for one in x)
    record, value = next((i, v) for i, v in enumerate(found) if v is not None)
    what = 'token' if vocabulary else 'pixel'
    kind = 'NaN pixel' if np.isnan(value) else f'{what} {value:g}, outside [0, {most}],'
    raise DataError(f'{kind} in record {record} of {where}')
  check_labels(y, where, classes)
  if y.min() == y.max():
    raise DataError(f'{where} has one class only, {y[0]}: nothing to learn; give it more records')


def _outside(example, most):
  wrong = example[~((example >= 0) & (example <= most))]
  return wrong[0] if wrong.size else None
