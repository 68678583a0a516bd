"""A net that is there, written in C for a board: what `launch.run` does with a config that has a
board, which is configs/mcu/deploy.py.
"""

import contextlib
import pathlib

from launch import cli

NAME = 'c'


def check(config: dict):
  """Raises UsageError unless a canonical config has the parts of such a job, and no others."""
  from reduction import report
  from reduction.errors import require

  needed = dict(model=str, board=str, images=int, exact=bool, patches=int)
  for key, kind in needed.items():
    given = config.get(key)
    require(type(given) is kind, f'config.{key}={given!r} must be of {kind.__name__}')
  for key in config:
    require(key in (*needed, 'tables', 'title'), f'config.{key} is no part of a deployment')
  hint = 'an int8 .tflite file, or a workdir of launch.run'
  require(config['model'], f'--config.model is needed: {hint}')
  require(config['images'] > 0, f'config.images={config["images"]} must be above 0')
  require(config['patches'] >= 0, f'config.patches={config["patches"]} must not be below 0')
  report.check(config)


def run(config: dict, workdir: pathlib.Path, data_dir: str | None = None):
  """Shows what a canonical config's net takes on its board, then writes it into files/c of workdir.

  Raises UsageError where it does not fit; then workdir is as it was.
  """
  from reduction import report
  from reduction.config import claim
  from reduction.mcu import boards, writer
  from reduction.mcu.deploy import deploy, fits, rows, write
  from reduction.rows import Sinks
  from reduction.run import Run

  check(config)
  board = boards.board(config['board'])
  graph = graph_of(pathlib.Path(config['model']), config['images'], data_dir)
  made = deploy(graph, board, exact=config['exact'], patches=config['patches'])
  found = [*rows(made), dict(kind='microcontroller', summary=True, **made.total)]
  for table in report.pivots(found, config):
    cli.show(table)
  fits(made)
  claim(workdir, config)
  file, why = writer.attempt(graph)
  with contextlib.closing(Sinks(workdir)) as sinks:
    run_ = Run(workdir=workdir, sinks=sinks)
    for row in found:
      run_.log(**row)
    with run_.write(NAME) as folder:
      write(made, folder, file)
  without = f', without a .tflite file: {why}' if why else ''
  print(f'\nWritten: {workdir / "files" / NAME}{without}')


def graph_of(path: pathlib.Path, images: int, data_dir: str | None):
  """The integer network of a .tflite file or a workdir. Raises MissingInput and as readers do.

  images: training examples that show a workdir's net its ranges.
  """
  from reduction.mcu import reader

  return _from_workdir(path, images, data_dir) if path.is_dir() else reader.read(path)


def _from_workdir(path, images, data_dir):
  from reduction import checkpoint, data, models, saved
  from reduction.config import call, canonical
  from reduction.errors import MissingInput
  from reduction.mcu.from_flax import convert

  if not (path / 'config.json').is_file():
    raise MissingInput(f'{path} is no workdir of launch.run: it has no config.json')
  config = canonical(checkpoint.read_json(path / 'config.json'))
  there = [n for n in config.get('stages', ()) if (path / 'nets' / n).is_dir()]
  if not there:
    raise MissingInput(f'no stage of {path} has returned a net yet')
  net = saved.read(path / 'nets' / there[-1], models)
  seen = call(data, config['data'], 'data', data_dir=data_dir).train.x[:images]
  return convert(net, seen, name=path.name)
