"""The image data sets: where each is looked for, and how it is split."""

import dataclasses
import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash

from reduction.data import cifar, folders, idx, jpeg, npz, tfds
from reduction.data.data import Data, Records, Split
from reduction.errors import MissingInput, require

CLASSES = 10
AUGMENTATIONS = ('flip_and_crop', 'jitter')


class Kind(NamedTuple):
  """How to find one data set. readers: each (folder, shape, classes) -> Records or None."""

  title: str
  shape: tuple[int, int, int]
  folders: tuple[str, ...]  # within the data directory, best first
  readers: tuple[Callable, ...]
  packaged: tuple[str, ...] = ()  # where an operating system's package puts it
  ways: str = ''


KINDS = {
  'mnist': Kind(
    title='MNIST',
    shape=(28, 28, 1),
    folders=('mnist',),
    readers=(idx.find, functools.partial(npz.find, names=('mnist.npz',))),
    ways='the four idx files or mnist.npz',
  ),
  'fashion_mnist': Kind(
    title='Fashion-MNIST',
    shape=(28, 28, 1),
    folders=('fashion_mnist', 'fashion-mnist'),
    readers=(
      idx.find,
      functools.partial(npz.find, names=('fashion_mnist.npz', 'fashion-mnist.npz')),
    ),
    packaged=('/usr/share/datasets/fashion-mnist',),
    ways='the four idx files (Debian: apt-get install dataset-fashion-mnist) or fashion_mnist.npz',
  ),
  'cifar10': Kind(
    title='CIFAR-10',
    shape=(32, 32, 3),
    folders=('cifar10', 'cifar10-jpeg'),
    readers=(cifar.find, functools.partial(npz.find, names=('cifar10.npz',)), jpeg.find),
    ways='cifar-10-binary.tar.gz or cifar10.npz',
  ),
}

# xxh3_64 of the training labels: the two sets have files of the same names
LABELS = {'37f227c8f4eaefa6': 'mnist', '46e784b61aa2b893': 'fashion_mnist'}


def digits(*, validation: int = 200, test: int = 300, split_seed: int = 0) -> Data:
  """1,797 real 8 x 8 digits that scikit-learn carries: 1,297 train / 200 / 300, no download.

  The test records are the same for every split_seed. Alpaydin and Kaynak 1998, UCI repository.
  """
  from sklearn.datasets import load_digits

  bunch = load_digits()
  x, y = bunch.images.astype(np.uint8)[..., None], bunch.target.astype(np.uint8)
  require(0 < test < len(x), f'{test=} must be from 1 to {len(x) - 1}: digits has {len(x)} records')
  order = canonical(x, y)
  parts = [Split(x[part], y[part]) for part in (order[test:], order[:test])]
  return split(Records(*parts, 'scikit-learn'), 'digits', validation, split_seed, white=16)


def mnist(*, data_dir=None, validation: int = 5_000, split_seed: int = 0) -> Data:
  """MNIST, 28 x 28 gray: 55,000 / 5,000 / 10,000. LeCun 1998; split: Frankle, Carbin 2019."""
  return split(find('mnist', data_dir), 'MNIST', validation, split_seed)


def fashion_mnist(*, data_dir=None, validation: int = 5_000, split_seed: int = 0) -> Data:
  """Fashion-MNIST, 28 x 28 gray: 55,000 / 5,000 / 10,000. Xiao et al. 2017."""
  return split(find('fashion_mnist', data_dir), 'Fashion-MNIST', validation, split_seed)


def cifar10(
  *, data_dir=None, validation: int = 5_000, split_seed: int = 0, augment: str | None = None,
  side: int = 32, examples: int = 0,
) -> Data:  # fmt: skip
  """CIFAR-10, 32 x 32 RGB: 45,000 / 5,000 / 10,000. Krizhevsky 2009.

  augment: a function of `reduction.data.augment`, for training images. side: of smaller images, 16,
  8 ...: means of squares of pixels. examples: how many to train on, of all; 0: all.
  Read from JPEG files it is 'CIFAR-10 (JPEG)': its figures do not compare with published ones.
  """
  change = augmentation(augment)
  records = find('cifar10', data_dir)
  title = 'CIFAR-10 (JPEG)' if records.source == 'jpeg' else 'CIFAR-10'
  data = split(records, title, validation, split_seed)
  require(0 < side <= 32 and 32 % side == 0, f'{side=} must divide 32')
  most = len(data.train.y)
  require(0 <= examples <= most, f'{examples=} must be from 0 to {most}')
  if side < 32:
    data = dataclasses.replace(
      data, name=f'{title}, {side} x {side}',
      **{part: one._replace(x=shrunk(one.x, side)) for part, one in data.splits().items()},
    )  # fmt: skip
  train = Split(*(a[: examples or most] for a in data.train))  # which is shuffled
  return dataclasses.replace(data, train=train, augment=change)


