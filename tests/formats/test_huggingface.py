"""Model folders: read whole or in shards, and refused in one line where they are not sound."""

import json
import os
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from reduction.errors import DataError, MissingInput
from reduction.formats import huggingface
from tests import sentences


@pytest.fixture
def folder(tmp_path):
  """A sound one."""
  return sentences.model(tmp_path / 'model')


def shards(folder):
  """Cuts the weights of a folder in two files with an index."""
  whole = load_file(folder / 'model.safetensors')
  (folder / 'model.safetensors').unlink()
  names = sorted(whole)
  files = {'a.safetensors': names[:7], 'b.safetensors': names[7:]}
  for file, inside in files.items():
    save_file({name: whole[name] for name in inside}, folder / file)
  place = {name: file for file, inside in files.items() for name in inside}
  index = folder / 'model.safetensors.index.json'
  index.write_text(json.dumps(dict(weight_map=place)))
  return whole, index


def test_shards_are_the_whole(folder):
  whole, _ = shards(folder)
  found = huggingface.tensors(folder)
  assert set(found) == set(whole) and len(found) == len(whole)
  assert all(np.array_equal(found[name], whole[name]) for name in whole)


@pytest.mark.parametrize('name', ['../a.safetensors', '/etc/passwd', 'sub/a.safetensors', '..'])
def test_an_index_names_files_of_its_folder_alone(folder, name):
  _, index = shards(folder)
  index.write_text(json.dumps(dict(weight_map=dict(w=name))))
  with pytest.raises(DataError, match='is not a file of its folder'):
    huggingface.tensors(folder)


@pytest.mark.parametrize('text', ['', '[]', '{"weight_map": 3}', '{"weight_map": {"w": 3}}', '{]'])
def test_a_wrong_index_is_named(folder, text):
  _, index = shards(folder)
  index.write_text(text)
  with pytest.raises(DataError, match=r'index.json'):
    huggingface.tensors(folder)


def test_a_missing_shard_is_named(folder):
  shards(folder)
  (folder / 'b.safetensors').unlink()
  with pytest.raises(MissingInput, match=r'names b.safetensors, which is not in'):
    huggingface.tensors(folder)


def test_all_missing_shards_are_listed(folder):
  shards(folder)
  for name in 'a', 'b':
    (folder / f'{name}.safetensors').unlink()
  with pytest.raises(MissingInput, match=r'names a.safetensors, b.safetensors, which are not in'):
    huggingface.tensors(folder)


def test_a_tensor_that_its_shard_does_not_have_is_named(folder):
  _, index = shards(folder)
  places = json.loads(index.read_text())['weight_map']
  index.write_text(json.dumps(dict(weight_map=places | dict(absent='a.safetensors'))))
  with pytest.raises(DataError, match=r'names absent of a.safetensors, which is not there'):
    huggingface.tensors(folder)
  moved = sorted(places)[0]
  index.write_text(json.dumps(dict(weight_map=places | {moved: 'b.safetensors'})))
  with pytest.raises(DataError, match=f'names {moved} of b.safetensors'):
    huggingface.tensors(folder)


def test_links_stay_in_the_folder_or_in_the_cache_of_hugging_face(folder, tmp_path):
  own = folder / 'model.safetensors'
  cache = tmp_path / 'models--one'
  for name in 'blobs', 'snapshots':
    (cache / name).mkdir(parents=True)
  blob, snapshot = cache / 'blobs' / 'abc', cache / 'snapshots' / 'main'
  folder.rename(snapshot)
  (snapshot / own.name).rename(blob)
  (snapshot / own.name).symlink_to(blob)
  assert len(huggingface.tensors(snapshot)) > 1
  folder.symlink_to(snapshot)  # a link to the folder itself
  assert len(huggingface.tensors(folder)) > 1
  blob.rename(tmp_path / 'elsewhere')
  (snapshot / own.name).unlink()
  (snapshot / own.name).symlink_to(tmp_path / 'elsewhere')
  with pytest.raises(DataError, match=r'is a link to .*elsewhere, outside of its folder'):
    huggingface.tensors(snapshot)


