"""The benchmark of packed products: its arithmetic, by hand, and that it runs."""

import importlib
import json

import pytest

from reduction.errors import UsageError
from reduction.kernels import native

packed = importlib.import_module('launch.benchmarks.packed')


def test_rows_by_hand():
  replies = lambda *seconds, size=10**6: [dict(seconds=s, bytes=size) for s in seconds]
  found = {kind: replies(2e-3, 4e-3, 2e-3) for kind in packed.KINDS}
  found |= {'read': replies(1e-3, 1e-3, 2e-3), 'torch int4': replies(4e-3, 4e-3, 8e-3)}
  rows = packed.compare(dict(rows=8, columns=4, count=1), found)
  assert [row['product'] for row in rows] == list(packed.KINDS)
  first = rows[0]
  assert first['read_gb_per_s'] == 1 and first['of_read'] == 0.5 and first['s'] == 2e-3
  assert first['peer'] == 'torch int4' and first['ratio'] == 2 and first['ratio_low'] == 1
  assert 'peer' not in rows[1] and len(packed.table(rows, dict(group=8)).rows) == 5


@pytest.mark.parametrize(
  'settings, says', [(dict(bytes=0), 'bytes=0'), (dict(peers=('jax',)), "'jax' is not one of")]
)
def test_wrong_settings_are_refused(settings, says):
  good = dict(shapes=((64, 8),), rows_of_x=(1,), group=64, bytes=1, repeats=1, peers=())
  with pytest.raises(UsageError, match=says):
    packed.packed(**{**good, **settings})


@pytest.mark.slow
@pytest.mark.skipif(not native.ready(), reason='no C++ compiler')
def test_the_whole_of_it(launch, tmp_path):
  out = tmp_path / 'rows.jsonl'
  result = launch('--config=configs/bench/packed.py:quick', f'--out={out}', module='launch.bench')
  assert result.code == 0, result.err
  _, *rows = map(json.loads, out.read_text().splitlines())
  assert [row['product'] for row in rows] == list(packed.KINDS)
  assert all(row['s'] > 0 and row['of_read'] > 0 for row in rows)
