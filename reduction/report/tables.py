"""Rows as tables, and tables as Markdown, plain text and on a terminal."""

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from reduction.report import claims, pool
from reduction.report.intervals import NONE, TIMES, number, paired_difference, spread, wording

LEVEL = dict(  # key -> heading
  early_stop_step='early-stop step',
  early_stop_test_accuracy='test accuracy at early stop (%)',
  against_dense='against dense (pp)',
  early_stop_train_accuracy='training accuracy at early stop (%)',
  test_accuracy='test accuracy at the end (%)',
  train_accuracy='training accuracy at the end (%)',
  validation_loss='validation loss',
)
COST = dict(macs='multiply-adds', peak_sram='peak memory', energy_uj='energy (µJ, estimated)')
LESSONS = dict(  # kind -> what the row is of, or the field that says it
  tune='trained', teacher='its teachers', distill='student', correct='corrected', system='net',
  specialist='classes', specialists='all together',
)  # fmt: skip
LESSON = dict(  # key -> heading
  temperature='T', soft='soft', hard='hard', examples='examples', shift='added to biases',
  validation_errors='errors on held-out images',
  test_errors='test errors', test_accuracy='test accuracy (%)',
  missing_accuracy='of classes not seen (%)', word_error='word errors (%)',
)  # fmt: skip
ELSEWHERE = ('params', 'nonzero', 'bytes', 'seeds', 'early_stop_step', *COST)  # have their columns


class Code(str):
  """A cell that is code."""


class Table(NamedTuple):
  """Texts in columns, a row each; note says how the numbers are to be read."""

  title: str
  columns: tuple[str, ...]
  rows: tuple[tuple[str, ...], ...]
  note: str = ''


def _table(title: str, lines: list[dict], note: str = '') -> Table:
  """Lines, dicts of the same columns, as a table without the columns that no line fills."""
  columns = [c for c in (lines[0] if lines else ()) if any(line[c] != NONE for line in lines)]
  rows = tuple(tuple(line[c] for c in columns) for line in lines)
  return Table(title, tuple(columns), rows, note)


def _summaries(rows, kind) -> list[dict]:
  """The summary rows of a kind, of this run alone."""
  return [row for row in rows if row.get('summary') and row['kind'] == kind and 'run' not in row]


def stages(rows: list[dict]) -> Table:
  """What the net measured and cost before the first stage and after every stage."""
  found = _summaries(rows, 'stage')
  measured = dict.fromkeys(key for row in found for key in row if _is_number(row[key]))
  percent = lambda key: key.replace('_', ' ') + (' (%)' if key.endswith('accuracy') else '')
  lines = [
    {
      'stage': row['stage'],
      'weights not 0': _cell(row, 'nonzero' if 'nonzero' in row else 'params'),
      'kept (%)': _kept(row, found[0]),
      **{percent(key): _cell(row, key) for key in measured if key not in ELSEWHERE},
      'early-stop step': _early_stop(row, rows),
      'size': _cell(row, 'bytes'),
      'smaller': _smaller(row, found[0]),
      **{heading: _cell(row, key) for key, heading in COST.items()},
    }
    for row in found
  ]
  note = (
    'Mean [least, greatest] over seeds. Kept: weights that are not 0, of all that the net began '
    'with (fresh biases are 0).'
  )
  if any('early-stop step' in line and line['early-stop step'] != NONE for line in lines):
    note += ' Early stop: that of the last level of the stage.'
  return _table('Before and after', lines, note)


def _is_number(value) -> bool:
  """Whether value is a number, or one a seed (None where it was not finite)."""
  if isinstance(value, list):
    return all(x is None or _is_number(x) for x in value)
  return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(row, key) -> str:
  return spread(key, pool.pooled([row], key))


def _mean(row, key) -> float:
  values = pool.pooled([row], key)
  return float(np.mean(values)) if values else np.nan


def _kept(row, first) -> str:
  """Weights not 0, in percent of all that the net began with."""
  alive = _mean(row, 'nonzero' if 'nonzero' in row else 'params')
  fraction = alive / _mean(first, 'params')
  return number('kept', fraction) if np.isfinite(fraction) else NONE


def _smaller(row, first) -> str:
  ratio = _mean(first, 'bytes') / _mean(row, 'bytes')
  return f'{ratio:.{2 if ratio < 10 else 1}f}{TIMES}' if np.isfinite(ratio) else NONE


