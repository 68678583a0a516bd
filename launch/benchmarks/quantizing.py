"""AWQ of a language model by phase, and AWQ followed by GPTQ of its layers beside qwix's."""

import contextlib
import pathlib
import sys

import numpy as np

from launch.benchmarks.pace import OURS, cell
from launch.benchmarks.sides import Session, interleaved, on_platform, process, spread
from reduction.errors import require
from reduction.quantize.gptq import products
from reduction.report import Table
from reduction.report.intervals import NONE

COMMAND = [sys.executable, '-m', 'launch.benchmarks.quantizing_ours']
PEERS = ('qwix',)
PEER = pathlib.Path(__file__).parent.parent / 'peers' / 'quantizing_qwix.py'


def quantized_model(
  *, model: str, calibration: str, examples: int, length: int, group: int, blocks: int
):
  """Times AWQ, INT4 in groups with zero points, of the first blocks of a language model.

  model, calibration: as of `stages.awq` runs, found in the session's data directory; examples:
  passages of length tokens. Rows 'quantized_model', one a phase of PHASES of the preflight: seconds
  of a block (median and range of all but the first, which compiles), of the first, minutes of the
  whole model, GFLOP/s and what a large matrix product reaches; in each row also peak_mib of the
  process and foreseen_mib, of the preflight.
  """
  require(blocks > 1, f'{blocks=} must be above 1: the first one compiles')
  settings = dict(
    model=model, calibration=calibration, examples=examples, length=length, group=group
  )

  def bench(session: Session):
    given = dict(settings, data_dir=session.data_dir)
    with process(OURS, COMMAND, given, **on_platform()) as side:
      told, replies = side.about, []
      for block in range(min(blocks, told['layers'])):
        replies.append(side.ask(block=block)['seconds'])
        session.say(f'quantized_model: block {block}, {sum(replies[-1].values()):.1f} s')
      peak, limit = side.peak_mib(), side.ask(limit=True)['gflops']
    rows = by_phase(replies, told, limit, peak)
    return rows, [table_of_model(rows, settings)]

  return bench


def by_phase(replies: list[dict], told: dict, limit: float, peak: float | None) -> list[dict]:
  """Rows from the seconds of each block; see `quantized_model`."""
  rows = []
  for phase, work in told['flops'].items():
    first, *later = (reply[phase] for reply in replies)
    median = float(np.median(later))
    gflops = work / told['layers'] / median / 1e9
    rows.append(dict(
      kind='quantized_model', summary=True, phase=phase, parameters=told['parameters'],
      blocks=len(replies), layers=told['layers'], **spread(later).fields('block_s'),
      first_s=round(first, 2), minutes=round(median * told['layers'] / 60, 2),
      gflops=round(gflops, 1), limit_gflops=round(limit, 1), of_limit=round(gflops / limit, 4),
      peak_mib=peak and round(peak), foreseen_mib=round(told['foreseen'] / 2**20),
    ))  # fmt: skip
  return rows


def table_of_model(rows: list[dict], settings: dict) -> Table:
  """A line a phase."""
  cells = tuple(
    (
      row['phase'], cell(row, 'block_s', '.2f'), f'{row["first_s"]:.1f}', f'{row["minutes"]:.1f}',
      f'{row["gflops"]:.0f} ({row["of_limit"]:.0%})',
    )
    for row in rows
  )  # fmt: skip
  one, minutes = rows[0], sum(row['minutes'] for row in rows)
  note = (
    f'{settings["examples"]} passages of {settings["length"]} tokens, INT4 in groups of '
    f'{settings["group"]}. Medians and ranges of {one["blocks"] - 1} blocks; the whole model has '
    f'{one["layers"]}: {minutes:.1f} min. Memory at the peak: {one["peak_mib"]} MiB, with Python, '
    f'JAX and programs; {one["foreseen_mib"]} MiB foreseen beside these. The limit is a large '
    f'float32 matrix product, {one["limit_gflops"]:.0f} GFLOP/s; of the search only products of '
    'Gram matrices are counted.'
  )
  columns = ('phase', 's a block', 'the first', 'min, whole model', 'GFLOP/s (of the limit)')
  return Table(f'AWQ of {settings["model"]}', columns, cells, note)


