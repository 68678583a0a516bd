"""A run that ends in a folder for other programs, and what its row and line say."""

import io

import pytest

from reduction import opened, stages, tree
from reduction.errors import UsageError
from reduction.progress import Progress
from reduction.run import Run


def test_a_run_ends_in_a_folder(decoder, tmp_path):
  found = opened.language_model('tiny', decoder)
  told = io.StringIO()
  run = Run(workdir=tmp_path, progress=Progress(stream=told))
  stage = stages.folder(format='float16', shard=1000, source=found)
  assert stage(found.net, run.child('folder')) is found.net
  path = tmp_path / 'files' / 'folder' / 'model'
  files = list(path.iterdir())
  assert len(files) > 10  # several shards
  row = run.rows[-1]
  assert row == dict(
    at='folder', kind='folder', summary=True, seeds=[0], format='float16', files=len(files),
    bytes=sum(file.stat().st_size for file in files), path='files/folder/model',
  )  # fmt: skip
  assert told.getvalue().strip() == f'float16, {row["bytes"]:,} bytes: {path}'
  again = opened.language_model(path)
  assert again.net.module == found.net.module
  assert tree.names(again.net.params) == tree.names(found.net.params)
  stage(found.net, Run(workdir=tmp_path).child('folder'))  # a run that goes on writes it anew
  assert sorted(path.iterdir()) == sorted(files)


def test_what_cannot_be_written_is_known_before_the_run(decoder):
  found = opened.language_model('tiny', decoder)
  with pytest.raises(UsageError, match="format='gguf' is unknown"):
    stages.folder(format='gguf', source=found)
  with pytest.raises(UsageError, match='folder is for language models'):
    stages.folder()
  with pytest.raises(UsageError, match='needs a workdir'):
    stages.folder(format='float16', source=found)(found.net, Run())
  with pytest.raises(UsageError, match='is one net: give one seed'):
    stages.folder(source=found)(found.net, Run(seeds=(0, 1)))
