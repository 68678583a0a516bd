"""A run that ends in a folder for other programs, and what its row and line say."""

import io

import numpy as np
import pytest

from reduction import opened, stages, tree
from reduction.cost import cost
from reduction.errors import UsageError
from reduction.models.served import Served
from reduction.net import Net
from reduction.progress import Progress
from reduction.qtensor import Scheme
from reduction.quantize.rtn import quantize
from reduction.run import Run, chain


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


def test_a_run_may_go_from_one_format_to_another(decoder, tmp_path):
  found = opened.language_model('tiny', decoder)
  kernels = lambda path, w: (
    quantize(np.asarray(w), Scheme(4, 16), dtype=np.float16)
    if path.startswith('layer') and path.endswith('kernel') else w
  )  # fmt: skip
  net = Net(Served(found.net.module), tree.map_named(kernels, found.net.params))
  run = Run(workdir=tmp_path / 'first')
  chain(folder=stages.folder(format='awq-gemm', dtype='float32', source=found))(net, run)
  first = opened.language_model(tmp_path / 'first' / 'files' / 'folder' / 'model')
  measured = []
  measure = lambda net, run: measured.append(cost(net, np.ones((1, 4), np.int32))) or measured[0]
  run = Run(workdir=tmp_path / 'second', measure=measure)
  chain(folder=stages.folder(dtype='float32', source=first))(first.net, run)
  second = opened.language_model(tmp_path / 'second' / 'files' / 'folder' / 'model')
  assert second.path.joinpath('config.json').read_text().count('pack-quantized') == 1
  for one in first.net, second.net:
    assert one.module == net.module
    pairs = zip(tree.leaves(one.params), tree.leaves(net.params), strict=True)
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)
  (row,) = measured  # the same net is not measured again
  assert row['bytes'] < cost(found.net, np.ones((1, 4), np.int32))['bytes']
  assert [row['stage'] for row in run.rows if row['kind'] == 'stage'] == ['start', 'folder']


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
