"""The lines of a config's sweep(): its paper's table or figure.

    python -m launch.sweep --config=configs/lottery/lenet.py --workdir=runs/lenet          # print
    python -m launch.sweep --config=... --workdir=... --run                                # run all
    python -m launch.sweep --config=... --workdir=... --index=$SLURM_ARRAY_TASK_ID         # run one

sweep() yields dicts of overrides, {'seeds': (0,), 'lottery.rounds': 5}; the key 'variant' adds to
the config's variant. Each line has a workdir of its own under --workdir, named by its index. Other
flags (--data_dir, --platform, --config.KEY=VALUE) go to every line.
"""

import importlib.util
import os
import pathlib
import shlex
import subprocess
import sys

from absl import flags

from launch import cli
from reduction.errors import UsageError, require

FLAGS = flags.FLAGS
cli.define('config', 'workdir', 'data_dir', 'platform')
flags.DEFINE_bool('run', False, 'Run the lines, one after another; those that ended are skipped.')
flags.DEFINE_integer('index', None, 'Run this line alone, counted from 0.')
OWN = ('--run', '--norun', '--index', '--workdir')


def overrides(path: str) -> list[dict]:
  """What the sweep() of a config file yields. Raises UsageError where it has none."""
  spec = importlib.util.spec_from_file_location('swept', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  require(hasattr(module, 'sweep'), f'{path} has no sweep()')
  return list(module.sweep())


def line(override: dict, workdir: pathlib.Path, passed: list[str]) -> list[str]:
  """The command of one line of a sweep."""
  override = dict(override)
  if variant := override.pop('variant', ''):
    named = [i for i, flag in enumerate(passed) if flag.startswith('--config=')][-1]
    passed = list(passed)
    passed[named] += (',' if ':' in passed[named] else ':') + variant
  changes = [f'--config.{key}={value}' for key, value in override.items()]
  return ['python', '-m', 'launch.run', *passed, *changes, f'--workdir={workdir}']


def main(argv):
  del argv
  cli.config()  # a wrong flag shows before anything runs
  require(FLAGS.workdir, '--workdir is needed: the folder under which each line has its own')
  passed = [a for a in sys.argv[1:] if a.split('=')[0] not in OWN]
  lines = [
    line(override, pathlib.Path(FLAGS.workdir) / f'{index:03}', passed)
    for index, override in enumerate(overrides(cli.config_path()))
  ]
  if FLAGS.index is None and not FLAGS.run:
    print('\n'.join(map(shlex.join, lines)))
    return
  if FLAGS.index is not None:
    if not 0 <= FLAGS.index < len(lines):
      raise UsageError(f'--index={FLAGS.index} is not one of 0 to {len(lines) - 1}')
    _, *rest = lines[FLAGS.index]
    os.execv(sys.executable, [sys.executable, *rest])
  codes = []
  for index, (_, *rest) in enumerate(lines):
    print(f'[{index + 1}/{len(lines)}] python {shlex.join(rest)}', file=sys.stderr, flush=True)
    codes.append(subprocess.run([sys.executable, *rest]).returncode)
    if codes[-1] in (130, 143):
      sys.exit(codes[-1])
  failed = [str(index) for index, code in enumerate(codes) if code]
  if failed:
    print(f'error: lines {", ".join(failed)} failed; run them again', file=sys.stderr)
  sys.exit(max(codes, default=0))


if __name__ == '__main__':
  cli.run(main)
