import contextlib
import io
import os
import tracemalloc
import zipfile

import numpy as np
import pytest

from reduction.data import npz
from reduction.errors import DataError


def header(shape, dtype='|u1'):
  stream = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    stream, {'descr': dtype, 'fortran_order': False, 'shape': shape}
  )
  return stream.getvalue()


def archive(path, content):
  with zipfile.ZipFile(path, 'w') as file:
    file.writestr('x.npy', content)
  return path


@pytest.mark.parametrize('order', ['C', 'F'])
@pytest.mark.parametrize('dtype', ['uint8', 'int64', 'float32', '>i2'])
def test_reads_what_numpy_writes(tmp_path, order, dtype):
  x = np.asarray(np.arange(24).reshape(2, 3, 4), dtype, order=order)
  np.savez_compressed(tmp_path / 'a.npz', x=x, y=np.uint8(3))
  found = npz.read(tmp_path / 'a.npz', ('x', 'y'))
  assert found['x'].dtype == x.dtype and np.array_equal(found['x'], x) and found['y'] == 3


class Command:
  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (self.path,)


def test_pickled_objects_are_not_run(tmp_path):
  marker = tmp_path / 'code ran'
  np.savez(tmp_path / 'a.npz', x=np.array([Command(str(marker))], object))
  with pytest.raises(DataError, match=r'x in .*a.npz holds pickled objects'):
    npz.read(tmp_path / 'a.npz', ('x',))
  assert not marker.exists()


def test_bomb_is_refused_before_it_unpacks(tmp_path):
  size = npz.LIMIT + 1
  with (
    zipfile.ZipFile(tmp_path / 'a.npz', 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as file,
    file.open('x.npy', 'w') as stream,
  ):
    for _ in range(0, size, 2**20):
      stream.write(bytes(2**20))
  assert (tmp_path / 'a.npz').stat().st_size < size // 100
  tracemalloc.start()
  with pytest.raises(DataError, match=r'x in .*a.npz unpacks to \d+ bytes, more than 268435456'):
    npz.read(tmp_path / 'a.npz', ('x',))
  assert tracemalloc.get_traced_memory()[1] < 2**20
  tracemalloc.stop()


@pytest.mark.parametrize(
  'content, message',
  [
    (header((10**15,)) + b'..', r'uint8\[1000000000000000\] does not fit its \d+ bytes'),
    (header((3, -1)) + b'..', r'uint8\[3, -1\] does not fit'),
    (header((4,)) + b'123', 'does not fit'),
    (header((2,)) + b'123', 'does not fit'),
    (b'\x93NUMPY\x01\x00\xff', 'broken npz'),
    (b'\x93NUMPY\x01\x00\x04\x00((((', 'broken npz'),
    (b'not an array', 'broken npz'),
    (b'', 'broken npz'),
  ],
)
def test_lying_headers(tmp_path, content, message):
  with pytest.raises(DataError, match=message):
    npz.read(archive(tmp_path / 'a.npz', content), ('x',))


def test_any_cut_or_flip_is_noticed(tmp_path):
  path = tmp_path / 'a.npz'
  x = np.random.default_rng(0).integers(0, 256, 200, np.uint8)
  np.savez_compressed(path, x=x)
  whole = path.read_bytes()
  for cut in range(0, len(whole), 7):
    path.write_bytes(whole[:cut])
    with pytest.raises(DataError, match=r'a\.npz'):
      npz.read(path, ('x',))
  for at in range(0, len(whole), 3):
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
    with contextlib.suppress(DataError):  # a flip in a time stamp changes nothing
      assert np.array_equal(npz.read(path, ('x',))['x'], x)