def _early_stop(row, rows) -> str:
  """The stage's own early stop, else that of the first net of its last level."""
  if 'early_stop_step' in row:
    return _cell(row, 'early_stop_step')
  inside = [
    r for r in rows
    if r.get('summary') and 'early_stop_step' in r and 'run' not in r
    and pool.field(r, 'stage') == row['stage']
  ]  # fmt: skip
  last = max((r.get('level', 0) for r in inside), default=0)
  return _cell(next((r for r in inside if r.get('level', 0) == last), row), 'early_stop_step')


def _levels(rows) -> dict[tuple, list[dict]]:
  """(stage, level, net) -> its rows: several where a control was drawn several times."""
  groups = {}
  for row in _summaries(rows, 'level'):
    named = tuple(pool.field(row, name) for name in ('stage', 'level', 'net'))
    groups.setdefault(named, []).append(row)
  return groups


def levels(rows: list[dict]) -> Table:
  """The nets of every level: early stop, accuracies, and the difference from the dense net."""
  groups = _levels(rows)
  several = len({stage for stage, _, _ in groups}) > 1
  dense = {}  # stage -> the rows of its first net at level 0
  for (stage, level, _), group in groups.items():
    if level == 0:
      dense.setdefault(stage, group)
  lines = []
  for (stage, _, net), group in groups.items():
    lines.append({
      'kept (%)': number('kept', pool.field(group[0], 'kept')),
      'stage': stage if several else NONE,
      'net': net,
      **{heading: _against(group, dense.get(stage)) if key == 'against_dense' else spread(
        key, pool.pooled(group, key)) for key, heading in LEVEL.items()},
    })  # fmt: skip
  note = (
    'Mean [least, greatest] over seeds and draws of a control. Against dense: the paired '
    'difference of the accuracies at early stop [95 % interval over seeds], "no difference" where '
    'the interval holds zero.'
  )
  return _table('Levels', lines, note)


def lessons(rows: list[dict]) -> Table:
  """Teachers, students, corrections and specialists: what they were given and what they know."""
  found = [row for kind in LESSONS for row in _summaries(rows, kind)]
  if all(row['kind'] == 'tune' for row in found):
    return _table('Taught', [])
  found.sort(key=rows.index)
  lines = [
    {
      'stage': pool.field(row, 'stage'),
      'net': str(row.get(LESSONS[row['kind']], LESSONS[row['kind']])),
      **{heading: _cell(row, key) for key, heading in LESSON.items()},
    }
    for row in found
  ]
  note = 'Mean [least, greatest] over seeds. Soft and hard: weights of the two losses.'
  return _table('Taught', lines, note)


def _against(group, dense) -> str:
  """The paired difference of accuracies at early stop, in percentage points."""
  if dense is None or group is dense:
    return NONE
  a, b = (pool.per_seed(rows, 'early_stop_test_accuracy') for rows in (group, dense))
  seeds = [seed for seed in a if seed in b]
  found = paired_difference(
    *([100 * np.mean(values[seed]) for seed in seeds] for values in (a, b))
  )
  text = wording(found)
  if found.count < 2:
    return text.replace(', no interval', '') if found.count else NONE
  return text if found.excludes(0) else text.replace(' found (', ' ').replace(')', '')


def answers(rows: list[dict], paper: dict) -> Table:
  """The paper's claims beside what was measured."""
  lines = [
    {'': a.name, 'claim': a.claim, 'paper': a.paper, 'ours': a.ours}
    for a in claims.answers(rows, paper)
  ]
  note = 'Values: mean [least, greatest]; differences: paired by seed [95 % interval over seeds].'
  return _table('Beside the paper', lines, note)


