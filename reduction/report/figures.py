"""Figures of rows. A figure is data, in the config's `figures`, drawn in the order of its names:

    'figure1': dict(
      title='Figure 1: learning speed and accuracy', kind='level',
      x='kept', x_scale='log', x_reverse=True, lines='net',
      where=dict(net=['ticket', 'reinit']), dashed=['reinit'], names=dict(reinit='random reinit'),
      panels=dict(a=dict(y='early_stop_step'), b=dict(y='early_stop_test_accuracy')))

title, caption: text beside the figure. kind: the kind of the rows drawn; others are ignored.
x, y: fields of those rows. A point is the mean over seeds, and over rows that agree in x and line.
lines: a field or several; a line for each of their values. A field of numbers gives ordered colors,
  text gives distinct ones. where: field -> value or values drawn, in the order of the legend; a
  float means the nearest value within 5 %. `stage` is where a row's `at` begins; `run` names other
  runs that the report was given, 'this run' its own. dashed: values whose lines are dashed, each in
  the color of the solid line before it. names: value -> what the legend calls it.
x_label, y_label, x_scale, y_scale ('linear' or 'log'), x_reverse, x_ticks, x_range, y_range: the
  axes, in the rows' units; fractions are shown in percent.
spread: least and greatest over seeds as 'bars' (the default), a 'band', or 'none'.
panels: name -> the keys above that a panel sets for itself (`where` field by field); drawn in the
  order of their names.
"""

from typing import NamedTuple

import numpy as np

from reduction.errors import did_you_mean, require
from reduction.report import chart, pool
from reduction.report.chart import Line
from reduction.report.intervals import is_fraction
from reduction.report.pool import natural

TEXT, TEXTS = 'text', 'a text or a list of them'
NUMBERS, PAIR = 'a list of numbers', 'two numbers, the lower first'
KEYS = dict(
  title=TEXT, caption=TEXT, kind=TEXT, x=TEXT, y=TEXT, lines=TEXTS, where='a dict', dashed=TEXTS,
  names='a dict', x_label=TEXT, y_label=TEXT, x_scale=('linear', 'log'), y_scale=('linear', 'log'),
  x_reverse='true or false', x_ticks=NUMBERS, x_range=PAIR, y_range=PAIR,
  spread=('bars', 'band', 'none'), panels='a dict',
)  # fmt: skip


class Panel(NamedTuple):
  """A drawn panel: SVG text that takes its colors from the page, and the lines in it."""

  title: str
  svg: str
  lines: tuple[Line, ...]


class Figure(NamedTuple):
  """A drawn figure; absent says what its rows lack."""

  title: str
  caption: str
  panels: tuple[Panel, ...]
  absent: tuple[str, ...]


def check(figures: dict):
  """Raises UsageError, with a did-you-mean, where a figure is not as this file documents."""
  for name, spec in figures.items():
    at = f'config.figures.{name}'
    _check(at, spec)
    for panel, part in spec.get('panels', {}).items():
      _check(f'{at}.panels.{panel}', part)
      require('panels' not in part, f'{at}.panels.{panel} cannot hold panels')
    for panel in _panels(spec):
      for key in ('kind', 'x', 'y'):
        require(key in panel, f'{at} needs {key!r}, for the figure or for every panel')


def _check(at, spec):
  require(isinstance(spec, dict), f'{at}={spec!r} must be a dict')
  for key, value in spec.items():
    require(key in KEYS, f'{at} has no {key!r}.{did_you_mean(key, KEYS)}')
    rule = KEYS[key]
    if isinstance(rule, tuple):
      require(value in rule, f'{at}.{key}={value!r} is not one of {", ".join(rule)}')
    else:
      require(_fits(rule, value), f'{at}.{key}={value!r} must be {rule}')


def _fits(rule, value) -> bool:
  every = lambda kind: isinstance(value, list | tuple) and all(isinstance(v, kind) for v in value)
  if rule == PAIR:
    return every(int | float) and len(value) == 2 and value[0] < value[1]
  if rule == TEXTS:
    return isinstance(value, str) or every(str)
  return every(int | float) if rule == NUMBERS else isinstance(
    value, {TEXT: str, 'a dict': dict, 'true or false': bool}[rule]
  )


