"""Instructions of pruned convolutions against dense ones, and where they break even."""

import numpy as np

from launch.benchmarks.sides import Session
from reduction.errors import require
from reduction.mcu import boards, latency
from reduction.report import Table

FORMS = 'fwcs', 'bitmap', 'paired'


def filterlets(
  *, shapes: dict, cores: tuple[str, ...], shares: tuple[float, ...],
  forms: tuple[str, ...] = FORMS,
):  # fmt: skip
  """Counts, in the emulator, convolutions of which shares of the filterlets are kept.

  shapes: name -> (h, w, cin, cout, kernel, stride). 'paired' keeps filterlets of two filters at
  once and works on two pixels, the others on four; 'dense' is the engine's own convolution.
  Rows: 'filterlets', by core, shape, form and share, with instructions and their ratio to dense;
  'break_even', the share below which a form takes fewer than dense.
  """
  require(all(0 < s <= 1 for s in shares), f'{shares=} must lie in (0, 1]')
  for core in cores:
    require(core in boards.CORES, f'{core=} is not one of {", ".join(boards.CORES)}')

  def bench(session: Session):
    rows = []
    for core in cores:
      for name, sizes in shapes.items():
        session.say(f'{core}: {name}')
        rows += _counted(core, name, latency.Shape(*sizes), forms, shares)
    return rows, [_table(rows)]

  return bench


def _counted(core, name, shape, forms, shares) -> list[dict]:
  full = shape.places * shape.cout
  items = [('dense', shape, full), ('wide', shape, full)]
  items += [(form, shape, round(share * full)) for form in forms for share in shares]
  dense, wide, *found = latency.measured(items, core)
  told = dict(summary=True, core=core, shape=name)
  rows = [dict(told, kind='filterlets', form='dense', share=1.0, ratio=1.0,
               instructions=dense.instructions)]  # fmt: skip
  rows += [dict(told, kind='filterlets', form=row.form, share=round(row.kept / full, 4),
                ratio=round(row.instructions / dense.instructions, 4),
                instructions=row.instructions) for row in (wide, *found)]  # fmt: skip
  for form in forms:
    line = [(row.kept / full, row.instructions) for row in found if row.form == form]
    slope, base = np.polyfit(*np.transpose(line), 1)
    at, of_wide = ((one.instructions - base) / slope for one in (dense, wide))
    rows.append(dict(told, kind='break_even', form=form, share=round(float(at), 3),
                     wide_share=round(float(of_wide), 3)))  # fmt: skip
  return rows


def _table(rows) -> Table:
  cells = tuple(
    (row['core'], row['shape'], row['form'], f'{100 * row["share"]:.0f} %',
     f'{row["instructions"]:,}', f'{100 * row["ratio"]:.1f} %')
    for row in rows if row['kind'] == 'filterlets'
  )  # fmt: skip
  shares = lambda r: f'{100 * r["share"]:.0f} % ({100 * r["wide_share"]:.0f} %)'
  ends = '; '.join(f'{r["core"]} {r["shape"]} {r["form"]}: {shares(r)}'
                   for r in rows if r['kind'] == 'break_even')  # fmt: skip
  note = (f'Breaks even with dense (with wide) at these shares of filterlets: {ends}. '
          'Above 100 %: always ahead; below 0 %: never.')  # fmt: skip
  heads = 'core', 'shape', 'form', 'kept', 'instructions', 'of dense'
  return Table('Pruned convolutions', heads, cells, note)
