"""`python -m launch.deploy`: a table first, a folder, one line and a code for what is wrong."""

import pytest


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
  again = launch(f'--model={workdir}', f'--out={workdir}', module='launch.deploy')
  assert again.code == 2 and 'was not written by this command' in again.err
  assert (workdir / 'config.json').is_file()


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
