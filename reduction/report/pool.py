"""Rows as reports use them: read from files, chosen by their fields, pooled over seeds, merged.

A row is a flat dict. A value that varies over seeds is a list in the order of the row's `seeds`;
None in it is a number that was not finite. Rows of curves leave `seeds` out.
"""

import functools
import json
import pathlib
import re

import numpy as np

from reduction.errors import DataError, MissingInput, UsageError
from reduction.report.intervals import is_fraction

# What the cells of a grid differ by, beside the method; see `stages.compare`.
POINT = 'bits', 'group', 'activations', 'kept', 'scaled', 'draw'
# What tells two rows of a kind apart; all else in them is measured.
NAMES = {
  'curve': ('at', 'net', 'level', 'step'),
  'level': ('at', 'net', 'level'),
  'stage': ('stage',),
  'path': ('at', 'share'),
  'instability': ('at',),
  'histogram': ('at', 'layer', 'weight'),
  'tune': ('at',),
  'pretrained': ('at',),
  'spectrum': ('at', 'step', 'matrix', 'index'),
  'sent': ('at', 'tensor'),
  'rank': ('at', 'tensor', 'step'),
  'refusals': ('at', 'client'),
  'teacher': ('at',),
  'distill': ('at',),
  'correct': ('at',),
  'specialist': ('at', 'classes'),
  'specialists': ('at',),
  'system': ('at', 'net'),
  'gain': ('at',),
  'versus': ('at', 'net', 'base'),
  'folder': ('at',),
  'quantized': ('at', 'linear', 'net', *POINT),
  'salient': ('at',),
  'qat': ('at',),
  'cell': ('at', 'net', *POINT),
  'preflight': ('at',),
  'microcontroller': ('at',),
  'layer': ('at', 'layer'),
  'tensor': ('at', 'tensor'),
  'architecture': ('at', 'model'),
  'account': ('at', 'model', 'stored'),
  'shipped': ('at', 'model'),
  'core': ('at', 'model', 'core'),
  'ablation': ('at', 'model', 'switch'),
  'patched': ('at', 'model', 'patches'),
  'filterlet': ('at',),
  'schedule': ('at',),
  'right': ('at',),
  'rival': ('at', 'net', 'base', 'share'),
  'supernet': ('at', 'phase'),
  'generation': ('at', 'step'),
  'found': ('at', 'method'),
  'finalist': ('at', 'method'),
  'network': ('at', 'network'),
  'scaled': ('at',),
  'agreement': ('at',),
  'predictor': ('at',),
  'policy': ('at',),
  'listed': ('at', 'network'),
  'method': ('at', 'method', 'push', 'target'),
  'choice': ('at', 'budget'),
  'space': ('at', 'budget', 'resolution', 'width'),
  'cdf': ('at', 'budget', 'space', 'quantile'),
}
TOLERANCE = 0.05  # relative; levels of a lottery lie 10 % to 30 % apart


def read(path: pathlib.Path) -> list[dict]:
  """The rows of a JSON-lines file, equal lines once; a last line without its end is left out.

  Raises MissingInput, or DataError naming the line that is not a row.
  """
  try:
    text = path.read_text(encoding='utf-8')
  except (FileNotFoundError, NotADirectoryError) as error:
    raise MissingInput(f'{path} is not there; is {path.parent} the workdir of a run?') from error
  except (OSError, UnicodeDecodeError) as error:
    raise DataError(f'cannot read {path}: {error}') from error
  lines = text.split('\n')[:-1]  # what follows the last newline is still being written
  rows = {}
  for number, line in enumerate(lines, 1):
    try:
      row = json.loads(line) if line.strip() else None
    except ValueError as error:
      raise DataError(f'{path}:{number} is not JSON: {error}') from error
    if row is not None and not isinstance(row, dict):
      raise DataError(f'{path}:{number} is no row: a row is a JSON object')
    if row is not None:
      rows[line] = row  # a resumed run may write a row again, bit for bit
  return list(rows.values())


def field(row: dict, name: str):
  """A field to choose by: the mean where it varies over seeds; `stage` is where `at` begins."""
  value = row.get(name)
  if name == 'stage' and value is None and row.get('at'):
    return row['at'].split('/')[0]
  if name == 'run' and value is None:
    return 'this run'
  return float(np.mean(value)) if isinstance(value, list) and value else value


