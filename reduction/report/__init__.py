"""A run's files to `report.md`, `report.html` and the table that ends it.

`config.json`, `metrics.jsonl` and `sessions.jsonl` of a workdir are all that a report is made of:
the same files give the same bytes. Tables hold the rows marked `summary`; the config's `figures`
(documented in figures.py here), `tables` (in pivot.py) and `paper` (in claims.py) say what is drawn
and what is compared with the paper. Rows of kinds that nobody names are ignored.
"""

import json
import pathlib
import sys
from collections.abc import Callable, Sequence

from reduction.errors import DataError, require
from reduction.report import claims, figures, memory, page, pivot, pool, tables
from reduction.report.intervals import NONE, interval, paired_difference, wording
from reduction.report.tables import Code, Table, markdown, terminal

__all__ = [
  'Table', 'check', 'facts', 'interval', 'load', 'markdown', 'paired_difference', 'pivots',
  'render', 'show', 'table', 'terminal', 'wording', 'write',
]  # fmt: skip


def check(config: dict):
  """Raises UsageError, with a did-you-mean, where `figures`, `tables` or `paper` are not as
  documented."""
  for key, part in ('figures', figures), ('tables', pivot), ('paper', claims):
    require(isinstance(config.get(key, {}), dict), f'config.{key} must be a dict')
    part.check(config.get(key, {}))


def table(rows: list[dict]) -> list[Table]:
  """Before and after every stage, the levels, and who was taught; those that rows hold."""
  return tables.filled([tables.stages(rows), tables.levels(rows), tables.lessons(rows)])


def pivots(rows: list[dict], config: dict) -> list[Table]:
  """The tables that a config describes, in the order of their names; those that rows fill."""
  described = config.get('tables', {})
  names = sorted(described, key=pool.natural)
  return tables.filled([pivot.pivoted(rows, described[name]) for name in names])


def facts(rows: list[dict], config: dict, sessions: Sequence[dict]) -> dict[str, str]:
  """What was run, on what, for how long; without what is not known."""
  several = lambda key: dict.fromkeys(s[key] for s in sessions if s.get(key))
  steps = sorted({row['steps'] for row in rows if 'steps' in row})
  versions = sessions[-1].get('versions', {}) if sessions else {}
  found = {
    'model': _named(config.get('model', '')),
    'data': _named(config.get('data', '')),
    'stages': ', '.join(config.get('stages', ())),
    'seeds': ', '.join(map(str, config.get('seeds', ()))),
    'steps a training': ', '.join(f'{n:,}' for n in steps),
    'hardware': '; '.join(several('hardware')),
    'time': duration(sum(s['seconds'] for s in sessions)) if sessions else '',
    'versions': ', '.join(f'{name} {version}' for name, version in versions.items()),
    'command': Code('\n'.join(several('command'))),
  }
  return {name: text for name, text in found.items() if text}


def _named(part) -> str:
  return str(part.get('name', part.get('path', ''))) if isinstance(part, dict) else str(part)


def duration(seconds: float) -> str:
  """'38 s', '4 min 10 s', '1 h 12 min'."""
  minutes, rest = divmod(round(seconds), 60)
  if minutes < 60:
    return f'{minutes} min {rest} s' if minutes else f'{rest} s'
  return f'{minutes // 60:,} h {minutes % 60} min'


def _lead(told: dict, config: dict) -> str:
  """One line: 'lenet on mnist, 5 seeds, 15,000 steps a training, 1 h 12 min on 2 x ..., cpu'."""
  count = len(config.get('seeds', ()))
  parts = [
    ' on '.join(told[key] for key in ('model', 'data') if key in told),
    f'{count} seed{"s" * (count > 1)}' if count else '',
    f'{told["steps a training"]} steps a training' if 'steps a training' in told else '',
    ' on '.join(told[key] for key in ('time', 'hardware') if key in told),
  ]
  return ', '.join(part for part in parts if part)


