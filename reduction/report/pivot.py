"""Tables of rows with a field on each side. A table is data, in the config's `tables`:

    'landscape': dict(
      title='Perplexity', kind='cell', rows='group', columns=('net', 'bits'), values='perplexity',
      where=dict(group=('tensor', 64), net=('rtn', 'awq')),
      names=dict(group=dict(tensor='per tensor'), bits='INT{}', net=dict(rtn='RTN', awq='AWQ')),
      paper=(('Llama-2-7B', (('groups of 64', '5.60'),)),))

title, note: text above and below. kind: the kind of the rows. where: field -> value or values, as
in figures, for rows that have the field; lines and columns stand in their order, else as rows come.
rows: a field or several, a line for each of their values. columns: likewise; without, each of
`values` has one column. values: a field or several: the mean [least, greatest] over seeds and over
rows that agree; a field that has `_low` and `_high` beside it is a relative change, or of a
fraction one in points, with its interval, 'no difference found' where that holds 0. names: field ->
what stands for its values, by value or a text with {}; for one of `values`, its heading. paper:
columns behind, (heading, ((line, text), ...)); a line that only they have was not run. What lacks
all fields of `rows`, such as the
net before, stands below the table.
"""

import itertools
import math

from reduction.errors import did_you_mean, require
from reduction.report import intervals, pool
from reduction.report.intervals import NONE, Interval, is_fraction, number, spread
from reduction.report.tables import Table

KEYS = 'title', 'note', 'kind', 'where', 'rows', 'columns', 'values', 'names', 'paper'
NEEDED = 'kind', 'rows', 'values'


def check(tables: dict):
  """Raises UsageError, with a did-you-mean, where a table is not as this file documents."""
  for name, spec in tables.items():
    at = f'config.tables.{name}'
    require(isinstance(spec, dict), f'{at}={spec!r} must be a dict')
    for key in spec:
      require(key in KEYS, f'{at} has no {key!r}.{did_you_mean(key, KEYS)}')
    for key in NEEDED:
      require(spec.get(key), f'{at} needs {key!r}')
    for key in 'where', 'names':
      given = spec.get(key, {})
      require(isinstance(given, dict), f'{at}.{key}={given!r} must be a dict')
    for column in spec.get('paper', ()):
      good = len(column) == 2 and all(len(cell) == 2 for cell in column[1])
      require(good, f'{at}.paper: {column!r} must be (heading, ((line, text), ...))')


def pivoted(rows: list[dict], spec: dict) -> Table:
  """The table that a checked spec makes of rows; no lines where none is of its kind."""
  fields, across = pool.listed(spec['rows']), pool.listed(spec.get('columns', ()))
  values, cells = pool.listed(spec['values']), {}
  for row in _chosen(rows, spec, (*fields, *across)):
    line, column = (tuple(pool.field(row, name) for name in names) for names in (fields, across))
    cells.setdefault((line, column), []).append(row)
  alone = [place for place in cells if set(place[0]) == {None}]
  inside = [place for place in cells if place not in alone]
  lines = _ordered(spec, fields, [line for line, _ in inside])
  columns = _ordered(spec, across, [column for _, column in inside])
  paper = [(heading, dict(given)) for heading, given in spec.get('paper', ())]
  text = lambda line, head: _cell(cells.get((line, head[0]), []), head[1])
  heads = [
    head for head in itertools.product(columns, values)
    if any(text(line, head) != NONE for line in lines)
  ]  # fmt: skip
  found = {_label(spec, fields, line): [text(line, head) for head in heads] for line in lines}
  for label in (label for _, given in paper for label in given if found):
    found.setdefault(label, ['not run'] * len(heads))
  head = [_heading(spec, across, c, key, len(values) > 1 or not across) for c, key in heads]
  made = [
    (label, *texts, *(given.get(label, NONE) for _, given in paper))
    for label, texts in found.items()
  ]
  below = [_below(spec, across, column, cells[line, column]) for line, column in alone]
  note = ' '.join(filter(None, (*below, spec.get('note', ''))))
  head = ('', *head, *(heading for heading, _ in paper)) if made else ()
  return Table(spec.get('title', ''), head, tuple(made), note)


