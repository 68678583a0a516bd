"""A language model as it was found: a Hugging Face folder, a GGUF or a llama2.c file."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reduction import tree
from reduction.data import folders
from reduction.errors import MissingInput
from reduction.formats import gguf, huggingface, llama2c
from reduction.models.language import family
from reduction.net import Net
from reduction.tokenizer import coder

TOKENS = 'tok512.bin', 'tokenizer.bin'  # beside a llama2.c file


class Opened(NamedTuple):
  """net: one replicate; each of its weights is read when asked for. encode: text -> tokens, decode:
  back; config: as config.json has it; path: the folder or file.
  """

  net: Net
  encode: Callable
  decode: Callable
  config: dict
  path: Path


class Weight:
  """One weight of a file, [1, ...]: read at w[0] or by NumPy, never kept."""

  def __init__(self, weights: Mapping, path: str, shape: tuple[int, ...], dtype):
    self._weights, self._path = weights, path
    self.shape, self.dtype = (1, *shape), np.dtype(dtype)
    self.ndim, self.size = len(self.shape), int(np.prod(shape))

  def __getitem__(self, index):
    return np.asarray(self)[index]

  def __array__(self, dtype=None, copy=None):
    del copy
    return np.asarray(self._weights[self._path], dtype)[None]


def language_model(path: str, data_dir=None) -> Opened:
  """The model of a folder or file, or of a name in the data directory; nothing large is read yet.

  Raises MissingInput, DataError or UsageError, in one line, for what is no such model.
  """
  found = _find(path, data_dir)
  kind = next((k for ends, k in ENDINGS.items() if found.name.endswith(ends)), _folder)
  config, tensors, (encode, decode) = kind(found)
  of = family(config)
  sizes = of.settings(config)
  read = of.weights(tensors, config)
  params = {p: Weight(read, p, shape, np.float32) for p, shape in of.shapes(sizes).items()}
  return Opened(Net(of.make(**sizes), tree.nest(params)), encode, decode, config, found)


def _folder(path):
  return huggingface.config(path), huggingface.tensors(path), coder(path / 'tokenizer.json')


def _gguf(path):
  file = gguf.read(path)
  return gguf.config(file), gguf.tensors(file), gguf.tokenizer(file)


def _llama2c(path):
  beside = [path.parent / name for name in TOKENS if (path.parent / name).is_file()]
  if not beside:
    raise MissingInput(f'no {" or ".join(TOKENS)} beside {path}; put its tokenizer there')
  return llama2c.config(path), llama2c.tensors(path), llama2c.tokenizer(beside[0])


ENDINGS = {'.gguf': _gguf, '.bin': _llama2c}


def _find(path, data_dir) -> Path:
  root = folders.data_dir(data_dir)
  places = [Path(path).expanduser(), *([root / path, root / 'models' / path] if root else [])]
  for place in places:
    if place.is_file() or (place / huggingface.CONFIG).is_file():
      return place
    inside = [*place.glob('*.gguf'), *(p for p in place.glob('*.bin') if p.name not in TOKENS)]
    if len(inside) == 1 and not (place / huggingface.CONFIG).exists():
      return inside[0]
  raise MissingInput(
    f'no model in {", ".join(map(str, places))}; name a folder with config.json, a .gguf file or a '
    'llama2.c .bin file'
  )


__all__ = ['language_model']
