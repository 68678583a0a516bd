"""Model folders as Hugging Face keeps them: config.json and safetensors, whole or in shards.

Weights are read one at a time from memory-mapped files. Pickles (.bin, .pt) are never opened.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from reduction.errors import DataError, MissingInput

CONFIG, WHOLE, INDEX = 'config.json', 'model.safetensors', 'model.safetensors.index.json'
MOST = 64 * 2**20  # bytes of a JSON file: an index of 100,000 tensors has 10 MB
PICKLES = '*.bin', '*.pt', '*.pth', '*.ckpt', '*.pkl'


class Tensors(Mapping):
  """Weights by name, each read when asked for. Raises DataError where one is not finite."""

  def __init__(self, files: dict[str, object], paths: dict[str, Path]):
    self._files, self._paths = files, paths

  def __getitem__(self, name: str) -> np.ndarray:
    array = self._files[name].get_tensor(name)
    if not np.isfinite(array.astype(np.float32) if array.dtype.kind == 'V' else array).all():
      raise DataError(f'{self._paths[name]}: {name} holds NaN or infinity; fetch the file again')
    return array

  def __contains__(self, name) -> bool:
    return name in self._files  # a Mapping's own would read it

  def __iter__(self) -> Iterator[str]:
    return iter(self._files)

  def __len__(self) -> int:
    return len(self._files)


def config(folder: Path) -> dict:
  """config.json of a model folder. Raises MissingInput or DataError."""
  if not folder.is_dir():
    raise MissingInput(f'{folder} is not a folder')
  return _json(folder / CONFIG)


def tensors(folder: Path) -> Tensors:
  """The weights of a model folder, by name; nothing is read yet.

  Raises MissingInput where there is no safetensors file or shards lack, DataError for a file that
  is malformed, for an index that names files outside the folder or tensors that its shards do not
  have, and for links that leave the folder other than for the blobs of Hugging Face's own cache.
  """
  files, paths, index = {}, {}, folder / INDEX
  places = _places(index) if index.is_file() else {}
  for path in _shards(folder, places):
    opened = _open(path)
    for name in sorted(opened.keys()):
      if name in files:
        raise DataError(f'{path}: {name} is also in {paths[name].name}')
      files[name], paths[name] = opened, path
  for name, place in places.items():
    if name not in files or paths[name].name != place:
      raise DataError(f'{index} names {name} of {place}, which is not there; fetch it again')
  return Tensors(files, paths)


def _places(index: Path) -> dict[str, str]:
  """The file of each tensor, as an index has it."""
  named = _json(index).get('weight_map')
  if not isinstance(named, dict) or not all(isinstance(n, str) for n in named.values()):
    raise DataError(f'{index} has no weight_map of tensors to files')
  for name in named.values():
    if Path(name).name != name or name in ('', '..'):
      raise DataError(f'{index} names {name!r}, which is not a file of its folder')
  return named


def _shards(folder: Path, places: dict[str, str]) -> list[Path]:
  """The files with weights, which are there and of the folder itself."""
  names = sorted(set(places.values())) if (folder / INDEX).is_file() else [WHOLE]
  missing = [name for name in names if not (folder / name).is_file()]
  if missing and names == [WHOLE]:
    pickles = sorted(path.name for kind in PICKLES for path in folder.glob(kind))
    ways = f'{pickles[0]} may run any code when opened: convert it to safetensors' if pickles else (
      f'put {WHOLE} there')  # fmt: skip
    raise MissingInput(f'no weights in {folder}: no {WHOLE}; {ways}')
  if missing:
    are = 'is' if len(missing) == 1 else 'are'
    raise MissingInput(
      f'{folder / INDEX} names {", ".join(missing)}, which {are} not in {folder}; fetch it again'
    )
  for name in names:
    _check_link(folder / name)
  return [folder / name for name in names]


def _check_link(path: Path):
  """Raises DataError for a link that leaves the folder it lies in."""
  folder, target = path.parent.resolve(), path.resolve()
  cache = folder.parent.parent / 'blobs' if folder.parent.name == 'snapshots' else folder
  if target.parent not in (folder, cache):
    raise DataError(f'{path} is a link to {target}, outside of its folder; put the file there')


def _open(path: Path):
  try:
    import safetensors
  except ModuleNotFoundError as error:
    raise MissingInput('model folders need safetensors: pip install -e .[llm]') from error
  try:
    return safetensors.safe_open(path, framework='numpy')
  except (safetensors.SafetensorError, OSError) as error:
    raise DataError(f'{path} is no sound safetensors file ({error}); fetch it again') from error


def _json(path: Path) -> dict:
  if not path.is_file():
    raise MissingInput(f'{path} is not there')
  if path.stat().st_size > MOST:
    raise DataError(f'{path} has {path.stat().st_size:,} bytes; {MOST:,} is the most')
  with contextlib.suppress(ValueError, RecursionError):
    found = json.loads(path.read_text(encoding='utf-8'))
    if isinstance(found, dict):
      return found
  raise DataError(f'{path} is no JSON object')