def _chosen(rows, spec, fields) -> list[dict]:
  """The rows of a table: those that have a field of `where` as it says, and those without it."""
  where = spec.get('where', {})
  rows = [row for row in rows if row.get('kind') == spec['kind']]
  if 'run' not in (*where, *fields):
    rows = [row for row in rows if pool.field(row, 'run') == 'this run']
  for name, wanted in where.items():
    having = [row for row in rows if pool.field(row, name) is not None]
    right = {id(row) for row in pool.select(having, {name: wanted})[0]}
    rows = [row for row in rows if id(row) in right or pool.field(row, name) is None]
  return rows


def _below(spec, across, column, rows) -> str:
  """What stands below the table: 'float: perplexity 5.47.'"""
  label = _label(spec, across, column) or _named(spec, 'net', rows[0].get('net', 'before'))
  telling = lambda key: any(pool.pooled(rows, key))  # a divergence from itself is 0
  keys = [key for key in pool.listed(spec['values']) if telling(key)]
  told = [f'{_heading(spec, (), (), key, True)} {_cell(rows, key)}' for key in keys]
  return f'{label}: {", ".join(told)}.' if told else ''


def _ordered(spec, fields, found) -> list[tuple]:
  """The distinct tuples of values, in the order that `where` lists each field, else as found.

  What lacks a field stands first. Numbers that `where` does not list go on, up or down, as they
  begin: one group of rows may have some that the first has not.
  """
  found, where = list(dict.fromkeys(found)), spec.get('where', {})
  known = [[None, *pool.listed(where.get(name, ()))] for name in fields]
  known = [[*listed, *_going_on(t[i] for t in found)] for i, listed in enumerate(known)]
  place = lambda value, listed: next(n for n, one in enumerate(listed) if _same(one, value))
  return sorted(found, key=lambda t: [place(value, listed) for value, listed in zip(t, known)])


def _going_on(found) -> list:
  found = list(dict.fromkeys(found))
  if len(found) < 3 or not all(isinstance(value, int | float) for value in found):
    return found
  return sorted(found, reverse=found[0] > found[1])


def _same(wanted, value) -> bool:
  """Whether a value of `where` means this one: a float means the nearest."""
  if isinstance(wanted, float) and isinstance(value, int | float):
    return math.isclose(wanted, value, rel_tol=pool.TOLERANCE)
  return wanted == value


def _label(spec, fields, values) -> str:
  named = [_named(spec, name, value) for name, value in zip(fields, values) if value is not None]
  return ', '.join(named)


def _named(spec, name, value) -> str:
  text = number(name, value) if isinstance(value, int | float) else str(value)
  names = spec.get('names', {}).get(name, {})
  if isinstance(names, str):
    return names.format(text)
  return names.get(str(value), text + (' %' if is_fraction(name) else ''))


def _heading(spec, across, column, key, with_key: bool) -> str:
  told = spec.get('names', {}).get(key, key.replace('_', ' '))
  unit = ' (%)' if is_fraction(key) and '(' not in told else ''
  parts = [_label(spec, across, column), told + unit if with_key else '']
  return ', '.join(filter(None, parts))


def _cell(rows, key) -> str:
  rows = [row for row in rows if row.get(key) is not None]
  if len(rows) == 1 and f'{key}_low' in rows[0]:
    mean, low, high = (rows[0].get(name) for name in (key, f'{key}_low', f'{key}_high'))
    if low is None:
      return 'not finite'
    ends = mean, low, math.inf if high is None else high
    if not is_fraction(key) and not key.endswith('change'):
      return intervals.wording(Interval(*ends, 2))
    unit = ' pp' if is_fraction(key) else ' %'
    return intervals.wording(Interval(*(100 * x for x in ends), 2), unit, digits=1)
  if rows and all(isinstance(row[key], str) for row in rows):
    return ', '.join(dict.fromkeys(row[key] for row in rows))
  return spread(key, pool.pooled(rows, key))