def _panels(spec) -> list[dict]:
  """The panels as whole specifications: what a panel sets, over what the figure sets."""
  shared = {key: value for key, value in spec.items() if key not in ('panels', 'title', 'caption')}
  where = spec.get('where', {})
  parts = spec.get('panels') or {'': {}}
  return [
    {**shared, **parts[name], 'where': {**where, **parts[name].get('where', {})}}
    for name in sorted(parts, key=natural)
  ]


def draw(name: str, spec: dict, rows: list[dict]) -> Figure:
  """Draws a checked figure; panels without a row are left out and named in `absent`."""
  panels = _panels(spec)
  found, absent = [], []
  for panel in panels:
    chosen, lacking = _chosen(panel, rows)
    found.append(chosen)
    absent += lacking
  shades = {_shade(panel, row) for panel, part in zip(panels, found) for row in part}
  numbers = sorted(shades - {None})
  drawn = []
  for i, (panel, chosen) in enumerate(zip(panels, found)):
    if chosen:
      lines = _lines(panel, chosen, numbers)
      svg = chart.svg(f'{name}-{i}', panel, lines, len(panels))
      drawn.append(Panel(panel.get('title', ''), svg, tuple(lines)))
  return Figure(
    spec.get('title', name), spec.get('caption', ''), tuple(drawn), tuple(dict.fromkeys(absent))
  )


def _chosen(panel, rows):
  """The rows of a panel that have its x and y, and what it names that no row has."""
  where, fields = panel['where'], pool.listed(panel.get('lines', ()))
  rows = [row for row in rows if row.get('kind') == panel['kind']]
  if 'run' not in where and 'run' not in fields:
    rows = [row for row in rows if pool.field(row, 'run') == 'this run']
  has = lambda row: row.get(panel['x']) is not None and row.get(panel['y']) is not None
  with_both = [row for row in rows if has(row)]
  if not with_both:
    what = f'{panel["kind"]} rows' + (f' with {panel["x"]} and {panel["y"]}' if rows else '')
    return [], [f'no {what}']
  chosen, absent = pool.select(with_both, where)
  return chosen, absent


def _shade(panel, row):
  """The number that orders this row's color, if its lines differ by one."""
  values = [pool.field(row, name) for name in pool.listed(panel.get('lines', ()))]
  return next((v for v in values if isinstance(v, int | float)), None)


def _lines(panel, rows, numbers) -> list[Line]:
  fields = pool.listed(panel.get('lines', ()))
  groups = {}
  for row in rows:
    groups.setdefault(tuple(pool.field(row, name) for name in fields), []).append(row)
  several = [i for i, column in enumerate(zip(*groups)) if len(set(column)) > 1]
  telling = several or range(len(fields))[:1]  # what is the same in all lines is left out
  lines, solid = [], -1
  for values in sorted(groups, key=lambda values: _rank(panel, fields, values)):
    dashed = any(value in pool.listed(panel.get('dashed', ())) for value in values)
    solid += not dashed
    shades, place = [v for v in values if isinstance(v, int | float)], max(solid, 0)
    color = f'd{place % len(chart.DISTINCT)}'
    if shades:
      place = numbers.index(shades[0])
      # kept counts down: the dense net is darkest
      place = len(numbers) - 1 - place if 'kept' in fields else place
      color = f'o{round(place / max(len(numbers) - 1, 1) * (chart.ORDERED - 1))}'
    points = {}
    for row in groups[values]:
      points.setdefault(pool.field(row, panel['x']), []).append(row)
    x = sorted(points)
    y = [pool.pooled(points[at], panel['y']) for at in x]
    label = ', '.join(_label(panel, fields[i], values[i]) for i in telling)
    lines.append(Line(label, color, place % len(chart.MARKS), dashed, np.array(x), *(
      np.array([reduce(values) for values in y]) for reduce in (np.mean, np.min, np.max)
    )))  # fmt: skip
  return lines


def _rank(panel, fields, values):
  """Order in the legend: as `where` lists text, kept falling, other numbers rising."""
  rank = []
  for name, value in zip(fields, values):
    if isinstance(value, int | float):
      rank.append((0, -value if name == 'kept' else value, []))
    else:
      wanted = pool.listed(panel['where'].get(name, ()))
      place = wanted.index(value) if value in wanted else len(wanted)
      rank.append((place, 0, natural(str(value))))
  return rank


def _label(panel, name, value):
  if isinstance(value, int | float):
    return f'{chart.percent(value)} %' if is_fraction(name) else f'{name} {value:g}'
  return panel.get('names', {}).get(value, str(value))