def test_a_tensor_twice_is_refused(folder):
  shards(folder)
  save_file(load_file(folder / 'a.safetensors'), folder / 'b.safetensors')
  with pytest.raises(DataError, match=r'is also in a.safetensors'):
    huggingface.tensors(folder)


def damaged(content: bytes):
  """Files that are no sound safetensors."""
  size = int.from_bytes(content[:8], 'little')
  header = json.loads(content[8 : 8 + size])
  name = sorted(header)[0]

  def with_header(**change):
    text = json.dumps({**header, name: {**header[name], **change}}).encode()
    return len(text).to_bytes(8, 'little') + text + content[8 + size :]

  yield b''
  yield content[:4]
  yield content[:-5]
  yield content + b'more'
  yield b'\xff' * 8 + content[8:]
  yield (2**62).to_bytes(8, 'little') + content[8:]
  yield with_header(dtype='F31')
  yield with_header(shape=[2**40, 2**40])
  yield with_header(shape=[-1])
  yield with_header(data_offsets=[0, 2**60])
  yield with_header(data_offsets=[40, 8])
  yield with_header(data_offsets=[1, 97])
  yield pickle.dumps(dict(w=1))
  yield b'PK\x03\x04' + content


@pytest.mark.parametrize('number', range(14))
def test_damaged_files_are_one_line(folder, number):
  path = folder / 'model.safetensors'
  path.write_bytes(list(damaged(path.read_bytes()))[number])
  with pytest.raises(DataError, match='is no sound safetensors file') as raised:
    huggingface.tensors(folder)
  assert str(path) in str(raised.value) and '\n' not in str(raised.value)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_mutated_files_are_read_or_refused_in_one_line(tmp_path, data):
  folder = tmp_path / 'mutated'
  if not folder.exists():
    sentences.model(folder)
    (folder / 'sound').write_bytes((folder / 'model.safetensors').read_bytes())
  content = bytearray((folder / 'sound').read_bytes())
  size = 8 + int.from_bytes(content[:8], 'little')
  for _ in range(data.draw(st.integers(1, 6))):  # mostly the header, where structure is
    at = data.draw(st.one_of(st.integers(0, size - 1), st.integers(0, len(content) - 1)))
    content[at] = data.draw(st.integers(0, 255))
  if data.draw(st.booleans()):
    content = content[: data.draw(st.integers(0, len(content)))]
  (folder / 'model.safetensors').write_bytes(content)
  try:
    found = huggingface.tensors(folder)
    assert all(isinstance(found[name], np.ndarray) for name in found)
  except DataError as error:
    assert '\n' not in str(error) and str(folder) in str(error)


class Evil:
  """Runs code when it is unpickled."""

  def __reduce__(self):
    return os.abort, ()


def test_pickles_are_never_opened(folder):
  (folder / 'model.safetensors').unlink()
  (folder / 'pytorch_model.bin').write_bytes(pickle.dumps(Evil()))
  with pytest.raises(MissingInput, match=r'pytorch_model.bin may run any code when opened'):
    huggingface.tensors(folder)


def test_numbers_that_are_none_are_found(folder):
  path = folder / 'model.safetensors'
  whole = load_file(path)
  whole['classifier.bias'][1] = np.nan
  save_file(whole, path)
  found = huggingface.tensors(folder)
  assert found['classifier.weight'].shape == (4, 24)
  with pytest.raises(DataError, match=r'classifier.bias holds NaN or infinity'):
    found['classifier.bias']
  assert 'classifier.bias' in found and 'classifier' not in found  # which reads nothing


def test_a_config_is_an_object_of_some_size(folder, tmp_path, monkeypatch):
  assert huggingface.config(folder) == sentences.CONFIG
  for text in '[1]', '{', '[' * 100_000:
    (folder / 'config.json').write_text(text)
    with pytest.raises(DataError, match='is no JSON object'):
      huggingface.config(folder)
  monkeypatch.setattr(huggingface, 'MOST', 10)
  with pytest.raises(DataError, match='10 is the most'):
    huggingface.config(folder)
  with pytest.raises(MissingInput, match='is not a folder'):
    huggingface.config(tmp_path / 'none')