def listed(wanted) -> list:
  """A wanted value, or several, as a list."""
  return list(wanted) if isinstance(wanted, list | tuple) else [wanted]


def select(rows: list[dict], where: dict) -> tuple[list[dict], list[str]]:
  """Rows whose fields are as `where` says, and a description of each wanted value none has.

  where: field -> value or values. Text and integers must be equal; of a float the nearest value
  present is meant, among rows equal in what else is named, and within 5 %.
  """
  absent = []
  texts = [name for name, wanted in where.items() if not _nearest(wanted)]
  for name in texts:
    wanted = listed(where[name])
    found = {field(row, name) for row in rows}
    absent += [f'{name} {value}' for value in wanted if value not in found]
    rows = [row for row in rows if field(row, name) in wanted]
  for name in where.keys() - set(texts):
    groups = {}
    for row in rows:
      if isinstance(field(row, name), int | float):
        groups.setdefault(tuple(field(row, text) for text in texts), []).append(row)
    kept = {}
    for wanted in listed(where[name]):
      near = [row for group in groups.values() for row in _closest(group, name, wanted)]
      if not near:
        shown = f'{100 * wanted:.3g} %' if is_fraction(name) else f'{wanted:g}'
        absent.append(f'{name} {shown}')
      kept |= {id(row): row for row in near}
    rows = [row for row in rows if id(row) in kept]
  return rows, absent


def _nearest(wanted) -> bool:
  return any(isinstance(value, float) for value in listed(wanted))


def _closest(rows, name, wanted):
  best = min((field(row, name) for row in rows), key=lambda value: abs(value - wanted))
  near = abs(best - wanted) <= TOLERANCE * abs(wanted)
  return [row for row in rows if near and field(row, name) == best]


def natural(name: str) -> list:
  """Sorts 'R2' before 'R10' and '2: large' before '10: small'."""
  parts = re.split(r'(\d+)', name)  # texts and numbers in turn
  return [int(part) if part.isdecimal() else part for part in parts]


def per_seed(rows: list[dict], key: str) -> dict:
  """seed -> the values [n] that rows hold of key: one a row, several where a control has draws."""
  values = {}
  for row in rows:
    value = row.get(key)
    if value is None or isinstance(value, str | bool):
      continue
    many = value if isinstance(value, list) else None
    seeds = row.get('seeds') or range(len(many) if many else 1)
    if many is not None and len(many) != len(seeds):
      raise DataError(f'{row.get("at", "a row")}: {len(many)} values of {key}, {len(seeds)} seeds')
    for seed, x in zip(seeds, many or [value] * len(seeds)):
      values.setdefault(seed, []).append(np.nan if x is None else float(x))
  return values


def pooled(rows: list[dict], key: str) -> list[float]:
  """All values of key over rows and seeds, NaN where one was not finite."""
  return [x for values in per_seed(rows, key).values() for x in values]


def merge(runs: list[list[dict]]) -> list[dict]:
  """The rows of runs that differ in their seeds alone, as one run with all the seeds.

  Rows of the same name become one, their lists concatenated in the order of the runs; a value that
  is the same in all stays single. Raises UsageError where a seed is in two with other results.
  """
  same, others = {}, []
  for rows in runs:
    for row in rows:
      names = NAMES.get(row.get('kind'))
      named = (row['kind'], *(row.get(name) for name in names)) if names else None
      found = same.setdefault(named, []) if names else others
      if row not in found:
        found.append(row)
  return [*(functools.reduce(_joined, found) for found in same.values()), *others]


def _joined(a: dict, b: dict) -> dict:
  """b's new seeds behind those of a; a seed in both must hold the same."""
  seeds, more = a.get('seeds', ()), b.get('seeds', ())
  new = [i for i, seed in enumerate(more) if seed not in seeds]
  joined = {}
  for key in (key for key in a if key in b):
    for i, seed in enumerate(more):
      if seed in seeds and _one(a, key, seeds.index(seed)) != _one(b, key, i):
        raise UsageError(
          f'{a.get("at") or a.get("stage")}: seed {seed} was run twice and {key} differs; '
          'name one of the two runs'
        )
    if isinstance(a[key], list) or a[key] != b[key]:
      joined[key] = [_one(a, key, i) for i in range(len(seeds))] + [_one(b, key, i) for i in new]
    else:
      joined[key] = a[key]
  return joined


def _one(row, key, index):
  """The value of one seed."""
  return row[key][index] if isinstance(row[key], list) else row[key]
