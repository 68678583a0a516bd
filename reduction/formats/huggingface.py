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

  Raises MissingInput where there is no safetensors file or a shard lacks, DataError for a file that
  is malformed and for an index that names files outside the folder.
  """
  files, paths = {}, {}
  for path in _shards(folder):
    opened = _open(path)
    for name in sorted(opened.keys()):
      if name in files:
        raise DataError(f'{path}: {name} is also in {paths[name].name}')
      files[name], paths[name] = opened, path
  return Tensors(files, paths)


def _shards(folder: Path) -> list[Path]:
  index = folder / INDEX
  if not index.is_file():
    if (folder / WHOLE).is_file():
      return [folder / WHOLE]
    pickles = sorted(path.name for kind in PICKLES for path in folder.glob(kind))
    ways = f'{pickles[0]} may run any code when opened: convert it to safetensors' if pickles else (
      f'put {WHOLE} there')  # fmt: skip
    raise MissingInput(f'no weights in {folder}: no {WHOLE}; {ways}')
  named = _json(index).get('weight_map')
  if not isinstance(named, dict) or not all(isinstance(n, str) for n in named.values()):
    raise DataError(f'{index} has no weight_map of tensors to files')
  return [_inside(folder, name, index) for name in sorted(set(named.values()))]


def _inside(folder: Path, name: str, index: Path) -> Path:
  """The shard of that name, a file of the folder itself."""
  if Path(name).name != name or name in ('', '..'):
    raise DataError(f'{index} names {name!r}, which is not a file of its folder')
  if not (folder / name).is_file():
    raise MissingInput(f'{index} names {name}, which is not in {folder}; fetch it again')
  return folder / name


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
