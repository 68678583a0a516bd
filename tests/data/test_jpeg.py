"""CIFAR-10 as JPEG: what it is called, what is kept, what is refused."""

import io

import numpy as np
import pytest
from PIL import Image

from reduction import data
from reduction.data import digest, jpeg
from reduction.errors import DataError, UsageError


def test_jpeg_cifar_is_named_so_and_cached(jpeg_folder, alone, monkeypatch):
  load = lambda: data.cifar10(data_dir=jpeg_folder, validation=20)
  found = load()
  assert (found.name, found.source) == ('CIFAR-10 (JPEG)', 'jpeg')
  gray = np.rint(found.train.x.mean((1, 2, 3)) * 255).astype(int)
  assert ((gray - 10) // 20 == found.train.y).all()
  (cached,) = (alone / 'cache' / 'reduction').iterdir()
  whole = cached.read_bytes()
  with monkeypatch.context() as patch:
    patch.setattr(jpeg, 'decode', None)
    assert digest(load()) == digest(found)  # nothing was decoded
  middle = len(whole) // 2
  for damaged in (whole[:-100], whole[:middle] + b'damage' + whole[middle + 6 :], b''):
    cached.write_bytes(damaged)
    assert digest(load()) == digest(found)
    assert cached.read_bytes() == whole  # rebuilt
  monkeypatch.setenv('XDG_CACHE_HOME', str(cached))  # a file: no folder can be made there
  assert digest(load()) == digest(found)
  monkeypatch.setattr(jpeg.cache, 'folder', lambda: None)  # no home at all
  assert digest(load()) == digest(found)


@pytest.mark.parametrize(
  'edit, message',
  [
    (lambda a: a['jpeg'].__setitem__(slice(a['offset'][7], a['offset'][8]), 0), 'record 7 of'),
    (lambda a: a['offset'].__setitem__(5, a['offset'][4]), 'offset must rise from 0'),
    (lambda a: a['offset'].__setitem__(-1, 10**9), 'offset must rise from 0'),
    (lambda a: a['label'].__setitem__(3, 10), 'label 10 in record 3 of'),
    (lambda a: a.update(label=a['label'][1:]), r'need jpeg uint8, offset \[n \+ 1\]'),
  ],
)
def test_bad_jpeg(jpeg_folder, edit, message):
  path = jpeg_folder / 'cifar10-jpeg' / jpeg.FILES[0]
  arrays = {name: array.copy() for name, array in np.load(path).items()}
  edit(arrays)
  np.savez(path, **arrays)
  with pytest.raises(DataError, match=message) as error:
    data.cifar10(data_dir=jpeg_folder, validation=20)
  assert jpeg.FILES[0] in str(error.value)


def test_smaller_images_are_means_and_fewer_are_the_first_of_the_same_order(jpeg_folder, alone):
  load = lambda **given: data.cifar10(data_dir=jpeg_folder, validation=20, **given)
  whole, small = load(), load(side=16, examples=30)
  assert small.name == 'CIFAR-10 (JPEG), 16 x 16' and small.test.x.shape == (30, 16, 16, 3)
  np.testing.assert_array_equal(small.train.y, whole.train.y[:30])
  by_hand = whole.train.x[3, 4:6, 10:12].mean((0, 1))
  np.testing.assert_allclose(small.train.x[3, 2, 5], by_hand, rtol=1e-6)
  for wrong, message in (dict(side=12), 'must divide 32'), (dict(examples=41), 'from 0 to 40'):
    with pytest.raises(UsageError, match=message):
      load(**wrong)


def test_picture_of_another_size_is_not_decoded():
  stream = io.BytesIO()
  Image.new('L', (5000, 5000)).save(stream, 'PNG')
  with pytest.raises(DataError, match=r'record 2: image is \(5000, 5000\), need \(32, 32\)'):
    jpeg.picture(stream.getvalue(), (32, 32, 3), 'record 2')
