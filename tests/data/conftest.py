"""Small data sets in the formats of the real ones, in folders of their own, and no network."""

import gzip
import io
import struct

import numpy as np
import pytest
from PIL import Image

from reduction.data import images, jpeg, tfds
from reduction.data.data import Records, Split

IDX = (
  'train-images-idx3-ubyte',
  'train-labels-idx1-ubyte',
  't10k-images-idx3-ubyte',
  't10k-labels-idx1-ubyte',
)


@pytest.fixture
def alone(tmp_path_factory, monkeypatch):
  """Hides what this machine has: its data, its caches, its packages, its network."""
  home = tmp_path_factory.mktemp('home')
  monkeypatch.delenv('REDUCTION_DATA', raising=False)
  monkeypatch.setenv('TFDS_DATA_DIR', str(home / 'tfds'))
  monkeypatch.setenv('XDG_CACHE_HOME', str(home / 'cache'))
  monkeypatch.setattr(tfds, 'addresses', lambda name: {f'http://127.0.0.1:9/{name}.gz': None})
  for name, kind in images.KINDS.items():
    monkeypatch.setitem(images.KINDS, name, kind._replace(packaged=()))
  return home


@pytest.fixture
def small():
  """small(shape) -> Records: 40 + 20 images of that shape, the labels 0 to 9 in turn."""

  def make(shape=(28, 28, 1)):
    rng = np.random.default_rng(7)
    split = lambda n: Split(
      rng.integers(0, 256, (n, *shape), np.uint8), np.arange(n, dtype=np.uint8) % 10
    )
    return Records(split(40), split(20), 'made up')

  return make


@pytest.fixture
def idx_bytes():
  """The idx encoding of a uint8 array."""
  return lambda x: struct.pack(f'>BBBB{x.ndim}I', 0, 0, 8, x.ndim, *x.shape) + x.tobytes()


@pytest.fixture
def idx_folder(tmp_path, small, idx_bytes):
  """A data directory with small() as gzipped idx files in mnist/."""
  folder = tmp_path / 'data'
  (folder / 'mnist').mkdir(parents=True)
  records = small()
  for name, array in zip(IDX, (*records.train, *records.test)):
    array = array.reshape(array.shape[:3])
    (folder / 'mnist' / f'{name}.gz').write_bytes(gzip.compress(idx_bytes(array)))
  return folder


@pytest.fixture
def jpeg_folder(tmp_path):
  """60 + 30 plain pictures, as JPEG, sorted by class: class k is of gray 20 k + 10."""
  folder = tmp_path / 'cifar10-jpeg'
  folder.mkdir()
  for name, each in zip(jpeg.FILES, (6, 3)):
    files = []
    for record in range(10 * each):
      stream = io.BytesIO()
      gray = 20 * (record // each) + 10 + record % each
      Image.new('RGB', (32, 32), (gray,) * 3).save(stream, 'JPEG')
      files.append(stream.getvalue())
    np.savez_compressed(
      folder / name,
      jpeg=np.frombuffer(b''.join(files), np.uint8),
      offset=np.cumsum([0, *map(len, files)]),
      label=np.repeat(np.arange(10, dtype=np.uint8), each),
    )
  return tmp_path
