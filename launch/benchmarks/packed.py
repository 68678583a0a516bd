"""Products of a few rows with packed weights: time beside others' and of what memory allows."""

import contextlib
import pathlib
import sys

import numpy as np

from launch.benchmarks.pace import OURS, cell
from launch.benchmarks.sides import Session, on_platform, process, spread
from reduction.errors import require
from reduction.report import Table
from reduction.report.intervals import NONE

COMMAND = [sys.executable, '-m', 'launch.benchmarks.packed_ours']
PEER = pathlib.Path(__file__).parent.parent / 'peers' / 'packed_others.py'
# what is timed -> (bits, inputs in 8 bits); 'read' only reads the bytes of INT4
KINDS = {
  'INT4': (4, False), 'INT3': (3, False), 'INT8': (8, False), 'INT4, A8': (4, True),
  'INT3, A8': (3, True),
}  # fmt: skip
READ = 'read'
PEERS = {  # what each is compared with: inputs in floats or 16 bits, inputs in 8
  'torch int4': 'INT4', 'onnxruntime, level 0': 'INT4', 'onnxruntime, level 4': 'INT4, A8',
  'ggml Q4_0': 'INT4, A8',
}  # fmt: skip


def packed(
  *, shapes: tuple, rows_of_x: tuple[int, ...], group: int, bytes: int, repeats: int,
  peers: tuple[str, ...] = tuple(PEERS),
):  # fmt: skip
  """Times x [count, rows] times packed weights [rows, columns], which are read from memory.

  shapes: (rows, columns); rows_of_x: counts; group: rows of a scale; bytes: of all copies of a
  weight, far beyond the caches; peers: of PEERS. Rows 'packed': kind of KINDS, seconds of a
  product, its share of what reading the same bytes takes with the same threads in the same repeat
  (`of_read`), and for each peer of that kind its seconds and their ratio to ours. Kinds take turns
  in each repeat.
  """
  for name in peers:
    require(name in PEERS, f'{name!r} is not one of {", ".join(PEERS)}')
  require(min(*rows_of_x, bytes, repeats) > 0, f'{rows_of_x=}, {bytes=}, {repeats=}: all above 0')
  settings = dict(group=group, bytes=bytes)

  def bench(session: Session):
    rows = []
    with contextlib.ExitStack() as stack:
      enter = lambda name, command: stack.enter_context(
        process(name, command, settings, **on_platform())
      )
      ours = enter(OURS, COMMAND)
      others = enter('peers', [session.peer_python, str(PEER)]) if peers else None
      for shape in shapes:
        for count in rows_of_x:
          job = dict(rows=shape[0], columns=shape[1], count=count)
          found = measured(job, ours, others, peers, repeats, session)
          rows += compare(job, found)
          session.say(f'packed: {shape[0]} x {shape[1]}, {count} rows')
    return rows, [table(rows, settings)]

  return bench


def measured(job, ours, others, peers, repeats, session) -> dict:
  """Kind or peer -> the replies to a job, but the first of each."""
  asks = {kind: ours.ask for kind in (READ, *KINDS)} | {name: others.ask for name in peers}
  found = {name: [] for name in asks}
  for repeat in range(repeats + 1):
    for name in list(asks)[:: -1 if repeat % 2 else 1]:
      reply = asks[name](kind=name, **job)
      if 'missing' in reply:
        session.say(f'{name}: {reply["missing"]} is not installed')
      elif repeat:
        found[name].append(reply)
  return {name: replies for name, replies in found.items() if replies}


def compare(
  job: dict, found: dict, kinds=tuple(KINDS), peers=PEERS, kind: str = 'packed'
) -> list[dict]:
  """Rows of this kind from what `measured` gave; see `packed`."""
  seconds = lambda name: np.array([reply['seconds'] for reply in found[name]])
  pace = found[READ][0]['bytes'] / seconds(READ)  # by repeat: it comes and goes on a shared machine
  rows = []
  for product in kinds:
    size = found[product][0]['bytes']
    row = dict(
      kind=kind, summary=True, product=product, **job, **spread(seconds(product)).fields('s'),
      bytes=size, **spread(pace / 1e9).fields('read_gb_per_s'),
      **spread(size / pace / seconds(product)).fields('of_read'),
    )  # fmt: skip
    beside = [
      dict(peer=name, **spread(seconds(name)).fields('peer_s'),
           **spread(seconds(name) / seconds(product)).fields('ratio'))
      for name, of in peers.items() if of == product and name in found
    ]  # fmt: skip
    rows += [row | peer for peer in beside or [{}]]
  return rows


def table(rows: list[dict], settings: dict) -> Table:
  """A line for each product and peer."""
  in_ms = lambda row, name: cell(
    {k: 1e3 * v if k.startswith(name) else v for k, v in row.items()}, name, '.3g'
  )
  cells = tuple(
    (
      f'{row["rows"]:,} x {row["columns"]:,}', str(row['count']), row['product'], in_ms(row, 's'),
      cell({k: 100 * v for k, v in row.items() if k.startswith('of_read')}, 'of_read', '.0f'),
      row.get('peer', NONE), in_ms(row, 'peer_s'),
      cell(row, 'ratio', '.2f'),
    )
    for row in rows
  )  # fmt: skip
  note = (
    f'Groups of {settings["group"]}, weights read from memory. Medians and ranges. A8: inputs in 8 '
    'bits, else in 16. Of reading: the time in which the same bytes are only read, over that of '
    "the product. Ratio: the peer's time over ours."
  )
  columns = ('weight', 'rows of x', 'product', 'ms', '% of reading', 'beside', 'its ms', 'ratio')
  return Table('Packed products', columns, cells, note)
