import gzip
import io
import re
import tarfile
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from reduction import data
from reduction.data import Data, Split, digest, idx, images, jpeg
from reduction.errors import DataError, MissingInput, UsageError

pytestmark = pytest.mark.usefixtures('alone')


def toy(n):
  y = np.arange(n, dtype=np.int32) % 10
  return Split(np.full((n, 2, 2, 1), 0.5, np.float32), y)


def make(train):
  return Data('toy', train, toy(20), toy(20), 10, 'made up')


def edited(array, index, value):
  array = array.copy()
  array[index] = value
  return array


@pytest.mark.parametrize(
  'edit, message',
  [
    (lambda x, y: (edited(x, (17, 1, 0, 0), np.nan), y), 'NaN pixel in record 17 of the train'),
    (
      lambda x, y: (edited(x, (4, 0, 0, 0), 1.5), y),
      r'pixel 1.5, outside \[0, 1\], in record 4 of',
    ),
    (lambda x, y: (edited(x, (0, 0, 0, 0), -np.inf), y), 'pixel -inf, outside .* in record 0 of'),
    (lambda x, y: (x, edited(y, 3, 10)), 'label 10 in record 3 of the train split of toy'),
    (lambda x, y: (x, edited(y, 5, -1)), 'label -1 in record 5 of the train split of toy'),
    (lambda x, y: (x[:0], y[:0]), 'the train split of toy is empty'),
    (lambda x, y: (x, np.full_like(y, 6)), 'the train split of toy has one class only, 6'),
    (lambda x, y: (x[:9], y), '9 examples but 30 labels'),
    (lambda x, y: (x.astype(np.float64), y), r'x is float64\[30, 2, 2, 1\]'),
    (lambda x, y: (x, y.astype(np.int64)), r'y int64\[30\]'),
    (lambda x, y: (x[..., 0], y), r'float32\[30, 2, 2\]'),
    (lambda x, y: (x[:, :1], y), 'one shape in all splits'),
  ],
)
def test_data_refuses(edit, message):
  with pytest.raises(DataError, match=message):
    make(Split(*edit(*toy(30))))


def test_digest_sees_one_pixel_one_label_and_the_shape():
  x, y = toy(30)
  same = [digest(make(Split(x.copy(), y.copy()))), digest(make(Split(x[::-1][::-1], y)))]
  assert set(same) == {digest(make(Split(x, y)))}
  others = [(edited(x, (29, 1, 1, 0), 0.25), y), (x, edited(y, 0, 1)), (x[:29], y[:29])]
  assert len({digest(make(Split(*other))) for other in others} | set(same)) == 4


def test_idx_of_hand_made_bytes(tmp_path):
  labels = tmp_path / 'labels'
  labels.write_bytes(bytes.fromhex('00000801 00000002 07 09'))
  assert idx.read(labels, ()).tolist() == [7, 9]
  pictures = tmp_path / 'pictures.gz'
  packed = gzip.compress(bytes.fromhex('00000803 00000002 00000001 00000003 010203 fdfeff'))
  pictures.write_bytes(packed)
  assert idx.read(pictures, (1, 3)).tolist() == [[[1, 2, 3]], [[253, 254, 255]]]


