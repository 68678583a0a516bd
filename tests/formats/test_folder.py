"""Model folders: what is written is read, in one file or several, and never half there."""

import errno
import json
import os

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from reduction.errors import DataError, MissingInput, StorageError, UsageError
from reduction.formats import folder, huggingface, quantization
from reduction.formats.packing import Linear
from reduction.formats.quantization import Packing

CONFIG = dict(model_type='llama', hidden_size=32)
PACKING = Packing('compressed-tensors', 4, 32, False)


def tensors():
  """A layer, packed, and weights of several kinds."""
  random = np.random.default_rng(0)
  codes = random.integers(0, 16, (64, 8), np.uint8)
  scale = random.uniform(0.01, 1, (2, 8)).astype(ml_dtypes.bfloat16)
  layer = Linear(codes, scale, random.integers(0, 16, (2, 8), np.uint8))
  packed = quantization.pack(PACKING, layer)
  made = {f'model.layers.0.mlp.up_proj.{name}': tensor for name, tensor in packed.items()}
  made['lm_head.weight'] = random.normal(size=(8, 5)).astype(np.float32)
  made['half'] = random.normal(size=(3, 4)).astype(np.float16).T  # not in C order
  made['flag'], made['one'] = np.array([True, False, True]), np.float32(3)
  return layer, made


def write(path, **how):
  _, made = tensors()
  folder.write(path, CONFIG, made.items(), **how)
  return made


@pytest.mark.parametrize('shard, count', [(10**9, 1), (300, 2), (1, 8)])
def test_what_is_written_is_read(tmp_path, shard, count):
  layer, made = tensors()
  settings = quantization.settings(PACKING)
  path = tmp_path / 'model'
  folder.write(path, CONFIG, made.items(), quantization=settings, shard=shard)
  files = sorted(file.name for file in path.glob('*.safetensors'))
  several = [f'model-{i + 1:05}-of-{count:05}.safetensors' for i in range(count)]
  assert files == (several if count > 1 else ['model.safetensors'])
  assert (path / 'model.safetensors.index.json').exists() == (count > 1)
  found = huggingface.tensors(path)
  assert set(found) == set(made)
  for name, tensor in made.items():
    assert np.array_equal(found[name], tensor) and found[name].dtype == tensor.dtype
  read = quantization.read(huggingface.config(path)['quantization_config'])
  prefix = 'model.layers.0.mlp.up_proj.'
  packed = {n.removeprefix(prefix): found[n] for n in found if n.startswith(prefix)}
  assert read == PACKING
  assert all(
    np.array_equal(a, b) for a, b in zip(quantization.unpack(read, packed), layer) if b is not None
  )
  assert huggingface.config(path) == CONFIG | dict(quantization_config=settings)


def test_an_index_tells_where_tensors_are_and_their_bytes(tmp_path):
  made = write(tmp_path / 'model', shard=300)
  index = json.loads((tmp_path / 'model' / 'model.safetensors.index.json').read_text())
  assert index['metadata'] == dict(total_size=sum(np.asarray(x).nbytes for x in made.values()))
  for name, file in index['weight_map'].items():
    assert np.array_equal(load_file(tmp_path / 'model' / file)[name], made[name])


def test_numbers_are_aligned_and_the_format_is_named(tmp_path):
  write(tmp_path / 'model')
  content = (tmp_path / 'model' / 'model.safetensors').read_bytes()
  size = int.from_bytes(content[:8], 'little')
  header = json.loads(content[8 : 8 + size])
  assert size % 8 == 0 and header.pop('__metadata__') == dict(format='pt')
  width = dict(F32=4, F16=2, BF16=2, I32=4, I64=8, BOOL=1)
  assert all(x['data_offsets'][0] % width[x['dtype']] == 0 for x in header.values())


