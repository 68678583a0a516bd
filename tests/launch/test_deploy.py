"""`python -m launch.deploy`: a table first, a folder, one line and a code for what is wrong."""

import pytest

from reduction.mcu import measure
from tests.mcu import nets


def test_a_workdir_becomes_a_folder_of_c(launch, tmp_path):
  workdir, out = tmp_path / 'run', tmp_path / 'c'
  run = launch(
    '--config=configs/mcu/deploy.py:quick', f'--workdir={workdir}', '--config.train.steps=50',
  )  # fmt: skip
  assert run.code == 0, run.err
  made = launch(f'--model={workdir}', f'--out={out}', '--board=stm32f412', module='launch.deploy')
  assert made.code == 0, made.err
  assert 'run on stm32f412' in made.out and 'no schedule needs less than' in made.out
  assert (out / 'run.c').is_file() and (out / 'board.ld').is_file()
  file = out / 'net.tflite'
  assert file.is_file() or 'without a .tflite file: reading .tflite files needs' in made.out
  assert 'Memory over time' in (out / 'report.html').read_text()
  assert 'Memory over time' in (workdir / 'report.html').read_text()
  again = launch(f'--model={workdir}', f'--out={workdir}', module='launch.deploy')
  assert again.code == 2 and 'was not written by this command' in again.err
  assert (workdir / 'config.json').is_file()


def test_what_does_not_fit_is_shown_then_refused(launch, tmp_path):
  nets.shipped('te_vww')
  out, model = tmp_path / 'c', nets.SHIPPED['te_vww']
  done = launch(f'--model={model}', f'--out={out}', '--board=nrf52832', module='launch.deploy')
  assert done.code == 2 and not out.exists()
  assert 'te_vww on nrf52832' in done.out and 'in all' in done.out  # the table
  says = 'its arena of 77,046 bytes is 13,558 more than 65,536 less a stack of 2,048'
  assert says in done.err and 'the largest layer is' in done.err


@pytest.mark.slow
def test_patches_make_the_arena_fit(launch, tmp_path):
  nets.shipped('te_vww')
  out, model = tmp_path / 'c', nets.SHIPPED['te_vww']
  small = launch(
    f'--model={model}', f'--out={out}', '--board=nrf52832', '--patches=4', module='launch.deploy'
  )
  assert 'In patches: 1.0' in small.out and 'arena' not in small.err  # that fits now
  if not measure.missing():  # the linker knows of the code too
    assert small.code == 2 and 'FLASH is' in small.err and 'the largest layer is' in small.err


@pytest.mark.parametrize(
  'arguments, code, says',
  [(['--out=x'], 2, '--model is needed'), (['--model=x'], 2, '--out is needed'),
   (['--model=x', '--out=y', '--board=z'], 2, "board 'z' is not known"),
   (['--model=/nothing.tflite', '--out=y'], 66, '/nothing.tflite is not there')],
)  # fmt: skip
def test_mistakes_are_one_line(launch, tmp_path, arguments, code, says):
  done = launch(*arguments, module='launch.deploy')
  assert done.code == code and says in done.err
  assert done.err.count('\n') == 1
