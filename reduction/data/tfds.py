"""Data sets of tensorflow_datasets, read without TensorFlow, and its verified downloads."""

import os
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np

from reduction.data.data import Records, check_records
from reduction.data.jpeg import picture
from reduction.errors import DataError, MissingInput, UserError


def find(folder: Path, shape: tuple, classes: int) -> Records | None:
  """The newest version prepared in folder, as in data_dir/mnist/3.0.1, or None where there is none.

  Reads array_record files. Raises MissingInput where only tfrecord is, which takes TensorFlow.
  """
  versions = sorted(
    (path.parent for path in folder.glob('[0-9]*.*.*/dataset_info.json')),
    key=lambda path: [int(part) if part.isdigit() else -1 for part in path.name.split('.')],
  )
  ready = [path for path in versions if any(path.glob('*.array_record*'))]
  if ready:
    return Records(*[_read(ready[-1], part, shape, classes) for part in ('train', 'test')], 'tfds')
  if versions:
    raise MissingInput(
      f'{versions[-1]} is not in the format that reads without TensorFlow: prepare it with '
      "file_format='array_record'"
    )
  return None


def _read(path, part, shape, classes):
  """One split. Encoded images are decoded here: TFDS's own way takes four times as long."""
  tfds = _import()
  try:
    builder = tfds.builder_from_directory(path)
    encoded = isinstance(builder.info.features['image'], tfds.features.Image)
    decoders = {'image': tfds.decode.SkipDecoding()} if encoded else None
    source = builder.as_data_source(split=part, decoders=decoders)
    rows = source.__getitems__(range(len(source))) if len(source) else []
    images, labels = [row['image'] for row in rows], [row['label'] for row in rows]
  except Exception as error:  # whatever its readers raise: RuntimeError, KeyError, JSONDecodeError
    raise DataError(
      f'{path}: TFDS cannot read {part} ({_line(error)}); prepare it again'
    ) from error
  where = f'{part} in {path}'
  if encoded:
    images = [picture(x, shape, f'record {i} of {where}') for i, x in enumerate(images)]
  if not images:
    raise DataError(f'{where}: no records')
  return check_records(np.stack(images), np.asarray(labels), where, shape, classes)


def download(name: str, root: Path) -> str:
  """Fetches the source files of a TFDS data set into root/name; returns '' or why it could not.

  TFDS knows the addresses and checksums. Its own preparation takes TensorFlow, reading the files
  does not. A host that does not answer is given up within seconds.
  """
  if root.parts[0] == '~':
    return 'no home folder to keep it in; set REDUCTION_DATA'
  try:
    infos = addresses(name)
    if reason := unreachable(next(iter(infos))):
      return reason
    manager = _import().download.DownloadManager(
      download_dir=root / 'downloads', url_infos=infos, dataset_name=name
    )
    fetched = manager.download({info.filename: url for url, info in infos.items()})
    (root / name).mkdir(exist_ok=True)
    for filename, path in fetched.items():
      os.replace(path, root / name / filename)
  except UserError as error:
    return str(error)
  except Exception as error:  # of requests, of TFDS's checksums, of the disk
    return f'the download failed: {_line(error)}'
  return ''


def addresses(name: str) -> dict:
  """TFDS's address -> (size, checksum, filename) of each source file."""
  return _import().builder_cls(name).url_infos


def unreachable(url: str, patience: float = 4.0) -> str:
  """'' if the host of url answers a HEAD request within patience seconds, else why not."""
  answers = []

  def ask():
    try:
      request = urllib.request.Request(url, method='HEAD')
      urllib.request.urlopen(request, timeout=patience).close()
      answers.append('')
    except urllib.error.HTTPError as error:
      answers.append('' if error.code in (405, 501) else f'HTTP status {error.code}')
    except Exception as error:  # no name, no route, no certificate, no HTTP
      answers.append(_line(error))

  thread = threading.Thread(target=ask, daemon=True)  # a name look-up heeds no timeout
  thread.start()
  thread.join(patience)
  reason = answers[0] if answers else f'no answer in {patience:g} s'
  return reason and f'{urllib.parse.urlsplit(url).hostname}: {reason}'


def _import():
  try:
    import tensorflow_datasets
  except ImportError as error:
    raise MissingInput('tensorflow_datasets is not installed') from error
  return tensorflow_datasets


def _line(error):
  lines = str(error).strip().splitlines()
  return (lines[0] if lines else type(error).__name__)[:400]
