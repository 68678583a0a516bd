"""What a paper claims beside what the rows say. Claims are data, the config's `paper`:

    'R2': dict(
      claim='early stop at 21.1 % kept, against dense', paper='38 % sooner',
      measure=dict(kind='level', net='ticket', kept=0.211, key='early_stop_step',
                   against=dict(kept=1.0), how='relative'),
      why='needs the full 15,000 steps')

claim, paper: text. why: shown after 'not run' where the rows lack what `measure` names.
measure: kind, the rows' kind. net, bits, group, kept, level, stage, step, at: which rows; a float
means the nearest value within 5 %. run: the run whose rows these are, where not this one: its
config's name, 'lottery/lenet:15k'. key: the measured field. against: what differs in the rows
compared with (any of these fields, and key). how: one of
  value       mean [least, greatest] over seeds; without `against`
  bootstrap   the row's own number and interval, its fields key, key_low and key_high; 'not claimed'
              where the row has None for it; of runs of a seed each, one after another; without
              `against`
  difference  this - that, in percentage points for accuracies
  relative    mean(this) / mean(that) - 1, in percent: how far averaged curves lie apart
  ratio       this / that, geometric mean over seeds
Comparisons pair by seed (a control drawn several times for a seed counts as their mean) and give a
95 % t-interval over seeds; 'no difference found' where it holds zero (one, for ratios).
"""

import math
from typing import NamedTuple

import numpy as np

from reduction.errors import UsageError, did_you_mean, require
from reduction.report import intervals, pool

FIELDS = ('at', 'bits', 'group', 'kept', 'level', 'net', 'run', 'stage', 'step')
KINDS = ('value', 'bootstrap', 'difference', 'relative', 'ratio')
ALONE = KINDS[:2]  # which compare with nothing


class Answer(NamedTuple):
  """One claim with what was measured: text as shown, `run` False where the rows lack it."""

  name: str
  claim: str
  paper: str
  ours: str
  run: bool


def check(paper: dict):
  """Raises UsageError, with a did-you-mean, where a claim is not as this file documents."""
  for name, claim in paper.items():
    at = f'config.paper.{name}'
    require(isinstance(claim, dict), f'{at}={claim!r} must be a dict of claim, paper, measure')
    _known(at, claim, ('claim', 'paper', 'measure', 'why'), ('claim', 'paper', 'measure'))
    measure = claim['measure']
    known = (*FIELDS, 'kind', 'key', 'how', 'against')
    _known(f'{at}.measure', measure, known, ('kind', 'key', 'how'))
    _known(f'{at}.measure.against', measure.get('against', {}), (*FIELDS, 'key'), ())
    how = measure['how']
    require(how in KINDS, f'{at}.measure.how={how!r} is unknown.{did_you_mean(how, KINDS)}')
    require(
      (how in ALONE) != ('against' in measure),
      f'{at}.measure: {how!r} {"stands alone, without" if how in ALONE else "needs"} an against',
    )


def _known(at, given, known, needed):
  require(isinstance(given, dict), f'{at}={given!r} must be a dict')
  for key in given:
    require(key in known, f'{at} has no {key!r}.{did_you_mean(key, known)}')
  for key in needed:
    require(key in given, f'{at} needs {key!r}')


def answers(rows: list[dict], paper: dict) -> list[Answer]:
  """Each claim of `paper` beside what rows say. Raises UsageError for a claim that is malformed."""
  check(paper)
  found = []
  for name in sorted(paper, key=pool.natural):
    claim = paper[name]
    try:
      ours, absent = _measured(rows, claim['measure'])
    except UsageError as error:  # a slip in one claim takes no report away
      ours, absent = f'not measured: {error}', ''
    if absent:
      ours = f'not run: {claim.get("why") or absent}'
    found.append(Answer(name, claim['claim'], claim['paper'], ours, not absent))
  return found


