"""configs/mcu/deploy.py: tables first, a folder, one line and a code for what is wrong."""

import pytest

from reduction.mcu import measure
from tests.mcu import nets

CONFIG = '--config=configs/mcu/deploy.py'


def deploy(launch, workdir, model, board, variant='', **given):
  """What deploying a model gave."""
  more = [f'--config.{key}={value}' for key, value in given.items()]
  arguments = f'--config.model={model}', f'--config.board={board}', f'--workdir={workdir}'
  return launch(CONFIG + variant, *arguments, *more)


def test_a_workdir_becomes_a_folder_of_c(launch, tmp_path):
  workdir, out = tmp_path / 'run', tmp_path / 'out'
  run = launch(
    '--config=configs/mcu/digits.py:quick', f'--workdir={workdir}', '--config.train.steps=50',
  )  # fmt: skip
  assert run.code == 0, run.err
  made = deploy(launch, out, workdir, 'stm32f412')
  assert made.code == 0, made.err
  assert made.out.index('By layer') < made.out.index('stm32f412') < made.out.index('Written: ')
  folder = out / 'files' / 'c'
  assert (folder / 'run.c').is_file() and (folder / 'board.ld').is_file()
  file = folder / 'net.tflite'
  assert file.is_file() or 'without a .tflite file: reading .tflite files needs' in made.out
  assert 'Memory over time' in (out / 'report.html').read_text()
  assert 'Memory over time' in (workdir / 'report.html').read_text()
  kept = (workdir / 'metrics.jsonl').read_text()
  again = deploy(launch, workdir, workdir, 'stm32f412')
  assert again.code == 2 and 'was used with another config' in again.err
  assert (workdir / 'metrics.jsonl').read_text() == kept


def test_what_does_not_fit_is_shown_then_refused(launch, tmp_path):
  nets.shipped('te_vww')
  out, model = tmp_path / 'out', nets.SHIPPED['te_vww']
  done = deploy(launch, out, model, 'nrf52832')
  assert done.code == 2 and not (out / 'files').exists() and not (out / 'config.json').exists()
  assert 'By layer' in done.out and 'nrf52832' in done.out  # the tables
  says = 'its arena of 77,046 bytes is 13,558 more than 65,536 less a stack of 2,048'
  assert says in done.err and 'the largest layer is' in done.err


@pytest.mark.slow
def test_patches_make_the_arena_fit(launch, tmp_path):
  nets.shipped('te_vww')
  small = deploy(launch, tmp_path, nets.SHIPPED['te_vww'], 'nrf52832', ':patches')
  assert 'multiply-adds, times as many' in small.out and 'arena' not in small.err  # that fits now
  if not measure.missing():  # the linker knows of the code too
    assert small.code == 2 and 'FLASH is' in small.err and 'the largest layer is' in small.err


@pytest.mark.parametrize(
  'model, given, code, says',
  [('', {}, 2, '--config.model is needed'), ('x', dict(board='z'), 2, "board 'z' is not known"),
   ('x', dict(images=0), 2, 'config.images=0 must be above 0'),
   ('x', dict(patches=-1), 2, 'config.patches=-1 must not be below 0'),
   ('/nothing.tflite', {}, 66, '/nothing.tflite is not there')],
)  # fmt: skip
def test_mistakes_are_one_line(launch, tmp_path, model, given, code, says):
  done = deploy(launch, tmp_path, model, **{'board': 'stm32f746', **given})
  assert done.code == code and says in done.err
  assert done.err.count('\n') == 1


def test_the_digits_net_has_the_parts_of_a_run_and_the_job_others(tmp_path):
  from configs.mcu import deploy as config
  from launch import deploy as job
  from reduction.config import canonical
  from reduction.errors import UsageError

  for variant in '', 'patches':
    given = canonical(config.get_config(variant))
    job.check(given | dict(model='x'))
  with pytest.raises(UsageError, match=r'config\.seeds is no part of a deployment'):
    job.check(given | dict(model='x', seeds=(0,)))
  with pytest.raises(UsageError, match=r'config\.exact=None must be of bool'):
    job.check({k: v for k, v in given.items() if k != 'exact'})
