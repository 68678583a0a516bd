"""Visual Wake Words, or any pictures in a folder of one's own: a person there or not.

Chowdhery et al. 2019. The pictures are COCO's; their labels are made by the authors' script, which
writes TFRecords; here each class has a folder:

    visual_wake_words/train/person/*.jpg      visual_wake_words/train/nothing/*.jpg
    visual_wake_words/test/person/*.jpg       visual_wake_words/test/nothing/*.jpg
"""

import io
from pathlib import Path

import numpy as np

from reduction.data import folders
from reduction.data.data import Data, Records, Split
from reduction.data.images import split
from reduction.errors import DataError, require

FOLDERS = ('visual_wake_words', 'vww')


def visual_wake_words(
  *, data_dir=None, side: int = 64, validation: int = 2_000, split_seed: int = 0
) -> Data:
  """Pictures of side x side from a folder, cut square in the middle; classes in order of names.

  Raises MissingInput where there is no such folder, DataError naming a file that is no picture.
  """
  require(side > 0, f'{side=} must be above 0')
  root = folders.holding('train/*/*', FOLDERS, data_dir, title='Visual Wake Words',
                         files='train/CLASS/*.jpg and test/CLASS/*.jpg')  # fmt: skip
  names = sorted(folder.name for folder in (root / 'train').iterdir() if folder.is_dir())
  records = Records(*(_read(root / part, names, side) for part in ('train', 'test')), 'jpeg')
  return split(records, 'Visual Wake Words', validation, split_seed, classes=len(names))


def _read(folder: Path, names: list[str], side: int) -> Split:
  found = [(file, label) for label, name in enumerate(names)
           for file in sorted((folder / name).glob('*'))]  # fmt: skip
  if {label for _, label in found} != set(range(len(names))):
    raise DataError(f'{folder} needs a folder with pictures for each of {", ".join(names)}')
  x = np.stack([square(file.read_bytes(), side, str(file)) for file, _ in found])
  return Split(x, np.array([label for _, label in found], np.uint8))


def square(encoded: bytes, side: int, where: str) -> np.ndarray:
  """uint8 [side, side, 3]: the middle of a JPEG or PNG file, scaled."""
  from PIL import Image, ImageOps

  try:
    with Image.open(io.BytesIO(encoded), formats=('JPEG', 'PNG')) as image:
      return np.asarray(ImageOps.fit(image.convert('RGB'), (side, side)))
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    raise DataError(f'{where}: broken image ({error})') from error