def _tiles(before_after: Table) -> list[tuple[str, str]]:
  """(number, what it is) of the last stage: what the run came to."""
  last = dict(zip(before_after.columns, before_after.rows[-1]))
  wanted = {
    'kept (%)': 'of the weights kept', 'accuracy (%)': 'test accuracy', 'size': 'stored',
    'smaller': 'smaller in storage',
  }  # fmt: skip
  found = []
  for column, what in wanted.items():
    mean, bracket, rest = last.get(column, NONE).partition(' [')
    if mean != NONE:
      found.append((mean + ' %' * column.endswith('(%)'), what + bracket + rest))
  return found


def render(
  rows: list[dict], config: dict, sessions: Sequence[dict] = (), name: str = ''
) -> tuple[str, str]:
  """(Markdown, HTML) of a run; name is its title where the config has none.

  Rows that carry `run` are another run's: only figures that name `run` draw them.
  """
  check(config)
  title = config.get('title') or name or 'Report'
  told, made = facts(rows, config, sessions), table(rows)
  tiles = _tiles(made[0]) if made and made[0].title == 'Before and after' else []
  mine = pivots(rows, config) + (
    [tables.answers(rows, config['paper'])] if config.get('paper') else []
  )
  made[(at := 1 if tiles else 0) : at] = mine
  figures_of_run = [*_figures(rows, config).values(), *memory.draw(rows)]
  lead = _lead(told, config)
  listed = '\n'.join(f'- {key}: {tables.escape(text)}' for key, text in told.items())
  parts = [f'# {tables.escape(title)}', tables.escape(lead), listed]
  parts += [f'## {t.title}\n\n{markdown(t)}\n\n{t.note}' for t in made]
  html = page.html(title, lead, told, tiles, made, figures_of_run, config)
  return '\n\n'.join(part for part in parts if part) + '\n', html


def drawn(rows: list[dict], config: dict) -> dict[str, figures.Figure]:
  """The figures of a config by name, of those that its rows fill at all."""
  return {key: figure for key, figure in _figures(rows, config).items() if figure.panels}


def _figures(rows, config) -> dict:
  specs = config.get('figures', {})
  return {key: figures.draw(key, specs[key], rows) for key in sorted(specs, key=pool.natural)}


def load(workdir: pathlib.Path) -> tuple[list[dict], dict, list[dict]]:
  """(rows, config, sessions) of a workdir. Raises MissingInput or DataError naming the file."""
  rows, path = pool.read(workdir / 'metrics.jsonl'), workdir / 'config.json'
  try:
    config = json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError) as error:
    raise DataError(f'cannot read {path}: {error}') from error
  require(isinstance(config, dict), f'{path} holds no config: a JSON object')
  sessions = workdir / 'sessions.jsonl'
  return rows, config, pool.read(sessions) if sessions.exists() else []


def write(
  workdir: pathlib.Path | str, put: Callable[[pathlib.Path, str], None] | None = None
) -> tuple[pathlib.Path, pathlib.Path]:
  """Writes report.md and report.html into a workdir, each whole or not at all; returns the paths.

  put: writes text to a path; by default `checkpoint.write_atomic`, which raises StorageError.
  """
  if put is None:
    from reduction.checkpoint import write_atomic as put  # imports JAX, a second
  workdir = pathlib.Path(workdir)
  paths = workdir / 'report.md', workdir / 'report.html'
  for path, text in zip(paths, render(*load(workdir), name=workdir.absolute().name)):
    put(path, text)
  return paths


def show(run: pathlib.Path | str | list[dict], file=None):
  """Prints the table that ends a run, given a workdir or rows; drawn where file is a terminal."""
  rows = run if isinstance(run, list) else pool.read(pathlib.Path(run) / 'metrics.jsonl')
  file, made = file or sys.stdout, tables.brief(rows)
  if not made.rows:
    return
  if file.isatty():
    from rich.console import Console

    Console(file=file, highlight=False).print(terminal(made))
  else:
    encoding = getattr(file, 'encoding', None) or 'utf-8'
    # a terminal of another alphabet loses a dash, not the table
    print(tables.plain(made).encode(encoding, 'replace').decode(encoding), file=file)
