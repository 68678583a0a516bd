"""The teaching benchmark: its arithmetic, by hand, and that it runs."""

import importlib
import json

import pytest

from launch.benchmarks.pace import OURS
from reduction.errors import UsageError

teaching = importlib.import_module('launch.benchmarks.teaching')  # the package has its function


def test_rows_by_hand():
  seconds = lambda *values: [dict(seconds=s) for s in values]
  replies = {(side, i): seconds(9.0, *times) for side, i, times in (
    (OURS, 0, (2.0, 2.0)), (OURS, 1, (1.0, 1.0)), (OURS, 2, (1.1, 1.2)),
    ('torch', 0, (4.0, 6.0)), ('torch', 1, (2.0, 2.0)), ('torch', 2, (3.3, 3.6)),
  )}  # fmt: skip
  settings = dict(teacher=(100, 10), student=(10,), batch=50)
  teacher, hard, soft = teaching.compare(replies, settings, steps=20, limit=1.0)
  assert teacher['steps_per_s'] == 10 and teacher['ratio_low'] == 2 and teacher['ratio_high'] == 3
  assert hard['peer'] == 'torch' and hard['peer_steps_per_s'] == 10 and 'extra' not in hard
  # 784 x 100, 100 x 10, 10 x 10; forward, every weight, every input but the images
  work = 2 * 50 * (3 * (78_400 + 1_000 + 100) - 78_400)
  assert teacher['gflops'] == round(work * 10 / 1e9, 1)
  assert soft['extra_low'] == pytest.approx(0.1) and soft['extra_high'] == pytest.approx(0.2)
  table = teaching.table([teacher, hard, soft])
  assert [row[0] for row in table.rows] == ['teacher', 'hard', 'soft']
  assert table.rows[2][-1].startswith('+15.0%')


@pytest.mark.parametrize(
  'settings, says', [(dict(steps=0), 'steps=0 and'), (dict(peers=('jax',)), "'jax' is not one of")]
)
def test_wrong_settings_are_refused(settings, says):
  good = dict(teacher=(4,), student=(4,), batch=2, steps=1, repeats=1, peers=())
  with pytest.raises(UsageError, match=says):
    teaching.teaching(**{**good, **settings})


@pytest.mark.slow
def test_the_whole_of_it(launch, tmp_path):
  out = tmp_path / 'rows.jsonl'
  result = launch('--config=configs/bench/distill.py:quick', f'--out={out}', module='launch.bench')
  assert result.code == 0, result.err
  head, *rows = map(json.loads, out.read_text().splitlines())
  assert head['config'] == 'configs/bench/distill.py:quick'
  assert [row['lesson'] for row in rows] == ['teacher', 'hard', 'soft']
  assert all(row['steps_per_s'] > 0 for row in rows) and 'extra' in rows[2]
