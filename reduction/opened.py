"""A language model as it was found: a Hugging Face folder, a GGUF or a llama2.c file."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from reduction import tree
from reduction.data import folders
from reduction.errors import DataError, MissingInput, require
from reduction.formats import gguf, huggingface, llama2c, packing, quantization
from reduction.formats.quantization import Quantized
from reduction.models.language import family
from reduction.models.served import Served
from reduction.net import Net
from reduction.qtensor import QTensor, Scheme, pack, packed
from reduction.tokenizer import beside, coder

TOKENS = 'tok512.bin', 'tokenizer.bin'  # beside a llama2.c file


class Opened(NamedTuple):
  """net: one replicate; each of its weights is read when asked for, those of packed layers as
  `QTensor`. encode: text -> tokens, decode: back; config: as config.json has it, less how layers
  are packed; path: the folder or file; files: () -> what goes with the weights in a model folder,
  by name, texts or the paths of files.
  """

  net: Net
  encode: Callable
  decode: Callable
  config: dict
  path: Path
  files: Callable[[], dict[str, str | Path]]


class Weight:
  """One array of a file, [1, *shape]: read at w[0] or by NumPy, never kept."""

  def __init__(self, read: Callable[[], np.ndarray], shape: tuple[int, ...], dtype):
    self._read = read
    self.shape, self.dtype = (1, *shape), np.dtype(dtype)
    self.ndim, self.size = len(self.shape), int(np.prod(shape))

  def __getitem__(self, index):
    return np.asarray(self)[index]

  def __array__(self, dtype=None, copy=None):
    del copy
    return np.asarray(self._read(), dtype)[None]


def language_model(path: str, data_dir=None) -> Opened:
  """The model of a folder or file, or of a name in the data directory; nothing large is read yet.

  Layers packed as `formats.quantization` knows stay so, but for those whose rows are in act order:
  these become floats. Raises MissingInput, DataError or UsageError, in one line, for what is no
  such model.
  """
  found = find(path, data_dir)
  kind = next((k for ends, k in ENDINGS.items() if found.name.endswith(ends)), _folder)
  config, tensors, (encode, decode), files = kind(found)
  of = family(config)
  sizes = of.settings(config)
  read = of.weights(tensors, config)
  floats = lambda p, shape: Weight(functools.partial(read.__getitem__, p), shape, np.float32)
  params = {p: floats(p, shape) for p, shape in of.shapes(sizes).items()}
  kernels = _packed(tensors, read.places, params) if isinstance(tensors, Quantized) else {}
  module = of.make(**sizes)
  net = Net(Served(module) if kernels else module, tree.nest(params | kernels))
  return Opened(net, encode, decode, config, found, files)


def _packed(tensors: Quantized, places, params) -> dict[str, QTensor]:
  """The packed kernels of a folder's blocks by path, whose parts are read when asked for."""
  layers = {path: place.name.removesuffix('.weight') for path, place in places.items()}
  layers = {path: layer for path, layer in layers.items() if layer in tensors.layers}
  for path, layer in layers.items():
    require(
      places[path].linear, f'{layer} is packed, but keeps its weights in another order than linear '
      'layers do; it is not read'
    )  # fmt: skip
  kept = {path: n for path, n in layers.items() if path.startswith('layer') and tensors.in_order(n)}
  dtype = kept and tensors.linear(next(iter(kept.values()))).scale.dtype
  return {path: _kernel(tensors, n, params[path].shape[1:], dtype) for path, n in kept.items()}


def _kernel(tensors: Quantized, layer: str, shape: tuple[int, int], dtype) -> QTensor:
  """A packed kernel of that shape. dtype: of its scales."""
  _, bits, group, symmetric = tensors.packing
  scheme, (rows, columns) = Scheme(bits, group, symmetric), shape

  def part(of, height, dtype):
    def read():
      found = tensors.linear(layer)
      if found.codes.shape != shape:
        have = list(found.codes.shape)
        raise DataError(f'{layer} packs {have} weights; config needs {list(shape)}')
      return of(found)

    return Weight(read, (height, columns), dtype)

  groups = scheme.groups(rows)
  data = part(lambda w: pack(w.codes, bits), packed(bits, rows), np.uint8)
  scale = part(lambda w: packing.exactly(w.scale, dtype), groups, dtype)
  zero = None if symmetric else part(lambda w: w.zero, groups, np.uint8)
  return QTensor(data, scale, zero, scheme, rows)


def outline(path: str, data_dir=None) -> tuple[Net, dict]:
  """The net of a model in shapes alone, and its config; of a folder, config.json is enough.

  Raises MissingInput, DataError or UsageError, in one line, for what is no such model.
  """
  found = find(path, data_dir)
  read = next((r for ends, r in CONFIGS.items() if found.name.endswith(ends)), huggingface.config)
  config = read(found)
  of = family(config)
  sizes = of.settings(config)
  shapes = {p: jax.ShapeDtypeStruct((1, *s), np.float32) for p, s in of.shapes(sizes).items()}
  return Net(of.make(**sizes), tree.nest(shapes)), config


def _folder(path):
  config, tensors = huggingface.config(path), huggingface.tensors(path)
  if found := config.pop('quantization_config', None):
    tensors = Quantized(path, tensors, quantization.read(found))
  return config, tensors, coder(path / 'tokenizer.json'), lambda: beside(path)


def _gguf(path):
  file = gguf.read(path)
  return gguf.config(file), gguf.tensors(file), gguf.tokenizer(file), lambda: gguf.files(file)


def _llama2c(path):
  near = [path.parent / name for name in TOKENS if (path.parent / name).is_file()]
  if not near:
    raise MissingInput(f'no {" or ".join(TOKENS)} beside {path}; put its tokenizer there')
  files = lambda: llama2c.files(path, near[0])
  return llama2c.config(path), llama2c.tensors(path), llama2c.tokenizer(near[0]), files


ENDINGS = {'.gguf': _gguf, '.bin': _llama2c}
CONFIGS = {'.gguf': lambda path: gguf.config(gguf.read(path)), '.bin': llama2c.config}


def find(path, data_dir=None) -> Path:
  """Where a model is that a path or a name in the data directory means. Raises MissingInput."""
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
