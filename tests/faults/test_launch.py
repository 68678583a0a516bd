"""Faults of the command line and of a whole run. Numbers in brackets: the project's fault list."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

SMALL = ('--config=tests/faults/small.py',)
LONG = (*SMALL, '--config.lottery.steps=20000')


def rows(workdir):
  """The rows of a run, for comparison."""
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


@pytest.fixture(scope='module')
def untouched(launch, tmp_path_factory):
  """The rows of the small run that nothing disturbed."""
  workdir = tmp_path_factory.mktemp('untouched') / 'run'
  result = launch(*SMALL, f'--workdir={workdir}')
  assert result.code == 0, result.err
  return rows(workdir)


def check_one_line(result, code, *parts):
  """Asserts an exit code and one clear line on stderr that holds the parts."""
  assert result.code == code, result.err
  errors = [line for line in result.lines if line.startswith('error: ')]
  assert errors == result.lines[-1:] and 'Traceback' not in result.err, result.err
  for part in parts:
    assert part in errors[0], errors[0]


@pytest.mark.parametrize(
  'flags, parts',
  [
    (['--wrkdir=x'], ['Did you mean: workdir']),
    (['--config.lottery.round=3'], ["no key 'round'", 'Did you mean "rounds"']),
    (['--config.lottery.rounds=1.5'], ['config.lottery.rounds=1.5']),
    (['--config.lottery.optimizer.learning_rate=fast'], ['learning_rate=fast']),
    (['--config.lottery.optimizer.learning_rate=nan'], ['learning_rate=nan must be finite']),
    (['--config.lottery.optimizer.learning_rate=0.'], ['learning_rate=0.0 must be above 0']),
    (['--config.lottery.optimizer.name=adm'], ["Did you mean 'adam'"]),
    (['--config.lottery.steps=-5'], ['steps=-5 must be above 0']),
    (['--config.lottery.every=30'], ['every=30 must divide the 1000 steps']),
    (['--config.lottery.batch=0'], ['batch=0 must be above 0']),
    (['--config.lottery.rounds=-1'], ['rounds=-1']),
    (['--config.lottery.rates=(("kernel",1.),)'], ["rate 1.0 of 'kernel'", '[0, 1)']),
    (['--config.lottery.procedure=oneshot'], ["procedure='oneshot'"]),
    (['--mesh=64'], ['mesh 64 x 1 needs 64 devices, there are 4']),
    (['--mesh=2by2'], ["mesh '2by2' is not DATA or DATAxMODEL"]),
    (['--mesh=4', '--config.lottery.batch=30'], ['batch=30 does not divide', 'take 32']),
    (['--config.model.name=lnet'], ["config.model.name='lnet'", "Did you mean 'lenet'"]),
    (['--config.data.name=digit'], ["Did you mean 'digits'"]),
    (['--config.stages=("lotery",)'], ["config.stages names 'lotery'"]),
    (['--config.seeds=(1,1)'], ['seeds=(1, 1) must differ']),
    (['--platform=abacus'], ['--platform=abacus', 'cpu, gpu, tpu']),
  ],
)  # [19]
def test_a_wrong_value_is_one_line_and_exit_2(launch, tmp_path, flags, parts):
  workdir = tmp_path / 'run'
  result = launch('--config=configs/quickstart.py', f'--workdir={workdir}', *flags)
  check_one_line(result, 2, *parts)
  assert not (workdir / 'config.json').exists()  # a wrong config claims no workdir


@pytest.mark.parametrize(
  'text, parts',
  [
    (None, ['is not there']),
    ('def get_config(:\n', ['config.py', 'SyntaxError']),
    ('x = 1\ndef get_config():\n  return {}["a"]\n', ['config.py:3']),
    ('def get_config():\n  raise OSError("boom")\n', ['config.py:2', 'boom']),
    ('x = 1\n', ['get_config']),
    ('def get_config():\n  return 3\n', ['ConfigDict']),
  ],
)  # [20]
def test_a_config_file_that_is_none(launch, tmp_path, text, parts):
  path = tmp_path / 'config.py'
  if text is not None:
    path.write_text(text)
  check_one_line(launch(f'--config={path}', f'--workdir={tmp_path}/run'), 2, *parts)


@pytest.mark.parametrize('point', ['levels:0', 'train:0', 'train-saved:0', 'levels:1'])
def test_kill_9_then_the_same_line_gives_the_same_rows(launch, tmp_path, untouched, point):
  # [1, 2]: between a level's mask and its checkpoint, while saving, after it
  workdir = tmp_path / 'run'
  result = launch(*SMALL, f'--workdir={workdir}', env={'REDUCTION_CRASH_AT': point})
  assert result.code == -signal.SIGKILL
  assert launch(*SMALL, f'--workdir={workdir}').code == 0
  assert rows(workdir) == untouched
  whole = tmp_path / 'whole'
  if point == 'levels:0':  # what is left are the same bits, too
    assert launch(*SMALL, f'--workdir={whole}').code == 0
    nets = [
      {path.relative_to(folder): path.read_bytes() for path in (folder / 'nets').rglob('*.*')}
      for folder in (workdir, whole)
    ]
    assert nets[0] == nets[1] != {}


def test_kills_at_any_moment_change_nothing(launch, tmp_path, untouched):  # [1]
  workdir, delays = tmp_path / 'run', random.Random(0)
  for _ in range(4):
    (workdir / 'metrics.jsonl').unlink(missing_ok=True)
    child = launch.start(*SMALL, f'--workdir={workdir}')
    child.wait_for(workdir / 'metrics.jsonl')
    time.sleep(delays.uniform(0, 1.5))
    child.send(signal.SIGKILL)
    child.wait()
  assert launch(*SMALL, f'--workdir={workdir}').code == 0
  assert rows(workdir) == untouched


def test_a_loss_that_is_lost_stops_the_run(launch, tmp_path):  # [17]
  flags = [f'--workdir={tmp_path}/run', '--config.lottery.optimizer.learning_rate=1e30']
  parts = 'levels/0/ticket', 'no finite loss', 'before step ', 'seeds [0]', 'last losses ['
  parts += 'Lower the learning rate', 'the last checkpoint is from before'
  check_one_line(launch(*SMALL, *flags), 65, *parts)


@pytest.mark.parametrize('number, code', [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_how_to_go_on(launch, tmp_path, number, code):  # [3]
  workdir = tmp_path / 'run'
  child = launch.start(*LONG, f'--workdir={workdir}')
  child.wait_for(workdir / 'metrics.jsonl', '"step": 1000')
  child.send(number)
  result = child.wait()
  assert result.code == code, result.err
  assert 'finishing this index' in result.err and 'run the same line again' in result.lines[-1]
  saved = list((workdir / 'checkpoints').glob('*/carry/*'))
  assert saved
  (workdir / 'metrics.jsonl').unlink()
  child = launch.start(*LONG, f'--workdir={workdir}')
  child.wait_for(workdir / 'metrics.jsonl', '"step": 1000')
  before = rows(workdir)
  assert before[1]['step'] == 50  # restored rows first, then on from there
  child.send(signal.SIGKILL)
  child.wait()


@pytest.mark.parametrize('number, code', [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize('more', ['', ',train-saving:0@{}'])  # [3]; [4]: again when it would save
def test_what_goes_on_after_a_signal_ends_as_if_there_had_been_none(
  launch, tmp_path, untouched, number, code, more
):
  workdir, points = tmp_path / 'run', f'train:0@{int(number)}' + more.format(int(number))
  result = launch(*SMALL, f'--workdir={workdir}', env={'REDUCTION_CRASH_AT': points})
  assert result.code == code, result.err
  assert bool(list(workdir.glob('checkpoints/*/carry/[0-9]*'))) == (not more)
  assert launch(*SMALL, f'--workdir={workdir}').code == 0
  assert rows(workdir) == untouched


def test_a_second_signal_leaves_at_once(launch, tmp_path):  # [4]
  workdir = tmp_path / 'run'
  child = launch.start(
    *SMALL, '--config.lottery.steps=200000', '--config.lottery.every=20000',  # indices of a minute
    f'--workdir={workdir}',
  )  # fmt: skip
  child.wait_for(workdir / 'metrics.jsonl', '"start"')
  child.send(signal.SIGTERM)
  child.wait_for(child.folder / 'err', 'finishing this index')
  child.send(signal.SIGTERM)
  assert child.wait().code == 143
  assert not list(workdir.glob('checkpoints/*/carry/[0-9]*'))


def test_a_run_on_a_mesh_goes_on_with_the_same_bits(launch, tmp_path):
  mesh = '--mesh=2x2'
  assert launch(*SMALL, mesh, f'--workdir={tmp_path}/whole').code == 0
  crash = {'REDUCTION_CRASH_AT': 'levels:0'}
  cut = f'--workdir={tmp_path}/cut'
  assert launch(*SMALL, mesh, cut, env=crash).code == -signal.SIGKILL
  result = launch(*SMALL, mesh, cut)
  assert result.code == 0, result.err
  assert rows(tmp_path / 'cut') == rows(tmp_path / 'whole')


def test_a_full_disk_names_the_file_and_keeps_the_steps_before(launch, tmp_path, untouched):  # [5]
  workdir = tmp_path / 'run'
  crash = {'REDUCTION_CRASH_AT': 'levels:0'}
  assert launch(*SMALL, f'--workdir={workdir}', env=crash).code == -signal.SIGKILL
  # the ticket's training is saved; now no file may pass 6 kB
  result = launch(*SMALL, f'--workdir={workdir}', file_size=6_000)
  check_one_line(result, 74, 'cannot save', 'levels', 'bytes')
  assert launch(*SMALL, f'--workdir={workdir}').code == 0
  assert rows(workdir) == untouched


def test_a_changed_config_is_refused_with_the_difference(launch, tmp_path):  # [14]
  workdir = tmp_path / 'run'
  crash = {'REDUCTION_CRASH_AT': 'train:0'}
  launch(*SMALL, f'--workdir={workdir}', env=crash)
  again = [f'--workdir={workdir}', '--config.lottery.optimizer.learning_rate=2e-3']
  check_one_line(launch(*SMALL, *again), 2, 'learning_rate: 0.0012 there, 0.002 here')
  check_one_line(launch(*SMALL, f'--workdir={workdir}', '--config.model.widths=(21,)'), 2, 'widths')


def test_a_workdir_in_use_says_by_whom(launch, tmp_path):  # [15]
  workdir = tmp_path / 'run'
  first = launch.start(*SMALL, '--config.lottery.steps=200000', f'--workdir={workdir}')
  first.wait_for(workdir / 'metrics.jsonl')
  check_one_line(launch(*SMALL, f'--workdir={workdir}'), 75, f'process {first.pid} on ')
  first.send(signal.SIGKILL)
  first.wait()


def test_a_workdir_that_is_a_file(launch, tmp_path):  # [16]
  path = tmp_path / 'file'
  path.write_text('mine')
  check_one_line(launch(*SMALL, f'--workdir={path}'), 2, 'is a file')
  assert path.read_text() == 'mine'


def test_a_workdir_that_cannot_be_written(launch, tmp_path):  # [16]
  check_one_line(launch(*SMALL, '--workdir=/proc/reduction/run'), 74, '/proc/reduction')


@pytest.mark.parametrize(
  'name, env',
  [
    ('mit Umlauten äöü und Leerzeichen', {'LANG': 'C', 'LC_ALL': 'C'}),  # [16, 49]
    ('plain', {'NO_COLOR': '1', 'HOME': None, 'TERM': None, 'COLUMNS': '40'}),
    ('home', {'HOME': '/proc', 'XDG_CACHE_HOME': '/proc/none'}),  # a home that is read-only
  ],
)
def test_odd_surroundings(launch, tmp_path, untouched, name, env):
  workdir = tmp_path / name
  result = launch(*SMALL, f'--workdir={os.path.relpath(workdir)}', env=env)
  assert result.code == 0, result.err
  assert rows(workdir) == untouched
  assert '\x1b[' not in result.out + result.err  # no colours where there is no terminal


def test_time_that_jumps_back_changes_nothing(launch, tmp_path, untouched):  # [49]
  workdir = tmp_path / 'run'
  launch(*SMALL, f'--workdir={workdir}', env={'REDUCTION_CRASH_AT': 'levels:0'})
  for path in workdir.rglob('*'):
    os.utime(path, (0, 0))
  assert launch(*SMALL, f'--workdir={workdir}').code == 0
  assert rows(workdir) == untouched


@pytest.mark.parametrize('platform', ['gpu', 'tpu'])
def test_an_accelerator_that_is_not_there(launch, tmp_path, platform):  # [50]
  flags = [f'--workdir={tmp_path}/run', f'--platform={platform}']
  result = launch(*SMALL, *flags, env={'JAX_PLATFORMS': None})
  check_one_line(result, 66, f'finds no {platform}', '--platform=cpu')


@pytest.mark.slow
def test_a_damaged_compile_cache_is_compiled_again(tmp_path, untouched):  # [51]
  """In interpreters of their own: JAX reads where the cache is when it is imported."""
  cache = tmp_path / 'cache'

  def launched(name):
    return subprocess.run(
      [sys.executable, '-m', 'launch.run', *SMALL, f'--workdir={tmp_path / name}'],
      env=os.environ | {'JAX_COMPILATION_CACHE_DIR': str(cache)}, capture_output=True, text=True,
    )  # fmt: skip

  assert launched('first').returncode == 0
  entries = list(cache.glob('jit_*-cache'))
  assert entries
  for entry in entries:
    entry.write_bytes(b'garbage')
  result = launched('run')
  assert result.returncode == 0, result.stderr
  told = result.stderr + (tmp_path / 'run/run.log').read_text()
  assert 'Error reading persistent compilation cache' in told, told
  assert rows(tmp_path / 'run') == untouched


def test_data_that_changed_under_a_run_is_refused(launch, tmp_path):
  workdir = tmp_path / 'run'
  launch(*SMALL, f'--workdir={workdir}', env={'REDUCTION_CRASH_AT': 'levels:0'})
  record = workdir / 'data.json'
  changed = json.loads(record.read_text()) | {'digest': '0' * 16}
  record.write_text(json.dumps(changed))
  check_one_line(launch(*SMALL, f'--workdir={workdir}'), 2, 'other data')


def test_what_a_newcomer_sees(launch, tmp_path):
  workdir = tmp_path / 'run'
  short = '--config.seeds=(0,)', '--config.lottery.steps=200', '--config.model.widths=(20,)'
  result = launch('--config=configs/quickstart.py:quick', *short, f'--workdir={workdir}')
  assert re.search(r'digits: 1,297 training examples', result.err)
  assert 'WARNING' not in result.err + result.out
  table = result.out
  for text in ('100', 'reinit', 'early', 'student', f'{workdir}/report.html'):
    assert text in table, table
  names = {p.name for p in workdir.iterdir()}
  assert {'config.json', 'metrics.jsonl', 'run.log', 'report.md', 'report.html'} <= names
  assert 'INFO reduction.progress: digits: 1,297 training' in (workdir / 'run.log').read_text()
  assert any(name.startswith('events.out.tfevents') for name in names)
