"""Model folders written as Hugging Face keeps them: config.json, safetensors, a tokenizer's files.

A safetensors file is the length of its header (8 bytes, little endian), the header (JSON: dtype,
shape and offsets of each tensor) and the tensors one after another.
"""

import json
import pathlib
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from reduction.checkpoint import whole_file, whole_folder, write_atomic
from reduction.errors import DataError, MissingInput, require
from reduction.formats.huggingface import CONFIG, INDEX, WHOLE

DTYPES = dict(
  float64='F64', float32='F32', float16='F16', bfloat16='BF16', int64='I64', int32='I32',
  int16='I16', int8='I8', uint8='U8', bool='BOOL',
)  # fmt: skip
Named = Iterable[tuple[str, np.ndarray]]


def write(path, config: dict, tensors: Named, **how):
  """Writes a model folder, whole or not at all. how: of `fill`.

  Raises UsageError where the path is there already, StorageError where it cannot be written.
  """
  path = pathlib.Path(path)
  require(not path.exists(), f'{path} is there already; remove it or name another')
  with whole_folder(path) as unfinished:
    fill(unfinished, config, tensors, **how)


def fill(
  folder: pathlib.Path,
  config: dict,
  tensors: Named,
  *,
  quantization: dict | None = None,
  files: Mapping[str, str | pathlib.Path] | None = None,
  shard: int = 2 * 10**9,
):
  """Puts a model into a folder that is empty and becomes whole only later.

  config: the content of config.json; quantization: its quantization_config, if any. tensors: names
  and arrays, one at a time: at most one shard of them is held in memory. files: what goes with them
  (tokenizer.json) by name, texts or files to copy. shard: bytes of a file; more make several and an
  index.
  Raises UsageError for names that are not plain or come twice and for what JSON lacks, MissingInput
  for a file that is not there, DataError for numbers that are not finite.
  """
  files = files or {}
  _check(files)
  config = config | (dict(quantization_config=quantization) if quantization else {})
  text = _text(config)
  places, total = {}, 0
  for number, group in enumerate(_shards(tensors, shard), 1):
    for name in group:
      require(name not in places, f'tensor {name} comes twice')
      places[name] = number
    total += sum(array.nbytes for array in group.values())
    _save(folder / f'{number}.part', group)
  require(places, 'a model without tensors')
  _name(folder, places, total)
  put(folder, files)
  write_atomic(folder / CONFIG, text)


def _shards(tensors, most) -> Iterator[dict[str, np.ndarray]]:
  """Tensors in groups of at most so many bytes, or of one."""
  group, size = {}, 0
  for name, array in tensors:
    good = isinstance(name, str) and re.fullmatch(r'[A-Za-z0-9_][A-Za-z0-9_.-]*', name)
    require(good and name != '__metadata__', f'{name!r} is no plain name of a tensor')
    require(name not in group, f'tensor {name} comes twice')
    array = np.asarray(array)
    require(
      array.dtype.name in DTYPES, f'{name} is {array.dtype.name}, none of {", ".join(DTYPES)}'
    )
    if not np.isfinite(array.astype(np.float32) if array.dtype.kind == 'V' else array).all():
      raise DataError(f'{name} holds NaN or infinity')
    if group and size + array.nbytes > most:
      yield group
      group, size = {}, 0
    group[name] = array
    size += array.nbytes
  if group:
    yield group


def _save(path, tensors):
  """One safetensors file. The widest numbers come first, so that all of them are aligned."""
  names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
  header, at = dict(__metadata__=dict(format='pt')), 0  # without it Transformers does not read on
  for name in names:
    array = tensors[name]
    offsets = [at, at + array.nbytes]
    header[name] = dict(
      dtype=DTYPES[array.dtype.name], shape=list(array.shape), data_offsets=offsets
    )
    at += array.nbytes
  text = json.dumps(header, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)
  with whole_file(path) as file:
    file.write(len(text).to_bytes(8, 'little') + text)
    for name in names:
      array = tensors[name]
      little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder('<'), copy=False))
      file.write(little.reshape(-1).view(np.uint8))


def _name(folder, places, total):
  """Gives shards their final names, which tell how many there are, and writes the index."""
  count = max(places.values())
  names = {i: f'model-{i:05}-of-{count:05}.safetensors' for i in range(1, count + 1)}
  names = names if count > 1 else {1: WHOLE}
  for number, name in names.items():
    (folder / f'{number}.part').rename(folder / name)
  if count > 1:
    places = {name: names[number] for name, number in sorted(places.items())}
    write_atomic(folder / INDEX, _text(dict(metadata=dict(total_size=total), weight_map=places)))


def put(folder: pathlib.Path, files: Mapping[str, str | pathlib.Path]):
  """Writes texts and copies files into a folder, under their names there."""
  for name, content in files.items():
    if isinstance(content, str):
      write_atomic(folder / name, content)
    else:
      shutil.copyfile(content, folder / name)


def _check(files):
  """Raises unless the files are there and their names are theirs alone."""
  for name, content in files.items():
    if not isinstance(content, str) and not content.is_file():
      raise MissingInput(f'{content} is not there')
    taken = name in (CONFIG, INDEX) or name.endswith(('.safetensors', '.part'))
    good = name and pathlib.Path(name).name == name and not taken
    require(good, f'{name!r} would take the place of another file of the model')


def _text(content: dict) -> str:
  try:
    return json.dumps(content, indent=2, allow_nan=False) + '\n'
  except (TypeError, ValueError) as error:
    raise DataError(f'config.json cannot hold this: {error}') from error