def test_one_shard_at_a_time_is_in_memory(tmp_path):
  def one_by_one():
    for i in range(6):
      parts = [path for path in tmp_path.rglob('*.part')]
      assert len(parts) == max(0, (i - 1) // 2)  # two fit in a shard
      yield f'w{i}', np.full(25, i, np.float32)

  folder.write(tmp_path / 'model', CONFIG, one_by_one(), shard=200)
  assert len(list((tmp_path / 'model').glob('*.safetensors'))) == 3


def test_other_files_go_with_it(tmp_path):
  (tmp_path / 'there').write_text('{}')
  write(tmp_path / 'model', files={'tokenizer.json': tmp_path / 'there', 'more.json': '[]'})
  assert (tmp_path / 'model' / 'tokenizer.json').read_text() == '{}'
  assert (tmp_path / 'model' / 'more.json').read_text() == '[]'


def test_a_folder_that_is_there_is_kept(tmp_path):
  write(tmp_path / 'model')
  before = (tmp_path / 'model' / 'config.json').stat()
  with pytest.raises(UsageError, match='is there already; remove it or name another'):
    write(tmp_path / 'model')
  assert (tmp_path / 'model' / 'config.json').stat() == before


@pytest.mark.parametrize('stop', [KeyboardInterrupt, MemoryError, DataError])
def test_a_crash_leaves_nothing(tmp_path, stop):
  def crashing():
    yield from list(tensors()[1].items())[:3]
    raise stop

  with pytest.raises(stop):
    folder.write(tmp_path / 'model', CONFIG, crashing(), shard=1)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('name', ['fsync', 'replace', 'rename', 'mkdir'])
def test_every_failing_call_leaves_nothing_or_the_whole(tmp_path, monkeypatch, name):
  real, failed = getattr(os, name), 0
  for at in range(1, 20):
    calls = iter(range(1, 1000))

    def failing(*arguments, calls=calls, at=at, **named):
      if next(calls) == at:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
      return real(*arguments, **named)

    path = tmp_path / str(at)
    with monkeypatch.context() as patch:
      patch.setattr(os, name, failing)
      try:
        write(path, shard=300)
      except StorageError as error:
        assert 'Input/output error' in str(error) and '\n' not in str(error)
        failed += 1
      else:
        assert set(huggingface.tensors(path)) == set(tensors()[1])
        break
    assert list(tmp_path.iterdir()) == []
  assert failed


@pytest.mark.parametrize(
  'name', ['', '__metadata__', '../w', 'a/b', 'a b', '.w', 'w\n', 'ü', '<script>', None]
)
def test_names_are_plain(tmp_path, name):
  with pytest.raises(UsageError, match='is no plain name of a tensor'):
    folder.write(tmp_path / 'model', CONFIG, [(name, np.zeros(2, np.float32))])
  assert list(tmp_path.iterdir()) == []


zeros = np.zeros(2, np.float32)


@pytest.mark.parametrize(
  'config, named, error, says',
  [
    (CONFIG, [], UsageError, 'a model without tensors'),
    (CONFIG, [('w', zeros), ('w', zeros)], UsageError, 'tensor w comes twice'),
    (CONFIG, [('w', np.zeros(2, complex))], UsageError, 'w is complex128, none of'),
    (CONFIG, [('w', np.array(['a']))], UsageError, 'w is str'),
    (CONFIG, [('w', zeros * np.nan)], DataError, 'w holds NaN or infinity'),
    (CONFIG, [('w', np.array([np.inf], ml_dtypes.bfloat16))], DataError, 'w holds NaN'),
    (dict(eps=float('nan')), [('w', zeros)], DataError, 'config.json cannot hold this'),
    (dict(eps={1}), [('w', zeros)], DataError, 'config.json cannot hold this'),
  ],
)
@pytest.mark.parametrize('shard', [1, 10**9])
def test_what_a_folder_does_not_hold_is_refused(tmp_path, config, named, error, says, shard):
  with pytest.raises(error, match=says):
    folder.write(tmp_path / 'model', config, named, shard=shard)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  'name', ['config.json', 'x.safetensors', 'model.safetensors.index.json', '../x', 'a/b', '']
)
def test_other_files_take_no_place(tmp_path, name):
  with pytest.raises(UsageError, match='would take the place of another file of the model'):
    write(tmp_path / 'model', files={name: '{}'})
  with pytest.raises(MissingInput, match='none is not there'):
    write(tmp_path / 'model', files=dict(none=tmp_path / 'none'))
  assert not (tmp_path / 'model').exists()
