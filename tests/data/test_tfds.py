import functools
import hashlib
import http.server
import io
import shutil
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow_datasets
from PIL import Image

from reduction import data
from reduction.data import digest, tfds
from reduction.errors import DataError, MissingInput

pytestmark = pytest.mark.usefixtures('alone')


def png(image):
  stream = io.BytesIO()
  Image.fromarray(image[..., 0]).save(stream, 'PNG')
  return io.BytesIO(stream.getvalue())


FEATURES = {
  'png': (tensorflow_datasets.features.Image(shape=(28, 28, 1)), png),
  'tensor': (tensorflow_datasets.features.Tensor(shape=(28, 28, 1), dtype=np.uint8), np.asarray),
}


def prepare(folder, records, form='tensor', version='3.0.1', classes=10):
  """Prepares records as TFDS does its own mnist, in array_record files."""
  feature, encode = FEATURES[form]

  class Mnist(tensorflow_datasets.core.GeneratorBasedBuilder, skip_registration=True):
    name = 'mnist'
    VERSION = tensorflow_datasets.core.Version(version)

    def _info(self):
      label = tensorflow_datasets.features.ClassLabel(num_classes=classes)
      features = tensorflow_datasets.features.FeaturesDict({'image': feature, 'label': label})
      return tensorflow_datasets.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
      return {
        'train': self._generate_examples(records.train),
        'test': self._generate_examples(records.test),
      }

    def _generate_examples(self, split):
      for record, (x, y) in enumerate(zip(*split)):
        yield record, {'image': encode(x), 'label': int(y)}

  Mnist(data_dir=folder, file_format='array_record').download_and_prepare()
  return folder / 'mnist' / version


@pytest.mark.parametrize('form', FEATURES)
def test_prepared_set_equals_idx(tmp_path, small, idx_folder, form):
  prepare(tmp_path, small(), form)
  found = data.mnist(data_dir=tmp_path, validation=10)
  assert (found.name, found.source) == ('MNIST', 'tfds')
  assert digest(found) == digest(data.mnist(data_dir=idx_folder, validation=10))


def test_newest_version_is_read_before_idx(idx_folder, small):
  records = small()
  newer = records._replace(test=type(records.test)(255 - records.test.x, records.test.y))
  prepare(idx_folder, records, version='9.0.0')
  prepare(idx_folder, newer, version='10.0.0')
  found = data.mnist(data_dir=idx_folder, validation=10)
  assert found.source == 'tfds'
  assert found.test.x.sum() == pytest.approx(newer.test.x.sum() / 255, rel=1e-5)


def test_damage_and_bad_labels_are_data_errors(tmp_path, small):
  records = small()
  folder = prepare(tmp_path / 'a', records)
  (shard,) = folder.glob('mnist-train.array_record*')
  shard.write_bytes(shard.read_bytes()[:-1000])
  with pytest.raises(DataError, match='TFDS cannot read train'):
    data.mnist(data_dir=tmp_path / 'a', validation=10)
  (folder / 'features.json').write_text('{')
  with pytest.raises(DataError, match='TFDS cannot read train'):
    data.mnist(data_dir=tmp_path / 'a', validation=10)
  records.train.y[:] = 10
  prepare(tmp_path / 'b', records, classes=11)
  with pytest.raises(DataError, match=r'label 10 in record 0 of train in .*3\.0\.1'):
    data.mnist(data_dir=tmp_path / 'b', validation=10)


def test_tfrecord_is_named_and_passed_over(tmp_path, small, idx_folder):
  folder = prepare(tmp_path, small())
  for path in folder.glob('*.array_record*'):
    path.rename(folder / path.name.replace('array_record', 'tfrecord'))
  with pytest.raises(MissingInput, match=r"3\.0\.1 is not .* prepare it with file_format='array_r"):
    data.mnist(data_dir=tmp_path, validation=10)
  shutil.copytree(idx_folder, tmp_path, dirs_exist_ok=True)
  assert data.mnist(data_dir=tmp_path, validation=10).source == 'idx'


@pytest.fixture
def server(idx_folder):
  """The address of a local server of the files of idx_folder/mnist."""
  handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=idx_folder / 'mnist')
  handler.func.log_message = lambda *args: None
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as running:
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield f'http://127.0.0.1:{running.server_port}'
    running.shutdown()
    thread.join()


def listed(server, folder, spoil=False):
  """What TFDS lists for the files of folder: address -> size, checksum, name."""
  info = tensorflow_datasets.download.checksums.UrlInfo
  return {
    f'{server}/{path.name}': info(
      size=path.stat().st_size,
      checksum=hashlib.sha256(path.read_bytes() + b'!' * spoil).hexdigest(),
      filename=path.name,
    )
    for path in sorted(folder.iterdir())
  }


def test_download_is_verified_and_kept(idx_folder, server, monkeypatch, alone):
  infos = listed(server, idx_folder / 'mnist')
  monkeypatch.setattr(tfds, 'addresses', lambda name: infos)
  expected = digest(data.mnist(data_dir=idx_folder, validation=10))
  assert digest(data.mnist(validation=10)) == expected  # downloaded into TFDS's own folder
  monkeypatch.setattr(tfds, 'addresses', None)
  assert digest(data.mnist(validation=10)) == expected  # found where it was put
  assert len(list((alone / 'tfds' / 'mnist').glob('*ubyte.gz'))) == 4


def test_download_of_other_bytes_is_refused(idx_folder, server, monkeypatch, tmp_path):
  infos = listed(server, idx_folder / 'mnist', spoil=True)
  monkeypatch.setattr(tfds, 'addresses', lambda name: infos)
  target = tmp_path / 'target'
  target.mkdir()
  with pytest.raises(MissingInput, match=r'the download failed: .*wrong checksum'):
    data.mnist(data_dir=target)
  assert not (target / 'mnist').exists()


def test_address_that_is_gone(server):
  assert tfds.unreachable(f'{server}/nothing.gz') == '127.0.0.1: HTTP status 404'


def test_silent_host_is_given_up():
  with socket.create_server(('127.0.0.1', 0)) as silent:
    began = time.monotonic()
    reason = tfds.unreachable(f'http://127.0.0.1:{silent.getsockname()[1]}/x', patience=0.3)
  assert '127.0.0.1: ' in reason and time.monotonic() - began < 2


def test_addresses_of_tfds(monkeypatch):
  monkeypatch.undo()
  names = {info.filename for info in tfds.addresses('mnist').values()}
  assert len(names) == 4 and 'train-images-idx3-ubyte.gz' in names
  assert names == {info.filename for info in tfds.addresses('fashion_mnist').values()}
  (info,) = tfds.addresses('cifar10').values()
  assert info.filename == 'cifar-10-binary.tar.gz'


def test_import_loads_nothing_heavy_and_idx_needs_no_tfds(idx_folder):
  program = f"""
import sys
sys.modules['tensorflow_datasets'] = None  # as if it were not installed
from reduction import data
assert not {{'jax', 'sklearn', 'PIL'}} & set(sys.modules), 'slow import'
print(len(data.mnist(data_dir={str(idx_folder)!r}, validation=10).train.y))
"""
  result = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
  assert (result.returncode, result.stdout) == (0, '30\n'), result.stderr