def shrunk(x: np.ndarray, side: int) -> np.ndarray:
  """Square images [n, h, h, c] as [n, side, side, c]: means of squares of pixels."""
  n, h, _, c = x.shape
  return x.reshape(n, side, h // side, side, h // side, c).mean((2, 4), dtype=np.float32)


def augmentation(name: str | None) -> Callable | None:
  """The function of `reduction.data.augment` of that name, of AUGMENTATIONS."""
  require(name in (None, *AUGMENTATIONS), f'augment={name!r} is not {", ".join(AUGMENTATIONS)}')
  # imported here, and JAX with it
  return getattr(importlib.import_module('reduction.data.augment'), name) if name else None


def split(
  records: Records, title: str, validation: int, split_seed: int, *, white: int = 255,
  classes: int = CLASSES,
) -> Data:  # fmt: skip
  """Data with `validation` random training records set apart. white: the byte that becomes 1.

  Depends on the records and split_seed alone, not on the order in which the source holds them.
  """
  count = len(records.train.y)
  require(
    0 <= validation < count,
    f'{validation=} must be from 0 to {count - 1}: {title} has {count} training records',
  )
  order = canonical(*records.train)[np.random.default_rng(split_seed).permutation(count)]

  def part(source, index):
    pixels = np.divide(source.x[index], np.float32(white), dtype=np.float32)
    return Split(pixels, source.y[index].astype(np.int32))

  return Data(
    name=title,
    train=part(records.train, order[validation:]),
    validation=part(records.train, order[:validation]),
    test=part(records.test, canonical(*records.test)),
    classes=classes,
    source=records.source,
  )


def canonical(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """An order of records [n] that follows from their content: by hash of the pixels, then label."""
  rows = np.ascontiguousarray(x.reshape(len(x), -1))
  hashes = np.fromiter((xxhash.xxh3_64_intdigest(row) for row in rows), np.uint64, len(rows))
  return np.lexsort((y, hashes))


def find(name: str, data_dir=None) -> Records:
  """The records of a data set of KINDS, from the first place that has it.

  Places: prepared by TFDS in the data directory, files there, an operating system's package, a
  download. Raises MissingInput with what was tried and the ways out, DataError if files are bad.
  """
  root = folders.data_dir(data_dir) or folders.tfds_dir()
  kind = KINDS[name]
  notes: list[str] = []
  places = [*(root / folder for folder in kind.folders), root]
  readers = [(root / name, tfds.find)]
  readers += [(place, reader) for place in places for reader in kind.readers]
  readers += [(Path(place), reader) for place in kind.packaged for reader in kind.readers]
  found = _first(readers, kind, name, notes)
  if not found:
    reason = tfds.download(name, root)
    notes.append(f'TFDS could not download it ({reason})')
    found = None if reason else _first([(root / name, r) for r in kind.readers], kind, name, notes)
  if found:
    return found
  looked = ', '.join(map(str, [*places, *kind.packaged]))
  raise MissingInput(
    f'{kind.title} not found in {looked}; {"; ".join(notes)}. Ways out: put {kind.ways} into a '
    'folder and name it by --data_dir or REDUCTION_DATA; run where TFDS can download; or take '
    '--config.data.name=digits, which needs no download'
  )


def _first(readers, kind, name, notes):
  """The Records of the first (folder, reader) that has some; what is half there goes to notes."""
  for folder, reader in readers:
    try:
      records = reader(folder, shape=kind.shape, classes=CLASSES)
    except MissingInput as error:
      notes.append(str(error))
      continue
    if records is None:
      continue
    labels = LABELS.get(xxhash.xxh3_64_hexdigest(np.ascontiguousarray(records.train.y)), name)
    if labels != name:
      notes.append(f'{folder} holds {KINDS[labels].title}')
      continue
    return records._replace(source='debian') if str(folder) in kind.packaged else records
  return None
