"""What Hugging Face's files of decoders have in common: checks of config.json, weights by name."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from reduction.errors import DataError, require

HEAD = 'lm_head.weight'  # some files of tied nets repeat the embeddings so


def as_is(w: np.ndarray) -> np.ndarray:
  """w."""
  return w


class Place(NamedTuple):
  """Where a weight of ours is in a file.

  name, shape: of the tensor in the file. made: what turns that into ours. stored: the way back;
  where several of ours are in one tensor, to its columns that are of this one.
  """

  name: str
  shape: tuple[int, ...]
  made: Callable[[np.ndarray], np.ndarray] = as_is
  stored: Callable[[np.ndarray], np.ndarray] = as_is

  @property
  def linear(self) -> bool:
    """Whether the tensor is the whole weight [out, in] of a linear layer, as torch has it."""
    return self.stored is np.transpose


def kind(config: dict, known: Iterable[str], by: str) -> str:
  """The model_type of a config. Raises UsageError for one that the module `by` does not know."""
  given = config.get('model_type')
  good = isinstance(given, str) and given in known
  require(good, f'config has model_type={given!r:.60}; {by} knows {", ".join(known)}')
  return given


def computed(config: dict, allowed: dict[str, tuple], by: str):
  """Raises UsageError where a value is none that the module `by` computes.

  allowed: the values of each key, first what a config means that lacks it.
  """
  for key, values in allowed.items():
    given = config.get(key, values[0])
    require(given in values, f'config has {key}={given!r:.60}; {by} computes {values[0]!r} only')


def tied(config: dict, default: bool) -> bool:
  """Whether the embeddings are also the last layer."""
  found = config.get('tie_word_embeddings', default)
  require(isinstance(found, bool), 'config: tie_word_embeddings is true or false')
  return found


def name_in_file(path: str, modules: dict[str, str]) -> str:
  """'layer3/mlp/up/kernel' -> 'model.layers.3.mlp.up_proj.weight'.

  modules: their name of each module, 'layer' for all blocks, within which the others are.
  """
  *module, last = path.split('/')
  block = re.fullmatch(r'layer(\d+)', module[0])
  name = modules['/'.join(module[1:] if block else module)]
  within = f'{modules["layer"]}.{block[1]}.' if block else ''
  return f'{within}{name}.{"bias" if last == "bias" else "weight"}'


def tensors(
  places: Mapping[str, Place], weight: Callable[[str], np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
  """The tensors of a file by name, made one at a time: what `Weights` reads back.

  places: by path; those of one tensor in the order of its columns. weight: path -> our weight.
  """
  together = {}
  for path, place in places.items():
    together.setdefault(place.name, []).append(path)
  for name, paths in together.items():
    parts = [places[path].stored(weight(path)) for path in paths]
    yield name, parts[0] if len(parts) == 1 else np.concatenate(parts, -1)


class Weights(Mapping):
  """Weights by path, each read when asked for.

  Raises DataError, in one line, where some are missing or of another model, and at once for one
  that has another shape.
  """

  def __init__(
    self, tensors: Mapping[str, np.ndarray], places: dict[str, Place], *, of: str, prefix: str,
    unused: tuple[str, ...], dtype,
  ):  # fmt: skip
    """places: by path, 'embed/embedding' among them. of: 'a llama'. prefix: of their names,
    which a file lacks where the net was saved without its last layer; `self.places` have the names
    in the file. unused: ends of names of what is no weight.
    """
    bare = places['embed/embedding'].name.removeprefix(prefix) in tensors
    named = lambda name: name.removeprefix(prefix) if bare else name
    self._tensors, self._dtype = tensors, dtype
    self.places = {path: p._replace(name=named(p.name)) for path, p in places.items()}
    names = dict.fromkeys(place.name for place in self.places.values())
    lacking = [name for name in names if name not in tensors]
    left = lambda name: name in names or name == HEAD or name.endswith(unused)
    more = sorted(name for name in tensors if not left(name))
    for what, wrong in dict(missing=lacking, unexpected=more).items():
      first = ', '.join(f'{name!r:.99}' for name in wrong[:3])
      rest = f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''
      if wrong:
        raise DataError(f'{what} weights of {of}: {first}{rest}')

  def __getitem__(self, path: str) -> np.ndarray:
    name, shape, made, _ = self.places[path]
    w = np.asarray(self._tensors[name])
    if w.shape != shape or w.dtype.kind not in 'fV':  # V: bfloat16
      raise DataError(f'{name} is {w.dtype} {list(w.shape)}; config needs numbers {list(shape)}')
    return made(w).astype(self._dtype, copy=False)

  def __contains__(self, path) -> bool:
    return path in self.places

  def __iter__(self) -> Iterator[str]:
    return iter(self.places)

  def __len__(self) -> int:
    return len(self.places)
