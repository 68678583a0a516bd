"""A folder ready for a board: the C, a Makefile, a README, a host's test; and what it costs."""

from typing import NamedTuple

from reduction.errors import UsageError
from reduction.mcu import boards, emit, host, measure
from reduction.mcu.graph import Graph
from reduction.mcu.overlap import Style
from reduction.mcu.plan import Plan, live, plan


class Deployed(NamedTuple):
  """files: name -> text. layers: a row for each op. total: the row of the whole net."""

  graph: Graph
  plan: Plan
  source: emit.Source
  files: dict[str, str]
  layers: list[dict]
  total: dict


def deploy(graph: Graph, board: boards.Board, *, exact: bool = False) -> Deployed:
  """Plans and writes a net for a board, and measures it where the tools are installed.

  Raises UsageError where it does not fit, with by how much and which layer is the largest.
  """
  made = plan(graph, Style(), exact=exact)
  source = emit.emit(graph, made)
  held = [live(graph, made, i) for i in range(len(graph.ops))]
  _check(graph, made, source, board, held)
  measured = None if measure.missing() else measure.measure(source, core=board.core, board=board)
  layers = [
    dict(layer=i, name=emit.comment(op.name), op=op.kind, macs=graph.macs(op),
         flash=graph.constants(op), ram=held[i],
         instructions=measured.layers[i] if measured else None)
    for i, op in enumerate(graph.ops)
  ]  # fmt: skip
  total = dict(
    board=board.name, core=board.core, layers=len(layers), macs=sum(r['macs'] for r in layers),
    arena=made.peak, lower_bound=made.bound, constants=source.constants,
    flash=measured and measured.flash, ram=measured and measured.ram,
    instructions=measured and measured.instructions,
  )  # fmt: skip
  return Deployed(graph, made, source, _files(graph, source, board, total), layers, total)


def _check(graph, made, source, board, held):
  left = board.ram - measure.STACK
  if made.peak > left:
    op = graph.ops[max(range(len(held)), key=held.__getitem__)]
    raise UsageError(
      f'{graph.name} does not fit {board.name}: its arena of {made.peak:,} bytes is '
      f'{made.peak - left:,} more than {board.ram:,} less a stack of {measure.STACK:,}; the '
      f'largest layer is {emit.comment(op.name)!r} ({op.kind}), and no schedule needs less than '
      f'{made.bound:,}'
    )
  if source.constants > board.flash:
    op = max(graph.ops, key=graph.constants)
    raise UsageError(
      f'{graph.name} does not fit {board.name}: its constants of {source.constants:,} bytes are '
      f'{source.constants - board.flash:,} more than its Flash of {board.flash:,}; the largest '
      f'layer is {emit.comment(op.name)!r} ({op.kind}), {graph.constants(op):,} bytes'
    )


def _files(graph, source, board, total) -> dict[str, str]:
  core = boards.CORES[board.core]
  fields = dict(name=source.name, NAME=source.name.upper(), board=board, core=core, total=total,
                flags=' '.join(measure.FLAGS), host_flags=' '.join(host.STRICT),
                shift=measure.SHIFT)  # fmt: skip
  return {
    **source.files,
    **measure.files(source, board, board.core),
    'host.c': host.harness(source, graph),
    'Makefile': emit.template('Makefile.j2', **fields),
    'README.md': emit.template('README.md.j2', **fields),
  }
