"""Visual wake words: is there a person in the picture? (Chowdhery et al. 2019, arXiv 1906.05721.)

A folder is one of three. One's own: `train/nothing/`, `train/person/` and `test/` likewise, or any
other classes, in order of their names. As MLPerf Tiny gives it: `person/` and `non_person/`. Or as
the scripts of pyvww make it of COCO: `annotations/instances_train.json` and `instances_val.json`,
each with

    images        [{"id": 9, "file_name": "COCO_train2014_000000000009.jpg", ...}, ...]
    annotations   [{"image_id": 9, "category_id": 1, ...}, ...], 1 for a person, 0 for none

and COCO's pictures in one of the folders PICTURES. Pictures have any size and are scaled.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np

from reduction.data import folders
from reduction.data.data import Data, Records, Split, check_records
from reduction.data.images import augmentation, split
from reduction.data.jpeg import resized
from reduction.errors import DataError, MissingInput, require

FOLDERS = ('visual_wake_words', 'vww', 'vw_coco2014_96', 'visualwakewords')
CLASSES = ('non_person', 'person')
PICTURES = ('images', 'all2014', 'all', 'train2014', 'val2014', 'train2017', 'val2017')
HELD = 10  # MLPerf Tiny's training script keeps the first tenth of each class, by name
SUFFIXES = ('.jpg', '.jpeg', '.png')


def visual_wake_words(
  *, data_dir=None, side: int = 64, validation: int = 2_000, examples: int = 0,
  split_seed: int = 0, augment: str | None = None,
) -> Data:  # fmt: skip
  """Pictures of side x side in RGB, 1 where a person takes more than the set's share of it.

  Test is the set's own validation split; of class folders the first tenth of each, by name.
  examples: take so many of the training pictures, at random; 0: all, 115,000 of 96 x 96 take 13 GB.
  Published: 64 x 64 in DTMM (Han et al. 2024), 96 x 96 in MLPerf Tiny. Raises MissingInput without
  the files, DataError for files that are not so.
  """
  require(side > 0 and examples >= 0, f'{side=} must be above 0, {examples=} not below')
  change = augmentation(augment)
  shape, root = (side, side, 3), _root(data_dir)
  names = CLASSES
  if (root / 'annotations').is_dir():
    train, test = _annotated(root)
  elif (root / 'person').is_dir():
    train, test = _by_folder(root)
  else:
    names = sorted(folder.name for folder in (root / 'train').iterdir() if folder.is_dir())
    train, test = (_classes(root / part, names) for part in ('train', 'test'))
  if examples:
    require(examples <= len(train), f'{examples=} are more than the {len(train)} in {root}')
    chosen = np.random.default_rng(split_seed).permutation(len(train))[:examples]
    train = [train[i] for i in sorted(chosen)]
  records = Records(*(_read(part, shape, str(root), len(names)) for part in (train, test)), 'files')
  data = split(records, 'Visual Wake Words', validation, split_seed, classes=len(names))
  return dataclasses.replace(data, augment=change)


def _root(data_dir) -> Path:
  files = (
    "train/CLASS/*.jpg and test/CLASS/*.jpg, MLPerf Tiny's person/ and non_person/, or pyvww's "
    "annotations/ beside COCO's images/"
  )
  for pattern in ('annotations/instances_train.json', 'person', 'train/*/*'):
    try:
      return folders.holding(pattern, FOLDERS, data_dir, title='Visual Wake Words', files=files)
    except MissingInput as error:
      missing = error
  raise missing


def _by_folder(root: Path) -> tuple[list, list]:
  """(train, test): pairs of a picture's path and its label."""
  train, test = [], []
  for label, name in enumerate(CLASSES):
    found = _pictures(root / name)
    if not found:
      raise MissingInput(f'{root / name} has no pictures; it needs both {" and ".join(CLASSES)}')
    held = -(-len(found) // HELD)
    test += [(path, label) for path in found[:held]]
    train += [(path, label) for path in found[held:]]
  return train, test


def _classes(folder: Path, names) -> list:
  """The pairs of a folder of one's own."""
  found = [(path, label) for label, name in enumerate(names)
           for path in _pictures(folder / name)]  # fmt: skip
  if {label for _, label in found} != set(range(len(names))):
    raise DataError(f'{folder} needs a folder with pictures for each of {", ".join(names)}')
  return found


def _pictures(folder: Path) -> list[Path]:
  return sorted(path for path in folder.glob('*') if path.suffix.lower() in SUFFIXES)


def _annotated(root: Path) -> tuple[list, list]:
  """The same of pyvww's annotations."""
  parts = []
  for part in 'train', 'val':
    path = root / 'annotations' / f'instances_{part}.json'
    if not path.is_file():
      raise MissingInput(f'{path} is not there; both parts are needed')
    parts.append(_pairs(path, root))
  return parts[0], parts[1]


def _pairs(path: Path, root: Path) -> list:
  try:
    table = json.loads(path.read_text())
    names = {one['id']: one['file_name'] for one in table['images']}
    labels = dict.fromkeys(names, 0)
    for one in table['annotations']:
      labels[one['image_id']] = max(labels[one['image_id']], int(one['category_id']))
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise DataError(f'{path}: not annotations of visual wake words ({error!r})') from error
  wrong = [name for name in names.values() if not _plain(name)]
  if wrong or set(labels.values()) - {0, 1}:
    what = f'file name {wrong[0]!r}' if wrong else f'categories {sorted(set(labels.values()))}'
    raise DataError(f'{path}: {what}; need names without folders, and categories 0 and 1')
  return [(_picture(root, names[key]), labels[key]) for key in sorted(names)]


def _plain(name) -> bool:
  return isinstance(name, str) and Path(name).name == name and name not in ('', '.', '..')


def _picture(root: Path, name: str) -> Path:
  places = [root / folder / name for folder in PICTURES]
  return next((path for path in places if path.is_file()), places[0])


def _read(pairs, shape: tuple, where: str, classes: int) -> Split:
  images = np.empty((len(pairs), *shape), np.uint8)
  for i, (path, _) in enumerate(pairs):
    images[i] = resized(path, shape)[0]
  labels = np.array([label for _, label in pairs], np.uint8)
  return check_records(images, labels, where, shape, classes)
