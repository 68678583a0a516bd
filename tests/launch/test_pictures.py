"""The benchmark of convolutional networks: its arithmetic, by hand, and that it runs."""

import importlib
import json

import pytest

from launch.benchmarks.pace import OURS
from reduction.errors import UsageError

pictures = importlib.import_module('launch.benchmarks.pictures')  # the package has its function


def test_rows_by_hand():
  seconds = lambda *values: [dict(seconds=s) for s in values]
  replies = {(OURS, 0): seconds(5.0, 1.0, 2.0, 1.0), ('torch', 0): seconds(9.0, 2.0, 2.0, 4.0)}
  (row,) = pictures._rows('resnet20', 10, replies, steps=20, macs=10**7, limit=24.0)
  assert row['images_per_s'] == 200 and row['images_per_s_low'] == 100  # 10 x 20 in 1 and 2 s
  assert row['peer_images_per_s'] == 100 and row['ratio'] == 2 and row['ratio_low'] == 1
  assert row['compile_s'] == 4.0
  assert row['gflops'] == 12.0 and row['of_limit'] == 0.5  # 2 operations, forward and twice back
  table = pictures._table([row])
  assert table.rows[0][0] == 'resnet20' and '12 (50%)' in table.rows[0]


@pytest.mark.parametrize(
  'settings, says',
  [
    (dict(networks=dict(resnet=1)), "'resnet' is not one of resnet20"),
    (dict(networks=dict(conv2=0)), 'batch=0 of conv2'),
    (dict(sides=('tf',)), "side='tf' is not 'xla' or 'torch'"),
    (dict(steps=0), 'steps=0 and'),
  ],
)
def test_wrong_settings_are_refused(settings, says):
  good = dict(networks=dict(conv2=1), steps=1, repeats=1, sides=())
  with pytest.raises(UsageError, match=says):
    pictures.pictures(**{**good, **settings})


@pytest.mark.slow
def test_the_whole_of_it(launch, tmp_path):
  out = tmp_path / 'rows.jsonl'
  result = launch(
    '--config=configs/bench/conv.py:quick', '--config.pictures.steps=1', f'--out={out}',
    module='launch.bench',
  )  # fmt: skip
  assert result.code == 0, result.err
  head, row = map(json.loads, out.read_text().splitlines())
  assert head['config'] == 'configs/bench/conv.py:quick'
  assert row['network'] == 'conv2' and row['peer'] == 'xla' and row['images_per_s'] > 0
