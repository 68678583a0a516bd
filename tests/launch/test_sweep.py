"""A sweep prints lines that run, and runs one of them by index."""

import shlex


def test_a_sweep_prints_its_lines(launch):
  result = launch(
    '--config=configs/lottery/lenet.py:15k', '--workdir=runs/a b', '--config.lottery.rounds=2',
    module='launch.sweep',
  )  # fmt: skip
  lines = [shlex.split(line) for line in result.out.splitlines()]
  assert result.code == 0 and len(lines) == 20
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


def test_a_config_without_a_sweep(launch):
  result = launch('--config=configs/quickstart.py', '--workdir=x', module='launch.sweep')
  assert (result.code, result.lines) == (2, ['error: configs/quickstart.py has no sweep()'])