byte_arrays = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=3, max_side=6))
quick = settings(max_examples=60, deadline=None)
quiet = settings(quick, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quiet
@given(array=byte_arrays, packed=st.booleans())
def test_idx_round_trip(array, packed, idx_bytes, tmp_path):
  path = tmp_path / 'file'
  path.write_bytes(gzip.compress(idx_bytes(array)) if packed else idx_bytes(array))
  assert np.array_equal(idx.read(path, array.shape[1:]), array)


@quiet
@given(array=byte_arrays, packed=st.booleans(), content=st.data())
def test_idx_refuses_every_part_of_a_file(array, packed, content, idx_bytes, tmp_path):
  whole = gzip.compress(idx_bytes(array)) if packed else idx_bytes(array)
  path = tmp_path / 'file'
  path.write_bytes(whole[: content.draw(st.integers(0, len(whole) - 1))])
  with pytest.raises(DataError, match=re.escape(str(path))):
    idx.read(path, array.shape[1:])


IMAGES, LABELS = 'train-images-idx3-ubyte.gz', 'train-labels-idx1-ubyte.gz'


@pytest.mark.parametrize(
  'file, edit, message',
  [
    (IMAGES, lambda b: b[: 16 + 17 * 784 + 5], 'ends in record 17 of 40'),
    (IMAGES, lambda b: gzip.compress(b)[:-3000], r'marker was reached in record 3\d of 40'),
    (IMAGES, lambda b: gzip.compress(b)[:-8] + bytes(8), 'CRC check failed .* of 40'),
    (IMAGES, lambda b: bytes.fromhex('00000d03') + b[4:], 'magic 0x00000d03, need 0x00000803'),
    (IMAGES, lambda b: b[:15] + b'\x1b' + b[16:], r'records are \(28, 27\), need \(28, 28\)'),
    (IMAGES, lambda b: b[:4] + b'\xff' * 4 + b[8:], 'claims 4294967295 records'),
    (IMAGES, lambda b: b[:6], 'ends within its header'),
    (IMAGES, lambda b: b'', 'magic 0x, need 0x00000803'),
    (LABELS, lambda b: b[: 8 + 3] + b'\n' + b[8 + 4 :], 'label 10 in record 3 of .*train-labels'),
    (LABELS, lambda b: b[:7] + b'\x27' + b[8:-1], '40 images but 39 labels'),
    (LABELS, lambda b: b + b'?', 'more bytes after record 39'),
    (LABELS, lambda b: gzip.compress(b) + b'?', 'Not a gzipped file .* of 40'),
  ],
)
def test_bad_idx_names_file_and_record(idx_folder, file, edit, message):
  path = idx_folder / 'mnist' / file
  path.write_bytes(edit(gzip.decompress(path.read_bytes())))
  with pytest.raises(DataError, match=f'(?s){message}') as error:
    data.mnist(data_dir=idx_folder, validation=10)
  assert file in str(error.value)


def test_idx_without_records(idx_folder, idx_bytes):
  for name, shape in ((IMAGES, (0, 28, 28)), (LABELS, (0,))):
    (idx_folder / 'mnist' / name).write_bytes(idx_bytes(np.zeros(shape, np.uint8)))
  with pytest.raises(DataError, match=r'train-labels.*no records'):
    data.mnist(data_dir=idx_folder, validation=10)


def test_idx_set_split_and_scaled(idx_folder, small):
  found = data.mnist(data_dir=idx_folder, validation=10)
  assert (found.name, found.source, found.classes) == ('MNIST', 'idx', 10)
  stored = {x.tobytes(): y for x, y in zip(*small().train)}
  seen = []
  for x, y in zip(*map(np.concatenate, zip(found.train, found.validation))):
    pixels = np.rint(x * 255).astype(np.uint8).tobytes()
    assert stored[pixels] == y
    seen.append(pixels)
  assert len(found.train.y) == 30 and sorted(seen) == sorted(stored)
  assert found.test.x.sum() == pytest.approx(small().test.x.sum() / 255, rel=1e-5)


@pytest.mark.parametrize('place', ['data_dir', 'REDUCTION_DATA', 'folder itself', 'plain dotted'])
def test_where_idx_may_lie(idx_folder, monkeypatch, place):
  expected = digest(data.mnist(data_dir=idx_folder, validation=10))
  folder = idx_folder
  if place == 'REDUCTION_DATA':
    monkeypatch.setenv('REDUCTION_DATA', str(folder))
  if place == 'folder itself':
    folder = folder / 'mnist'
  if place == 'plain dotted':
    for path in (folder / 'mnist').iterdir():
      name = path.name.replace('-idx', '.idx').removesuffix('.gz')
      path.with_name(name).write_bytes(gzip.decompress(path.read_bytes()))
      path.unlink()
  chosen = {} if place == 'REDUCTION_DATA' else {'data_dir': folder}
  assert digest(data.mnist(validation=10, **chosen)) == expected


def test_split_depends_on_records_and_seed_alone(small):
  records = small()
  order = np.argsort(records.train.y, kind='stable')  # sorted by class
  by_class = records._replace(train=Split(*(array[order] for array in records.train)))
  pieces = [images.split(r, 'toy', 10, 0) for r in (records, by_class)]
  assert digest(pieces[0]) == digest(pieces[1])
  assert (np.diff(pieces[1].train.y) < 0).sum() > 5  # shuffled
  other = images.split(records, 'toy', 10, 1)
  assert digest(other) != digest(pieces[0])
  assert np.array_equal(other.test.x, pieces[0].test.x)


def test_two_records_of_equal_pixels_keep_one_order():
  x, y = np.zeros((4, 2, 2, 1), np.uint8), np.array([3, 1, 2, 0], np.uint8)
  assert y[images.canonical(x, y)].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize('validation', [40, -1])
def test_validation_out_of_range(idx_folder, validation):
  with pytest.raises(UsageError, match=f'validation={validation} must be from 0 to 39: MNIST'):
    data.mnist(data_dir=idx_folder, validation=validation)


def test_digits():
  found = data.digits()
  parts = (found.train, found.validation, found.test)
  assert [len(part.y) for part in parts] == [1297, 200, 300]
  everything = np.concatenate([part.x for part in parts])
  assert len({x.tobytes() for x in everything}) == 1797  # no two alike, so the splits are disjoint
  # the counts of the UCI repository, and 561,718 sixteenths of ink
  counts = np.bincount(np.concatenate([part.y for part in parts]))
  assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
  assert everything.sum(dtype=np.float64) * 16 == 561718
  assert digest(found) == digest(data.digits()) == '59b70cd70c1ed999'
  other = data.digits(split_seed=1, validation=100)
  assert len(other.train.y) == 1397 and np.array_equal(other.test.x, found.test.x)
  with pytest.raises(UsageError, match='test=1797 must be from 1 to 1796'):
    data.digits(test=1797)
  whole = data.digits(validation=0)  # all may be trained on
  assert len(whole.train.y) == 1497 and whole.validation.x.shape == (0, 8, 8, 1) and digest(whole)


def test_keras_npz_equals_idx(idx_folder, small, tmp_path):
  records = small()
  save = lambda x, **more: np.savez_compressed(
    tmp_path / 'mnist.npz', x_train=x, y_train=records.train.y, **more
  )
  test = dict(x_test=records.test.x[..., 0], y_test=records.test.y)
  save(records.train.x[..., 0], **test)
  found = data.mnist(data_dir=tmp_path, validation=10)
  assert found.source == 'npz'
  assert digest(found) == digest(data.mnist(data_dir=idx_folder, validation=10))
  save(records.train.x[..., 0] / 255, **test)
  with pytest.raises(DataError, match=r'train in .*mnist.npz: images are float64'):
    data.mnist(data_dir=tmp_path, validation=10)
  save(records.train.x[..., 0])
  with pytest.raises(DataError, match='lacks x_test, y_test; it has x_train, y_train'):
    data.mnist(data_dir=tmp_path, validation=10)


def test_cifar_binary_and_keras_npz(small, tmp_path):
  records = small((32, 32, 3))
  binary, keras = tmp_path / 'binary', tmp_path / 'keras'
  binary.mkdir()
  keras.mkdir()

  def batch(x, y):
    planes = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
    return np.concatenate([y[:, None], planes], 1).tobytes()

  train = [Split(*(array[part] for array in records.train)) for part in np.split(np.arange(40), 2)]
  files = {f'data_batch_{i + 1}': batch(*part) for i, part in enumerate(train)}
  files['test_batch'] = batch(*records.test)
  with tarfile.open(binary / 'cifar-10-binary.tar.gz', 'w:gz') as archive:
    for name, content in files.items():
      member = tarfile.TarInfo(f'cifar-10-batches-bin/{name}.bin')
      member.size = len(content)
      archive.addfile(member, io.BytesIO(content))
  y = [part.y[:, None] for part in (records.train, records.test)]  # a column, as Keras has it
  np.savez(
    keras / 'cifar10.npz', x_train=records.train.x, y_train=y[0], x_test=records.test.x, y_test=y[1]
  )
  found = [data.cifar10(data_dir=folder, validation=10) for folder in (binary, keras)]
  assert [f.source for f in found] == ['binary', 'npz'] and found[0].name == 'CIFAR-10'
  assert digest(found[0]) == digest(found[1]) == digest(images.split(records, 'CIFAR-10', 10, 0))
  path = binary / 'cifar-10-binary.tar.gz'
  whole = path.read_bytes()
  middle = len(whole) // 2
  for damaged in (
    whole[:-20_000],
    whole[:middle] + b'damage' + whole[middle + 6 :],
    whole[:2],
    b'',
  ):
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r'cifar-10-binary\.tar\.gz: broken archive'):
      data.cifar10(data_dir=binary, validation=10)


