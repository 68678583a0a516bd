"""A sweep prints lines that run, and runs one of them by index."""

import shlex

import pytest


def test_a_sweep_prints_its_lines(launch):
  result = launch(
    '--config=configs/lottery/lenet.py:15k', '--workdir=runs/a b', '--config.lottery.rounds=2',
    module='launch.sweep',
  )  # fmt: skip
  lines = [shlex.split(line) for line in result.out.splitlines()]
  assert result.code == 0 and len(lines) == 21
  assert lines[6] == [
    'python', '-m', 'launch.run', '--config=configs/lottery/lenet.py:15k,one_shot',
    '--config.lottery.rounds=2', '--config.seeds=(1,)', '--workdir=runs/a b/006',
  ]  # fmt: skip


def test_one_line_by_index(launch, tmp_path):
  path = tmp_path / 'config.py'
  path.write_text(
    'from configs.quickstart import get_config as whole\n'
    'def get_config(variant=""):\n  return whole("quick")\n'
    'def sweep():\n  for s in 0, 1:\n    yield {"seeds": (s,), "lottery.steps": 50}\n'
  )
  flags = [f'--config={path}', f'--workdir={tmp_path}/runs']
  result = launch(*flags, '--index=1', module='launch.sweep', env={'PYTHONPATH': '.'})
  assert result.code == 0, result.err
  assert '"seeds": [1]' in (tmp_path / 'runs/001/metrics.jsonl').read_text()
  assert not (tmp_path / 'runs/000').exists()
  result = launch(*flags, '--index=7', module='launch.sweep')
  assert (result.code, result.lines) == (2, ['error: --index=7 is not one of 0 to 1'])


@pytest.mark.slow
def test_all_lines_one_after_another(launch, tmp_path):
  """--run goes on after a line that failed and says which; run again, it does that alone."""
  path = tmp_path / 'config.py'
  path.write_text(
    'from configs.quickstart import get_config as whole\n'
    'def get_config(variant=""):\n  return whole("quick")\n'
    'def sweep():\n  for batch in 0, 60:\n    yield {"seeds": (0,), "lottery.batch": batch}\n'
  )
  flags = [f'--config={path}', f'--workdir={tmp_path}/runs', '--run']
  result = launch(*flags, module='launch.sweep', env={'PYTHONPATH': '.'})
  assert result.code == 2, result.err
  assert 'batch=0 must be above 0' in result.err
  assert result.lines[-1] == 'error: lines 0 failed; run them again'
  ended = [(tmp_path / f'runs/{line:03}/report.html').is_file() for line in range(2)]
  assert ended == [False, True]
  before = (tmp_path / 'runs/001/metrics.jsonl').read_text()
  launch(*flags, module='launch.sweep', env={'PYTHONPATH': '.'})
  assert (tmp_path / 'runs/001/metrics.jsonl').read_text() == before


def test_a_config_without_a_sweep(launch):
  result = launch('--config=configs/quickstart.py', '--workdir=x', module='launch.sweep')
  assert (result.code, result.lines) == (2, ['error: configs/quickstart.py has no sweep()'])
