"""Memory over time: what lies where in an arena while a network runs, layer by layer.

Of rows 'tensor': name, what ('input', 'output', 'held', 'tensor' or 'scratch'), offset and size in
bytes, begin and end in layers (halves where one tensor overwrites another); of rows 'layer' the
bytes that each holds (ram); of a row 'microcontroller' the arena and its lower bound.
"""

import numpy as np

from reduction.report import chart
from reduction.report.chart import Line
from reduction.report.figures import Figure, Panel

KINDS = dict(  # what -> legend, color
  tensor=('between two layers', 'd0'), held=('held for later', 'd3'), input=('input', 'd2'),
  output=('output', 'd4'), scratch=('scratch of a layer', 'd1'),
)  # fmt: skip
SIZE = (7.4, 4.2)  # inches
TALL = 0.16  # of the arena, from which a tensor is named by its shape


def draw(rows: list[dict]) -> list[Figure]:
  """A figure for each part of a run that laid out an arena; none where no rows say so."""
  parts = {}
  for row in rows:
    if row.get('kind') in ('tensor', 'layer', 'microcontroller') and 'run' not in row:
      parts.setdefault(row.get('at', ''), {}).setdefault(row['kind'], []).append(row)
  return [_figure(at, part) for at, part in parts.items() if 'tensor' in part]


def _figure(at, part):
  tensors, layers = part['tensor'], part.get('layer', [])
  whole = part.get('microcontroller', [{}])[0]
  arena = whole.get('arena', max(t['offset'] + t['size'] for t in tensors))
  bound = whole.get('lower_bound')
  most = max(layers, key=lambda row: row['ram'], default=None)
  caption = f'Each tensor from the layer that writes it to the last that reads it, {arena:,} bytes.'
  if bound:
    caption += f' Dashed: no schedule of whole tensors needs less than {bound:,}.'
  if most:
    caption += f' The most is held at layer {most["layer"]}, {most["name"]}: {most["ram"]:,} bytes.'
  svg = chart.painted(f'memory-{at}', SIZE, lambda axes: _paint(axes, tensors, arena, bound))
  seen = {t['what'] for t in tensors}
  none = np.zeros(0)
  lines = tuple(
    Line(told, color, 1, False, none, none, none, none)
    for what, (told, color) in KINDS.items() if what in seen
  )  # fmt: skip
  return Figure('Memory over time', caption, (Panel('', svg, lines),), ())


def _paint(axes, tensors, arena, bound):
  from matplotlib.patches import Rectangle

  end = max(t['end'] for t in tensors)
  for t in tensors:
    color = chart.color_of(KINDS[t['what']][1])
    width = t['end'] - t['begin']
    narrow = width / end < 0.15
    axes.add_patch(Rectangle(
      (t['begin'], t['offset']), width, t['size'], facecolor=color, edgecolor=chart.CARD,
      linewidth=0.6, alpha=0.85,
    ))  # fmt: skip
    if t['size'] > TALL * arena and width / end > 0.014 and t.get('shape'):
      axes.text(
        t['begin'] + width / 2, t['offset'] + t['size'] / 2, t['shape'], color=chart.CARD,
        fontsize=6 if narrow else 9, rotation=90 if narrow else 0, ha='center', va='center',
      )  # fmt: skip
  if bound:
    axes.axhline(bound, color=chart.INK, linewidth=1, linestyle=(0, (4, 2.2)))
  axes.set(xlim=(0, end), ylim=(0, arena * 1.03), xlabel='layer', ylabel='bytes of the arena')
  axes.yaxis.set_major_formatter('{x:,.0f}')
  axes.xaxis.set_major_locator(_whole())


def _whole():
  from matplotlib.ticker import MaxNLocator

  return MaxNLocator(10, integer=True)