@pytest.mark.parametrize(
  'names, size, message',
  [
    (['data_batch_1.bin'], 3073, 'lacks data_batch_1.bin or test_batch.bin'),
    (
      ['test_batch.bin', '../data_batch_1.bin'],
      2 * 3073,
      r'label 12 in record 1 of test_batch.bin',
    ),
    (['test_batch.bin', 'data_batch_1.bin'], 2 * 3073 + 9, r'6155 bytes end in record 2, 3073'),
  ],
)
def test_bad_cifar_archive(tmp_path, names, size, message):
  with tarfile.open(tmp_path / 'cifar-10-binary.tar.gz', 'w:gz') as archive:
    for name in names:
      member = tarfile.TarInfo(name)
      member.size = size
      archive.addfile(member, io.BytesIO((bytes(3073) + b'\x0c' + bytes(size))[:size]))
  with pytest.raises(DataError, match=message):
    data.cifar10(data_dir=tmp_path, validation=10)


LINKS = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE


@pytest.mark.parametrize('kind', LINKS)
def test_links_and_devices_in_an_archive_are_no_data(tmp_path, kind):
  secret = tmp_path / 'secret'
  secret.write_bytes(bytes(3073))
  with tarfile.open(tmp_path / 'cifar-10-binary.tar.gz', 'w:gz') as archive:
    for name in 'data_batch_1.bin', 'test_batch.bin':
      member = tarfile.TarInfo(name)
      member.type, member.linkname = kind, str(secret)
      archive.addfile(member)
  with pytest.raises(DataError, match=r'lacks data_batch_1\.bin or test_batch\.bin'):
    data.cifar10(data_dir=tmp_path, validation=10)