def _measured(rows, measure) -> tuple[str, str]:
  """(what was measured, '') or ('', what is missing)."""
  where = {key: measure[key] for key in FIELDS if key in measure}
  key, how = measure['key'], measure['how']
  if how == 'bootstrap':
    chosen, absent = _chosen(rows, measure['kind'], where, key)
    return ('', absent) if absent else (_bootstrapped(chosen[0], key), '')
  this, absent = _values(rows, measure['kind'], where, key)
  if absent or how == 'value':
    flat = [x for values in this.values() for x in values]
    unit = ' %' if intervals.is_fraction(key) else ''
    return ('', absent) if absent else (_with_unit(intervals.spread(key, flat), unit), '')
  against = dict(measure['against'])
  other_key = against.pop('key', key)
  that, absent = _values(rows, measure['kind'], {**where, **against}, other_key)
  if absent:
    return '', absent
  seeds = [seed for seed in this if seed in that]
  a = np.array([np.mean(this[seed]) for seed in seeds])
  b = np.array([np.mean(that[seed]) for seed in seeds])
  with np.errstate(all='ignore'):  # a zero or a NaN is said in words
    return _compared(a, b, key, how), ''


def _bootstrapped(row, key) -> str:
  found = [row.get(name) for name in (key, f'{key}_low', f'{key}_high')]
  if None in found:
    return 'not claimed: what it is a share of is within its own interval'
  if isinstance(found[0], list):  # of several runs, a seed each
    each = [dict(zip((key, f'{key}_low', f'{key}_high'), one)) for one in zip(*found)]
    return '; '.join(_bootstrapped(one, key) for one in each) + ', seed by seed'
  gain, of_two = key.endswith('gain'), 2  # as if of two values: an interval stands beside it
  found = intervals.Interval(*(100 * x for x in found), of_two)
  return intervals.wording(found, ' pp' if gain else ' %', digits=2 if gain else 0, signed=gain)


def _compared(a, b, key, how) -> str:
  if how == 'difference':
    percent = intervals.is_fraction(key)
    scale = 100 if percent else 1
    found = intervals.paired_difference(scale * a, scale * b)
    digits = 2 if percent or abs(found.mean) < 10 else 0
    return intervals.wording(found, ' pp' if percent else '', digits=digits)
  if how == 'relative':
    change = intervals.relative_change(a, b)
    found = intervals.Interval(*(100 * x for x in change[:3]), change.count)
    return intervals.wording(found, ' %', digits=0 if abs(found.mean) >= 10 else 1)
  logs = intervals.paired_difference(np.log(a), np.log(b))
  found = intervals.Interval(*(_exp(x) for x in logs[:3]), logs.count)
  return intervals.wording(found, intervals.TIMES, zero=1.0, signed=False)


def _exp(x):
  return 0.0 if x == -math.inf else float(np.exp(x))


def _values(rows, kind, where, key) -> tuple[dict, str]:
  """seed -> values of the rows named, or what is missing."""
  rows, absent = _chosen(rows, kind, where, key)
  values = pool.per_seed(rows, key)
  return values, absent or ('' if values else f'no {key} in these rows')


def _chosen(rows, kind, where, key) -> tuple[list[dict], str]:
  """The rows named, those of one net, level and stage, or what is missing."""
  run = where.get('run', 'this run')
  rows = [row for row in rows if row.get('kind') == kind and pool.field(row, 'run') == run]
  if not rows:
    return [], f'no rows of kind {kind}' + f' of {run}' * ('run' in where)
  known = {name for row in rows for name in row}
  require(key in known, f'{key!r} is in no row of kind {kind}.{did_you_mean(key, known)}')
  rows, absent = pool.select(rows, where)
  if absent or not rows:
    return [], f'no {kind} with ' + (', '.join(absent) or 'all of ' + ', '.join(map(str, where)))
  for name in ('net', 'bits', 'group', 'kept', 'level', 'stage', 'step'):
    several = {pool.field(row, name) for row in rows}
    require(
      len(several) == 1,
      f'{key} of {where} is that of several: {name} {", ".join(sorted(map(str, several)))}; '
      f'name one {name} in the measure',
    )
  return rows, ''


def _with_unit(text, unit):
  mean, bracket, rest = text.partition(' [')
  return mean + unit + bracket + rest
