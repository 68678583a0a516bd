"""FDDB, 5,171 faces in 2,845 pictures (Jain and Learned-Miller 2010, vis-www.cs.umass.edu/fddb).

A folder holds `FDDB-folds/FDDB-fold-01-ellipseList.txt` to 10, each a list of

    2002/08/11/big/img_591                                    a picture, without .jpg
    1                                                         how many faces it has
    123.583300 85.549500 1.265839 269.693400 161.781200  1    one of them

a face being an ellipse: its major and minor radius, the angle between its major axis and the
horizontal in radians, and its center, in pixels; the 1 is of all. The pictures lie below
`originalPics/` or the folder itself.
"""

import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reduction.data import folders
from reduction.data.jpeg import resized
from reduction.errors import DataError, require

FOLDERS = ('fddb', 'FDDB')
LISTS = 'FDDB-folds/FDDB-fold-*-ellipseList.txt'
NAME = re.compile(r'\d{4}/\d\d/\d\d/big/img_\d+')
FOLDS = 10


class Pictures(NamedTuple):
  """x: float32 [n, size, size, 3] in [0, 1]. boxes: a `detection.Boxes` for each, the truth in
  shares of the picture.
  """

  x: np.ndarray
  boxes: tuple

  def grids(self, cells: tuple[int, int]) -> np.ndarray:
    """What the cells of a detector of faces should say, float32 [n, h, w, 6]."""
    from reduction import detection  # JAX, which reading data needs not

    return np.stack([detection.targets(one, cells, 1) for one in self.boxes])


def fddb(
  *,
  data_dir=None,
  size: int = 112,
  validation: tuple[int, ...] = (9,),
  test: tuple[int, ...] = (10,),
) -> dict[str, Pictures]:
  """'train', 'validation' and 'test' of the ten folds; pictures scaled to size x size.

  An ellipse becomes the least box around it, cut at the picture's edges. Raises MissingInput
  without the files, DataError, with file and line, where they are not so.
  """
  require(size > 0, f'{size=} must be above 0')
  held = {*validation, *test}
  good = len(held) == len(validation) + len(test) < FOLDS and held <= set(range(1, FOLDS + 1))
  require(good and test, f'{validation=} and {test=} must be different folds of 1 to {FOLDS}')
  root = folders.holding(LISTS, FOLDERS, data_dir, title='FDDB',
                         files='FDDB-folds/ and originalPics/')  # fmt: skip
  parts = dict(validation=validation, test=test)
  parts['train'] = [fold for fold in range(1, FOLDS + 1) if fold not in held]
  return {name: _pictures(root, parts[name], size) for name in ('train', 'validation', 'test')}


def _pictures(root: Path, folds, size: int) -> Pictures:
  images, boxes = [], []
  for fold in folds:
    for name, ellipses in listed(root / 'FDDB-folds' / f'FDDB-fold-{fold:02}-ellipseList.txt'):
      path = root / 'originalPics' / f'{name}.jpg'
      path = path if path.is_file() else root / f'{name}.jpg'
      pixels, (height, width) = resized(path, (size, size, 3))
      images.append(pixels)
      boxes.append(around(ellipses, height, width))
  x = np.stack(images) if images else np.zeros((0, size, size, 3), np.uint8)
  return Pictures(np.divide(x, np.float32(255), dtype=np.float32), tuple(boxes))


def listed(path: Path) -> list[tuple[str, np.ndarray]]:
  """(name, ellipses [faces, 5]) of each picture of a list. Raises DataError naming the line."""
  try:
    lines = path.read_text().splitlines()
  except OSError as error:
    raise DataError(f'cannot read {path}: {error.strerror or error}') from error
  found, at = [], 0

  def bad(line: int, what: str):
    return DataError(f'{path}, line {line + 1}: {what}')

  while at < len(lines):
    if not (name := lines[at].strip()):
      at += 1
      continue
    if not NAME.fullmatch(name):
      raise bad(at, f'{name!r} is no picture such as 2002/08/11/big/img_591')
    count = lines[at + 1].strip() if at + 1 < len(lines) else ''
    if not count.isdigit():
      raise bad(at + 1, f'{count!r} is no number of faces')
    faces, at = lines[at + 2 : at + 2 + int(count)], at + 2
    if len(faces) < int(count):
      raise bad(len(lines), f'the list ends after {len(faces)} of {count} faces of {name}')
    found.append((name, np.array([_face(line, bad, at + i) for i, line in enumerate(faces)])))
    at += int(count)
  return found


def _face(line: str, bad, at: int) -> list[float]:
  try:
    major, minor, angle, x, y, _ = map(float, line.split())
  except ValueError as error:
    raise bad(at, f'{line!r} is no face of six numbers') from error
  if not (major > 0 and minor > 0 and all(map(math.isfinite, (major, minor, angle, x, y)))):
    raise bad(at, f'{line!r} is no ellipse')
  return [major, minor, angle, x, y]


def around(ellipses, height: int, width: int):
  """The least boxes around ellipses [faces, 5], in shares of a picture of so many pixels.

  An ellipse with radii a, b whose major axis is turned by t reaches sqrt(a^2 cos^2 t + b^2 sin^2 t)
  to each side, and sqrt(a^2 sin^2 t + b^2 cos^2 t) up and down.
  """
  from reduction.detection import Boxes

  major, minor, angle, x, y = np.reshape(ellipses, (-1, 5)).T
  across = np.hypot(major * np.cos(angle), minor * np.sin(angle))
  down = np.hypot(major * np.sin(angle), minor * np.cos(angle))
  edges = np.stack([(x - across) / width, (y - down) / height,
                    (x + across) / width, (y + down) / height], 1)  # fmt: skip
  edges = edges.clip(0, 1)
  there = (edges[:, 2:] > edges[:, :2]).all(1)  # a face may lie outside of what is left
  count = int(there.sum())
  return Boxes(edges[there], np.zeros(count, int), np.ones(count))
