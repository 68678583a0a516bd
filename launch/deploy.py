"""Writes a net's C for a board: python -m launch.deploy --model=FILE.tflite --out=build/net

--model is an int8 .tflite file, or a workdir of launch.run, whose last net is quantized on its
training images; the integer net lies beside the C as net.tflite. First it prints what each layer
takes; a net that does not fit is exit code 2.
"""

import pathlib

from absl import flags

from launch import cli

FLAGS = flags.FLAGS
cli.define('platform', 'data_dir')
flags.DEFINE_string('model', None, 'An int8 .tflite file, or a workdir of launch.run.')
flags.DEFINE_string('board', 'stm32f746', 'For which board; it says how much memory there is.')
flags.DEFINE_string('out', None, 'The folder to write; an older one is replaced.')
flags.DEFINE_bool('exact', False, 'Look for the least arena (small nets).')
flags.DEFINE_integer('patches', 0, 'The first layers in so many by so many patches; 0: whole.')
IMAGES = 256  # that show the ranges


def graph_of(path: pathlib.Path, data_dir: str | None):
  """The integer network of a .tflite file or a workdir. Raises MissingInput and as readers do."""
  from reduction.mcu import reader

  return _from_workdir(path, data_dir) if path.is_dir() else reader.read(path)


def _from_workdir(path, data_dir):
  from reduction import checkpoint, data, models, saved
  from reduction.config import call, canonical
  from reduction.errors import MissingInput
  from reduction.mcu.from_flax import convert

  if not (path / 'config.json').is_file():
    raise MissingInput(f'{path} is no workdir of launch.run: it has no config.json')
  config = canonical(checkpoint.read_json(path / 'config.json'))
  there = [n for n in config['stages'] if (path / 'nets' / n).is_dir()]
  if not there:
    raise MissingInput(f'no stage of {path} has returned a net yet')
  net = saved.read(path / 'nets' / there[-1], models)
  images = call(data, config['data'], 'data', data_dir=data_dir).train.x[:IMAGES]
  return convert(net, images, name=path.name)


def table(made):
  """What each layer takes, and the whole net."""
  from reduction.report.tables import Table

  number = lambda n: '-' if n is None else f'{n:,}'
  columns = 'layer', 'op', 'multiply-adds', 'Flash', 'RAM', 'instructions'
  total = made.total
  rows = [
    (r['name'], r['op'], *(number(r[k]) for k in ('macs', 'flash', 'ram', 'instructions')))
    for r in made.layers
  ]
  rows.append((
    'in all', f'{len(made.layers)} layers', number(total['macs']), number(total['constants']),
    number(total['arena']), number(total['instructions']),
  ))  # fmt: skip
  note = f'Bytes. RAM: the arena; no schedule needs less than {total["lower_bound"]:,}.'
  if made.work > 1:
    note += f' In patches: {made.work:.2f} times the multiply-adds.'
  if total['flash']:
    note += f' With the program around it: {total["flash"]:,} of Flash, {total["ram"]:,} of RAM.'
  return Table(f'{made.graph.name} on {total["board"]}', columns, tuple(rows), note)


def page(made, shown) -> str:
  """The report of a folder: the table, and a picture of memory over time."""
  from reduction.report import memory
  from reduction.report.page import html

  total = made.total
  rows = [dict(kind='layer', **row) for row in made.layers]
  rows += [dict(kind='tensor', **row) for row in made.tensors]
  figures = memory.draw([*rows, dict(kind='microcontroller', **total)])
  tiles = [(f'{total["arena"]:,} B', 'arena'), (f'{total["lower_bound"]:,} B', 'its lower bound')]
  told = dict(constants=f'{total["constants"]:,} B', board=total['board'], core=total['core'])
  if total['instructions']:
    tiles.append((f'{total["instructions"]:,}', 'instructions, emulated'))
  if total['flash']:
    tiles.append((f'{total["flash"]:,} B', 'Flash, with the program'))
  lead = f'{total["layers"]} layers, {total["macs"]:,} multiply-adds'
  return html(shown.title, lead, told, tiles, [shown], figures, {}, before=0)


def main(argv):
  del argv
  from reduction import checkpoint
  from reduction.errors import require
  from reduction.mcu import boards, host, writer
  from reduction.mcu.deploy import deploy, fits

  require(FLAGS.model, '--model is needed: an int8 .tflite file, or a workdir of launch.run')
  require(FLAGS.out, '--out is needed: the folder to write, such as build/net')
  board, out = boards.board(FLAGS.board), pathlib.Path(FLAGS.out)
  ours = not out.exists() or (out.is_dir() and {p.name for p in out.iterdir()} >= {'board.ld'})
  require(ours, f'--out={out} is there and was not written by this command; name a new folder')
  cli.set_platform(FLAGS.platform)
  graph = graph_of(pathlib.Path(FLAGS.model), FLAGS.data_dir)
  made = deploy(graph, board, exact=FLAGS.exact, patches=FLAGS.patches)
  shown = table(made)
  cli.show(shown)
  fits(made)
  file, why = writer.attempt(graph)
  with checkpoint.whole_folder(out) as folder:
    host.write(made.source._replace(files=made.files), folder)
    (folder / 'report.html').write_text(page(made, shown), encoding='utf-8')
    if file:
      (folder / 'net.tflite').write_bytes(file)
  print(f'\nWritten: {out}' + (f', without a .tflite file: {why}' if why else ''))


if __name__ == '__main__':
  cli.run(main)