@pytest.mark.parametrize('load', [data.mnist, data.fashion_mnist, data.cifar10])
def test_data_not_found_tells_the_ways_within_seconds(load, tmp_path):
  began = time.monotonic()
  with pytest.raises(MissingInput) as error:
    load(data_dir=tmp_path)
  message = str(error.value)
  assert time.monotonic() - began < 3 and '\n' not in message
  for part in (str(tmp_path), '127.0.0.1', '--data_dir', 'REDUCTION_DATA', 'TFDS', '=digits'):
    assert part in message
  assert ('dataset-fashion-mnist' in message) == (load is data.fashion_mnist)


@pytest.mark.parametrize('how', ['data_dir', 'REDUCTION_DATA'])
def test_data_dir_that_is_not_there(tmp_path, monkeypatch, how):
  gone = str(tmp_path / 'gone')
  monkeypatch.setenv('REDUCTION_DATA', gone)
  with pytest.raises(MissingInput, match=f"{how}='{gone}' is not a folder"):
    data.mnist(data_dir=gone if how == 'data_dir' else None)


def test_half_a_data_set_is_named(idx_folder, jpeg_folder):
  (jpeg_folder / 'cifar10-jpeg' / jpeg.FILES[1]).unlink()
  with pytest.raises(MissingInput, match=r'lacks cifar10_test_jpeg\.npz'):
    data.cifar10(data_dir=jpeg_folder)
  (idx_folder / 'mnist' / LABELS).unlink()
  with pytest.raises(MissingInput, match='mnist has idx files but lacks train-labels'):
    data.mnist(data_dir=idx_folder)


def test_one_set_is_not_taken_for_the_other(idx_folder, monkeypatch, small):
  hashed = images.xxhash.xxh3_64_hexdigest(small().train.y)
  monkeypatch.setattr(images, 'LABELS', {hashed: 'mnist'})
  assert data.mnist(data_dir=idx_folder / 'mnist', validation=10).name == 'MNIST'
  with pytest.raises(MissingInput, match='holds MNIST'):
    data.fashion_mnist(data_dir=idx_folder / 'mnist', validation=10)


def test_package_of_the_system(idx_folder, tmp_path, monkeypatch):
  kind = images.KINDS['fashion_mnist']._replace(packaged=(str(idx_folder / 'mnist'),))
  monkeypatch.setitem(images.KINDS, 'fashion_mnist', kind)
  (tmp_path / 'empty').mkdir()
  found = data.fashion_mnist(data_dir=tmp_path / 'empty', validation=10)
  assert (found.name, found.source) == ('Fashion-MNIST', 'debian')