def brief(rows: list[dict]) -> Table:
  """The table that ends a run: a line for each stage and for each net of its levels."""
  found, groups = _summaries(rows, 'stage'), _levels(rows)
  lines = []
  for row in found:
    for (stage, level, net), group in groups.items():
      if stage == row['stage']:
        lines.append({
          '': f'  level {level} {net}',
          'kept (%)': number('kept', pool.field(group[0], 'kept')),
          'accuracy (%)': spread('accuracy', pool.pooled(group, 'test_accuracy')),
          'early-stop step': spread('early_stop_step', pool.pooled(group, 'early_stop_step')),
          'size': NONE,
        })  # fmt: skip
    for made in _summaries(rows, 'microcontroller'):
      if pool.field(made, 'stage') == row['stage']:
        lines.append({
          '': '  int8 in C', 'kept (%)': NONE, 'accuracy (%)': _cell(made, 'int8_accuracy'),
          'early-stop step': NONE, 'size': number('bytes', made['flash'] or made['constants']),
        })  # fmt: skip
    metric = row.get('metric', 'accuracy')
    lines.append({
      '': row['stage'],
      'kept (%)': _kept(row, found[0]),
      'accuracy (%)' if metric == 'accuracy' else metric: _cell(row, metric),
      'early-stop step': _early_stop(row, rows),
      'size': _cell(row, 'bytes'),
    })  # fmt: skip
  columns = dict.fromkeys(key for line in lines for key in line)
  lines = [{key: line.get(key, NONE) for key in columns} for line in lines]
  told = '; test accuracy at the end' if 'accuracy (%)' in columns else ''
  in_c = ''.join(map(_in_c, _summaries(rows, 'microcontroller')[-1:]))  # the last of several
  return _table('', lines, f'Mean [least, greatest] over seeds{told}.{in_c}')


def _in_c(row) -> str:
  """' In C for stm32f746: 94 B of arena, 5,120 instructions, 20 of 20 outputs as interpreted.'"""
  told = f' In C for {row["board"]}: {row["arena"]:,} B of arena'
  if row['instructions']:
    told += f', {row["instructions"]:,} instructions of an emulated {row["core"].upper()}'
  if row.get('equal_in_c') is not None:
    told += f', {row["equal_in_c"]} of {row["compared"]} outputs as interpreted'
  return f'{told}.'


def numeric(table: Table, column: int) -> bool:
  """Whether a column holds numbers, which stand right."""
  texts = [row[column] for row in table.rows if row[column] != NONE]
  like = re.compile(r'[-+\N{MINUS SIGN}]?\d|no difference|not finite')
  written = table.columns[column] in ('claim', 'paper', 'ours')
  return bool(texts) and not written and all(map(like.match, texts))


def markdown(table: Table) -> str:
  """A table in GitHub's Markdown; nothing in a cell is read as markup."""
  rule = ['--:' if numeric(table, i) else '---' for i in range(len(table.columns))]
  line = lambda cells: '| ' + ' | '.join(cells) + ' |'
  rows = [line(map(escape, row)) for row in table.rows]
  return '\n'.join([line(map(escape, table.columns)), line(rule), *rows])


def escape(text: str) -> str:
  """Text in Markdown that means itself; code in backticks; always one line."""
  code, text = isinstance(text, Code), ' '.join(text.split())
  if code:
    fence = '`' * (1 + max(map(len, re.findall('`+', text)), default=0))
    pad = ' ' if '`' in text else ''
    return f'{fence}{pad}{text}{pad}{fence}'.replace('|', r'\|')
  text = text.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')
  return re.sub(r'([\\`*_|~]|\](?=[(\[:])|\[(?=[^\]]*\][(\[:]))', r'\\\1', text)


def plain(table: Table) -> str:
  """A table as columns of text."""
  widths = [max(map(len, column)) for column in zip(table.columns, *table.rows)]
  right = [numeric(table, i) for i in range(len(widths))]
  line = lambda cells: '  '.join(
    cell.rjust(width) if at_right else cell.ljust(width)
    for cell, width, at_right in zip(cells, widths, right)
  ).rstrip()
  return '\n'.join([line(table.columns), *map(line, table.rows), table.note]).rstrip()


def terminal(table: Table):
  """A table as a `rich.table.Table`; what stands in it is no markup."""
  from rich import box
  from rich.table import Table as Drawn
  from rich.text import Text

  note = Text(table.note, style='dim')
  drawn = Drawn(box=box.SIMPLE_HEAD, caption=note, caption_justify='left', pad_edge=False)
  for i, column in enumerate(table.columns):
    drawn.add_column(Text(column), justify='right' if numeric(table, i) else 'left', no_wrap=i == 0)
  for row in table.rows:
    drawn.add_row(*map(Text, row), style='' if row[0].startswith(' ') else 'bold')
  return drawn


def filled(tables: Iterable[Table]) -> list[Table]:
  """Those that have rows."""
  return [table for table in tables if table.rows]