def quantized_layers(
  *, layers: tuple, tokens: int, group: int, size: int, repeats: int, peers: tuple[str, ...] = PEERS
):
  """Times AWQ followed by GPTQ of random layers, here and in qwix, and a GPTQ of one square layer.

  layers: (rows, (columns of each kernel that reads this input, ...)) of each input. tokens: random
  ones, of each input. group: of INT4, symmetric as qwix's. size: rows and columns of the one layer.
  peers: of PEERS. Rows 'quantized_layers': job 'awq, gptq' or 'gptq', seconds, the mean relative
  output error, for 'gptq' GFLOP/s and the limit, and the peer's seconds and error.
  """
  for name in peers:
    require(name in PEERS, f'{name!r} is not one of {", ".join(PEERS)}')
  require(min(tokens, size, repeats) > 0, f'{tokens=}, {size=} and {repeats=} must be above 0')
  settings = dict(layers=layers, tokens=tokens, group=group, size=size)

  def bench(session: Session):
    with contextlib.ExitStack() as stack:
      commands = {OURS: COMMAND, **{name: [session.peer_python, str(PEER)] for name in peers}}
      asks = {}
      for side, command in commands.items():
        found = stack.enter_context(process(side, command, settings, **on_platform()))
        if missing := found.about.get('missing'):
          session.say(f'{side}: {missing} is not installed; see third_party/requirements-qwix.txt')
        else:
          asks[side] = found.ask
      say = lambda line: session.say(f'quantized_layers: {line}')
      replies = interleaved(asks, [dict(alone=False)], repeats, say)
      replies |= {
        (side, 1): found
        for (side, _), found in interleaved(
          {OURS: asks[OURS]}, [dict(alone=True)], repeats, say
        ).items()
      }
      limit = asks[OURS](limit=True)['gflops']
    rows = compare(replies, settings, limit)
    return rows, [table_of_layers(rows, settings)]

  return bench


def compare(replies: dict, settings: dict, limit: float) -> list[dict]:
  """Rows from the replies of `interleaved`; see `quantized_layers`."""
  of = lambda side, job, what: np.array([r[what] for r in replies[side, job][1:]])
  row = lambda job, name: dict(
    kind='quantized_layers', summary=True, job=name, **spread(of(OURS, job, 'seconds')).fields('s')
  )
  rows, both = [], row(0, 'awq, gptq') | dict(error=float(of(OURS, 0, 'error')[0]))
  beside = [
    dict(
      peer=side, **spread(of(side, 0, 'seconds')).fields('peer_s'),
      **spread(of(side, 0, 'seconds') / of(OURS, 0, 'seconds')).fields('ratio'),
      peer_error=float(of(side, 0, 'error')[0]),
    )
    for side, job in replies if job == 0 and side != OURS
  ]  # fmt: skip
  rows += [both | peer for peer in beside or [{}]]
  alone = row(1, 'gptq')
  gflops = 2 * products(settings['size'], settings['size']) / alone['s'] / 1e9
  alone |= dict(
    gflops=round(gflops, 1), limit_gflops=round(limit, 1), of_limit=round(gflops / limit, 4)
  )
  return [*rows, alone]


def table_of_layers(rows: list[dict], settings: dict) -> Table:
  """A line for each job and peer."""
  cells = tuple(
    (
      row['job'], cell(row, 's', '.3g'),
      f'{row["gflops"]:.0f} ({row["of_limit"]:.0%})' if 'gflops' in row else NONE,
      f'{row["error"]:.2e}' if 'error' in row else NONE, row.get('peer', NONE),
      cell(row, 'peer_s', '.3g'), cell(row, 'ratio', '.0f'),
      f'{row["peer_error"]:.2e}' if 'peer_error' in row else NONE,
    )
    for row in rows
  )  # fmt: skip
  shapes = ', '.join(f'{r} to {" and ".join(map(str, n))}' for r, n in settings['layers'])
  note = (
    f'"awq, gptq": layers of {shapes}, {settings["tokens"]:,} random tokens, INT4 in symmetric '
    f'groups of {settings["group"]}; errors are of outputs, relative, squares. "gptq": one layer '
    f'of {settings["size"]:,} x {settings["size"]:,}. Medians and ranges, after a warm-up; ratio: '
    f"the peer's time over ours, side by side. The limit is a large float32 matrix product, "
    f'{rows[-1]["limit_gflops"]:.0f} GFLOP/s.'
  )
  columns = ('job', 's', 'GFLOP/s (of the limit)', 'error', 'beside', 'its s', 'ratio', 'its error')
  return Table('AWQ and GPTQ of layers', columns, cells, note)
