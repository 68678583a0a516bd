"""--help tells what each command line does, and its flags."""

import pytest


@pytest.mark.parametrize(
  'module, says',
  [('run', '--config: The experiment'), ('sweep', '--index: Run this line alone'),
   ('report', '--readme: Replace the marked results'), ('bench', '--out: Write a header'),
   ('chat', '--temperature: Of the draw'), ('federate', '--keys: A folder'),
   ('local', '--num_processes: How many')],
)  # fmt: skip
def test_help_is_the_docstring_and_the_flags(launch, module, says):
  done = launch('--help', module=f'launch.{module}')
  assert done.code == 0 and not done.err
  assert f'python -m launch.{module}' in done.out and says in done.out
  assert '--verbosity' not in done.out  # nor any other flag of absl's own
