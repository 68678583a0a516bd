"""How long `import reduction` takes, and the modules behind it."""

import subprocess
import sys
import time

from launch.benchmarks.sides import ROOT, Session, spread
from reduction.errors import require
from reduction.report import Table


def imports(*, modules: tuple[str, ...], repeats: int):
  """Times `python -c 'import MODULE'` in fresh processes, each module in turn.

  Rows: 'import', seconds with those of the bare interpreter in them and beside them.
  """
  require(repeats > 0 and modules, f'{repeats=} and {modules=}: measure something')

  def bench(session: Session):
    del session
    programs = {'': 'pass', **{name: f'import {name}' for name in modules}}
    seconds = {name: [] for name in programs}
    for _ in range(1 + repeats):  # the first writes the bytecode
      for name, program in programs.items():
        seconds[name].append(_timed(program))
    bare = spread(seconds.pop('')[1:])
    rows = [
      dict(kind='import', summary=True, module=name, bare_s=bare.median,
           **spread(times[1:]).fields('seconds'))
      for name, times in seconds.items()
    ]  # fmt: skip
    return rows, [_table(rows)]

  return bench


def _timed(program: str) -> float:
  began = time.perf_counter()
  subprocess.run([sys.executable, '-c', program], check=True, cwd=ROOT)
  return time.perf_counter() - began


def _table(rows) -> Table:
  cells = tuple(
    (row['module'], f'{row["seconds"]:.2f} ({row["seconds_low"]:.2f} to {row["seconds_high"]:.2f})')
    for row in rows
  )
  note = f'Median and range; the bare interpreter takes {rows[0]["bare_s"]:.2f} s of it.'
  return Table('Import', ('import', 'seconds'), cells, note)
