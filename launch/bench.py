"""Benchmarks of a config: python -m launch.bench --config=configs/bench/lenet.py [--out=rows.jsonl]

`config.benches` names functions of `launch.benchmarks`; each has its settings beside it, and
`config.tables` and `config.figures` say how rows are reported, as in the config of a run. Nothing
here fails because something was slow: it prints what it measured.
"""

import json
import os
import platform
import sys
import time

from absl import flags

from launch import cli

FLAGS = flags.FLAGS
cli.define('config', 'data_dir')
flags.DEFINE_string('out', None, 'Write a header and the rows here.')
flags.DEFINE_string('peer_python', sys.executable, 'The Python that has the peers, such as torch.')


def build(config: dict) -> dict:
  """name -> bench, in order; every wrong value raises UsageError here."""
  from launch import benchmarks
  from reduction import report
  from reduction.config import call
  from reduction.errors import require

  report.check(config)
  known = {'title', 'benches', 'figures', 'tables', *config['benches']}
  for key in config:
    require(key in known, f'config.{key} is no part of a benchmark, nor in config.benches')
  for name in config['benches']:
    require(name in config, f'config.benches names {name!r}, but there is no config.{name}')
  return {name: call(benchmarks, config[name], name, key='bench') for name in config['benches']}


def run(config: dict, session) -> list[dict]:
  """Runs and shows every benchmark of a canonical config; returns their rows."""
  from reduction import report

  rows = []
  load, cores = os.getloadavg()[0], os.cpu_count()
  if load > 0.5:
    session.say(f'load {load:.1f} on {cores} cores: other work runs, trust only ratios')
  for name, bench in build(config).items():
    new, tables = bench(session)
    rows += [dict(row, at=name, load=round(load, 2)) for row in new]
    for table in tables:
      cli.show(table)
  for table in report.pivots(rows, config):
    cli.show(table)
  return rows


def header(config: dict, seconds: float) -> dict:
  """The first line of a file of rows: what ran here, on what, how long."""
  import importlib.metadata

  from launch.benchmarks.sides import TOLD
  from launch.report import header_of
  from reduction.kernels import native

  versions = {name: importlib.metadata.version(name) for name in ('jax', 'flax', 'optax', 'numpy')}
  hardware, has = cli.hardware(), native.instructions()
  session = dict(
    seconds=seconds, command=cli.command(),
    hardware=f'{hardware} with {has}' if has and hardware.endswith('cpu') else hardware,
    versions=dict(python=platform.python_version(), **versions, **TOLD),
  )  # fmt: skip
  return header_of(config, [session])


def main(argv):
  del argv
  from launch.benchmarks.sides import Session
  from reduction.checkpoint import write_atomic

  config, began = cli.config(), time.monotonic()
  say = lambda line: print(line, file=sys.stderr, flush=True)
  rows = run(config, Session(FLAGS.data_dir, FLAGS.peer_python, say))
  if FLAGS.out:
    lines = [header(config, time.monotonic() - began), *rows]
    write_atomic(FLAGS.out, ''.join(json.dumps(line) + '\n' for line in lines))


if __name__ == '__main__':
  cli.run(main)
