"""A folder ready for a board: the C, a Makefile, a README, a host's test; and what it costs."""

import pathlib
import re
from typing import NamedTuple

from reduction.errors import UsageError, require
from reduction.mcu import accounts, boards, emit, host, measure
from reduction.mcu.graph import Graph
from reduction.mcu.overlap import Style
from reduction.mcu.patches import best
from reduction.mcu.plan import Plan, live, plan

FILE = 'net.tflite'
MARK = re.compile(r' \[\d+, \d+\]$')  # of a patch


class Deployed(NamedTuple):
  """files: name -> text. layers: a row for each op. tensors: where each lies when. total: the row
  of the whole net. problem: why it does not fit, or None; then nothing was measured. work: how many
  times the multiply-adds of the net, which patches do in part twice.
  """

  graph: Graph
  plan: Plan
  work: float
  source: emit.Source
  files: dict[str, str]
  layers: list[dict]
  tensors: list[dict]
  total: dict
  problem: str | None


def deploy(
  graph: Graph, board: boards.Board, *, exact: bool = False, patches: int = 0
) -> Deployed:
  """Plans and writes a net for a board, and measures it where the tools are installed.

  patches: the first layers in so many by so many patches, where that takes less memory; 0: none.
  What does not fit is planned and written too, and `fits` says by how much and which layer.
  """
  cut = best(graph, Style(), sides=(patches,)) if patches else None
  graph, work = (cut.graph, cut.work) if cut else (graph, 1.0)
  made = plan(graph, Style(), exact=exact)
  source = emit.emit(graph, made)
  held = [live(graph, made, i) for i in range(len(graph.ops))]
  problem, measured = _problem(graph, made, source, board, held), None
  if not problem and not measure.missing():
    try:
      measured = measure.measure(source, core=board.core, board=board)
    except UsageError as error:  # constants fit, the code beside them does not
      problem = f'{graph.name} does not fit {board.name}: {error}; {_largest(graph)}'
  layers = _layers(graph, held, measured)
  total = dict(
    board=board.name, core=board.core, layers=len(layers), macs=sum(r['macs'] for r in layers),
    work=round(work, 3), arena=made.peak, lower_bound=made.bound, constants=source.constants,
    flash=measured and measured.flash, ram=measured and measured.ram,
    instructions=measured and measured.instructions,
    energy_uj=round(accounts.microjoules(graph, source.constants), 4),
  )  # fmt: skip
  files = _files(graph, source, board, total)
  return Deployed(graph, made, work, source, files, layers, tensors(graph, made), total, problem)


def _layers(graph, held, measured) -> list[dict]:
  """A row for each op; what patches repeat is one."""
  rows = {}
  for i, (op, home) in enumerate(zip(graph.ops, emit.homes(graph))):
    row = rows.setdefault(MARK.sub('', op.name) if MARK.search(op.name) else i, dict(
      layer=len(rows), name=emit.comment(MARK.sub('', op.name)), op=op.kind, times=0, macs=0,
      flash=0, ram=0, instructions=0 if measured else None,
    ))  # fmt: skip
    row['times'] += 1
    row['macs'] += graph.macs(op)
    row['flash'] += graph.constants(op) if home == i else 0
    row['ram'] = max(row['ram'], held[i])
    if measured:
      row['instructions'] += measured.layers[i]
  return list(rows.values())


def fits(made: Deployed):
  """Raises UsageError where it does not fit its board."""
  require(made.problem is None, made.problem or '')


def write(made: Deployed, folder: pathlib.Path, file: bytes | None):
  """Fills folder with the C of a net, and with its .tflite file where there is one."""
  host.write(made.source._replace(files=made.files), folder)
  if file:
    (folder / FILE).write_bytes(file)


def rows(made: Deployed) -> list[dict]:
  """A row 'layer' for each, 'tensor' for where each lies when."""
  layers = [dict(kind='layer', **row) for row in made.layers]
  return layers + [dict(kind='tensor', **row) for row in made.tensors]


def tensors(graph: Graph, made: Plan) -> list[dict]:
  """A row for each tensor and scratch: its bytes in the arena, its layers from begin to end.

  Where an output overwrites its input, one ends and the other begins in the middle of the layer.
  """
  lives, rows = graph.lifetimes(), []
  taken = {one.input: i for i, one in made.over.items()}  # by which op
  for t, (first, last) in lives.items():
    tensor = graph.tensors[t]
    made_over = first in made.over and graph.ops[first].output == t
    begin = first + (0.5 if made_over else 0)
    end = last + (0.5 if taken.get(t) == last else 1)
    what = 'held' if last - first > 1 else 'tensor'
    what = 'input' if t in graph.inputs else 'output' if t in graph.outputs else what
    rows.append(dict(
      tensor=t, name=emit.comment(tensor.name), what=what, offset=made.offsets[t],
      size=tensor.size, begin=begin, end=end, shape=' x '.join(map(str, tensor.shape)),
    ))  # fmt: skip
  for i, (at, size) in made.scratch.items():
    name = f'scratch of {emit.comment(graph.ops[i].name)}'
    rows.append(dict(tensor=-1 - i, name=name, what='scratch', offset=at, size=size, begin=i,
                     end=i + 1))  # fmt: skip
  return rows


def _problem(graph, made, source, board, held) -> str | None:
  left = board.ram - measure.STACK
  if made.peak > left:
    op = graph.ops[max(range(len(held)), key=held.__getitem__)]
    return (
      f'{graph.name} does not fit {board.name}: its arena of {made.peak:,} bytes is '
      f'{made.peak - left:,} more than {board.ram:,} less a stack of {measure.STACK:,}; the '
      f'largest layer is {emit.comment(op.name)!r} ({op.kind}), and no schedule of whole tensors '
      f'needs less than {made.bound:,}'
    )
  if source.constants > board.flash:
    return (
      f'{graph.name} does not fit {board.name}: its constants of {source.constants:,} bytes are '
      f'{source.constants - board.flash:,} more than its Flash of {board.flash:,}; '
      f'{_largest(graph)}'
    )
  return None


def _largest(graph) -> str:
  """The layer of the most constants, as text."""
  op = max(graph.ops, key=graph.constants)
  name = emit.comment(op.name)
  return f'the largest layer is {name!r} ({op.kind}), {graph.constants(op):,} bytes'


def _files(graph, source, board, total) -> dict[str, str]:
  core = boards.CORES[board.core]
  fields = dict(name=source.name, NAME=source.name.upper(), board=board, core=core, total=total,
                flags=' '.join(measure.FLAGS), host_flags=' '.join(host.STRICT),
                shift=measure.SHIFT)  # fmt: skip
  return {
    **source.files,
    **measure.files(source, board, board.core),
    'host.c': host.harness(source, graph),
    '.clang-format': emit.template('clang-format.j2'),
    'Makefile': emit.template('Makefile.j2', **fields),
    'README.md': emit.template('README.md.j2', **fields),
  }
