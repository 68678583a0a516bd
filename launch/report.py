"""Reports of finished runs: python -m launch.report configs/*/results/*.jsonl --readme=README.md

Each argument is a workdir or a committed file of rows. Runs of one config that differ in seeds, or
in the grids of what they compare, are merged. Without a flag, the report of each workdir is written
anew and its table shown.

A committed file holds a header row, {"kind": "run", "config": "configs/lottery/lenet.py",
"config_overrides": {...}, "command": ..., "seconds": ..., "hardware": ..., "versions": {...},
"resolved": the whole config}, then the rows marked `summary`.

In the README, what stands between `<!-- results:NAME -->` and `<!-- /results:NAME -->` is replaced
by the claims of NAME's runs beside what was measured, and by the tables that their configs
describe. NAME is a config, 'lottery/lenet', one of its variants, 'lottery/lenet:quick', or a
folder, 'lottery'. A variant has a table of its own.
"""

import itertools
import json
import pathlib
import re
import shlex
from typing import NamedTuple

from absl import flags

from launch import cli
from reduction import report
from reduction.errors import DataError, MissingInput, UsageError, require
from reduction.report import picture, pool, tables
from reduction.report.tables import Code, Table

FLAGS = flags.FLAGS
flags.DEFINE_string('readme', None, 'Replace the marked results in this file.')
flags.DEFINE_string('html', None, "Write the first run's page here; its figures see all runs.")
flags.DEFINE_string('pictures', None, "Write the first run's figures into this folder, as SVG.")
flags.DEFINE_string('export', None, 'Write a header and the summary rows of one run here.')
MOST = 300_000  # bytes of a committed file
RUNS = ('config', 'command', 'hardware, time')  # columns beside a claim
SCALED = {'15k', 'mini', 'part', 'quick', 'stories'}  # variants smaller than the paper's
# what may differ between runs that are merged
FREE = ('seeds', 'figures', 'tables', 'paper', 'title')


class Source(NamedTuple):
  """One or more merged runs of a config: its name ('lottery/lenet'), what ran, the rows."""

  name: str
  header: dict
  sessions: list[dict]
  rows: list[dict]


def read(path: pathlib.Path) -> Source:
  """A workdir or a committed file of rows."""
  if path.is_dir():
    rows, config, sessions = report.load(path)
    header = header_of(config, sessions)
    # rows of curves leave the seeds out, which merging needs
    rows = [dict(row, seeds=config['seeds']) if row.get('kind') == 'curve' else row for row in rows]
    return Source(_name(header['config']) or path.absolute().name, header, sessions, rows)
  if not path.is_file():
    raise MissingInput(f'{path} is neither a workdir nor a file of rows')
  header, *rows = pool.read(path) or [{}]
  if header.get('kind') != 'run':
    raise DataError(f'{path}:1 is no header: {{"kind": "run", ...}}; make it with --export')
  missing = [key for key in ('config', 'command', 'seconds', 'hardware') if key not in header]
  if missing:
    raise DataError(f'{path}:1, the header, lacks {", ".join(missing)}; make it with --export')
  return Source(_name(header['config']) or path.stem, header, [header], rows)


def header_of(config: dict, sessions: list[dict]) -> dict:
  """The header row of a run: its commands and their time, without this machine's paths."""
  command = _commands(sessions)
  given = _flags(command.partition(' && ')[0])
  return dict(
    kind='run',
    config=given.get('--config', ''),
    config_overrides={key[9:]: value for key, value in given.items() if key[:9] == '--config.'},
    command=command,
    seconds=round(sum(session['seconds'] for session in sessions), 1),
    hardware=_hardware(sessions),
    versions=sessions[-1].get('versions', {}) if sessions else {},
    resolved=config,
  )


def _commands(sessions) -> str:
  """The distinct commands of sessions, as one line for a shell."""
  return ' && '.join(dict.fromkeys(portable(session['command']) for session in sessions))


def _hardware(sessions) -> str:
  return '; '.join(dict.fromkeys(session['hardware'] for session in sessions))


def portable(command: str) -> str:
  """A command, or several joined by &&, as it runs elsewhere: without absolute paths."""
  if ' && ' in command:
    return ' && '.join(map(portable, command.split(' && ')))
  program = itertools.takewhile(lambda word: not word.startswith('--'), shlex.split(command))
  words = list(program)
  for name, value in _flags(command).items():
    path = pathlib.PurePath(value or '')
    if path.is_absolute():
      inside = path.parts[path.parts.index('configs') :] if 'configs' in path.parts else ()
      value = str(pathlib.PurePath(*inside or ('runs', path.name)))
    if not (path.is_absolute() and name == '--data_dir'):
      words.append(name if value is None else f'{name}={value}')
  return shlex.join(words)


def _flags(command: str) -> dict[str, str | None]:
  """The flags of a command, '--name value' and '--name=value' alike; None for '--name' alone."""
  words, found = shlex.split(command), {}
  for word, after in itertools.zip_longest(words, words[1:], fillvalue='--'):
    if word.startswith('--'):
      name, equals, value = word.partition('=')
      found[name] = value if equals else None if after.startswith('--') else after
  return found


def _name(config: str) -> str:
  return re.sub(r'^configs/|\.py(?=:|$)', '', config)


def merged(sources: list[Source]) -> list[Source]:
  """Runs that differ in seeds or grids alone become one; a run given twice counts once."""
  groups = {}
  for source in sources:
    groups.setdefault(_identity(source), []).append(source)
  found = []
  for group in groups.values():
    group.sort(key=lambda source: -len(_seeds(source)))
    first, seeds, sessions, held = group[0], {}, [], set()
    for source in group:
      # a workdir beside the file made of it took no time of its own
      sessions += source.sessions if _held(source) - held or not held else []
      seeds |= _seeds(source)
      held |= _held(source)
    rows = pool.merge([source.rows for source in group])
    config = dict(_with_grids(group), seeds=list(seeds))
    found.append(Source(first.name, {**first.header, 'resolved': config}, sessions, rows))
  return found


def _with_grids(group) -> dict:
  """The config of merged runs, its grids with the points of all."""
  configs = [source.header.get('resolved', {}) for source in group]
  found = dict(configs[0])
  for stage, part in configs[0].items():
    if isinstance(part, dict) and part.get('grid'):
      every = {name: [v for c in configs for v in c[stage]['grid'][name]] for name in part['grid']}
      found[stage] = dict(part, grid={n: list(dict.fromkeys(all_)) for n, all_ in every.items()})
  return found


def _seeds(source) -> dict:
  """The seeds that its rows hold, in order."""
  return dict.fromkeys(seed for row in source.rows for seed in row.get('seeds', ()))


def _held(source) -> set:
  """What tells its summary rows apart, for each seed of theirs."""
  names = lambda row: ('kind', *pool.NAMES.get(row.get('kind'), ()))
  return {
    (*(str(row.get(name)) for name in names(row)), seed)
    for row in source.rows if row.get('summary') for seed in row.get('seeds', ())
  }  # fmt: skip


def _identity(source) -> str:
  header = source.header
  if 'resolved' in header:
    config = {
      key: {k: v for k, v in value.items() if k != 'grid'} if isinstance(value, dict) else value
      for key, value in header['resolved'].items() if key not in FREE
    }  # fmt: skip
  else:
    config = {k: v for k, v in header.get('config_overrides', {}).items() if k not in FREE}
  return json.dumps([source.name, config], sort_keys=True)


def export(source: Source) -> str:
  """The text of a committed file. Raises UsageError where it would be too large, or empty."""
  rows = [row for row in source.rows if row.get('summary')]
  require(rows, f'{source.name} has no row marked summary yet; let the run come further')
  header = header_of(source.header['resolved'], source.sessions)
  text = ''.join(json.dumps(row) + '\n' for row in (header, *rows))
  require(
    len(text.encode()) <= MOST,
    f'{len(text.encode()):,} bytes of {len(rows)} summary rows are more than the {MOST:,} that a '
    'results file may hold; mark fewer rows summary or round their values',
  )
  return text


def results(sources: list[Source], known: list[Source]) -> str:
  """The Markdown of a README's block: claims beside what was measured, a variant by itself.

  known: all runs at hand, which claims may compare with.
  """
  whole = [source for source in sources if ':' not in source.name]
  parts = [_block(whole, known)] if whole else []
  for source in sources:
    if source not in whole:
      title = source.header.get('resolved', {}).get('title', source.name)
      variant = source.name.partition(':')[2]
      how = 'Scaled down' if SCALED & set(variant.split(',')) else 'Variant'
      parts.append(f'**{how} ({tables.escape(variant)}): {tables.escape(title)}**\n\n'
                   + _block([source], known))  # fmt: skip
  return '\n\n'.join(parts)


def _block(sources, known) -> str:
  """One table of all claims, then each run's own, or that before and after where it has neither."""
  claimed = [source for source in sources if source.header.get('resolved', {}).get('paper')]
  lines, note, parts = [], '', []
  for source in claimed:
    answers = tables.answers(_beside(source, known), source.header['resolved']['paper'])
    cells, note = _ran(source), answers.note
    for row in answers.rows:
      lines.append((*row, *cells))
      cells = ('"',) * len(RUNS)
  if lines:
    table = Table('', ('', 'claim', 'paper', 'ours', *RUNS), tuple(lines))
    parts.append(f'{tables.markdown(table)}\n\n{note}')
  for source in sources:
    made = report.pivots(_beside(source, known), source.header.get('resolved', {}))
    if not made and source not in claimed:
      made = [tables.stages(source.rows)._replace(title='')]
    ran = ', '.join(tables.escape(text) for text in _ran(source))
    for table in tables.filled(made):
      title = f'*{tables.escape(table.title)}*\n\n' if table.title else ''
      parts.append(f'{title}{tables.markdown(table)}\n\n{table.note}'.rstrip())
    parts += [f'{ran}.'] if tables.filled(made) else []
  return '\n\n'.join(parts) or 'not run: no rows yet'


def _ran(source) -> tuple[str, str, str]:
  """The cells of RUNS."""
  time = report.duration(sum(session['seconds'] for session in source.sessions))
  config, command = Code(source.header['config']), Code(_commands(source.sessions))
  return config, command, f'{_hardware(source.sessions)}, {time}'


def replaced(text: str, sources: list[Source], name: str) -> str:
  """A README's text with its marked blocks made anew; name is the file's, for messages."""
  opened = re.findall(r'<!-- results:(\S+) -->', text)
  told = set()

  def block(match):
    wanted = match[1]
    chosen = [s for s in sources if s.name == wanted or s.name.startswith(wanted + '/')]
    told.update(source.name for source in chosen)
    inside = f'{results(chosen, sources)}\n' if chosen else match[2]
    return f'<!-- results:{wanted} -->\n{inside}<!-- /results:{wanted} -->'

  pattern = r'<!-- results:(\S+) -->\n(.*?)<!-- /results:\1 -->'
  new, count = re.subn(pattern, block, text, flags=re.S)
  if count != len(opened):
    raise UsageError(f'{name}: a results marker lacks its end, <!-- /results:NAME -->: {opened}')
  for source in sources:
    config = source.header.get('resolved', {})
    if source.name not in told and (config.get('paper') or config.get('tables')):
      raise UsageError(
        f'{name} has no <!-- results:{source.name} -->; its markers: {", ".join(opened) or "none"}'
      )
  return new


def _page(sources: list[Source]) -> str:
  first = sources[0]
  config = first.header.get('resolved', {})
  return report.render(_beside(first, sources), config, first.sessions, first.name)[1]


def pictures(sources: list[Source]) -> dict[str, str]:
  """File name -> SVG of each figure of the first run that has rows."""
  first = sources[0]
  config = first.header.get('resolved', {})
  drawn = report.drawn(_beside(first, sources), config)
  require(drawn, f'{first.name} has no figure that its rows fill')
  name = re.sub(r'\W+', '-', first.name.rpartition('/')[2])
  return {f'{name}-{key}.svg': picture.svg(figure) for key, figure in drawn.items()}


def _beside(source, sources) -> list[dict]:
  """The rows of a run, then those of the others under the name of theirs."""
  others = [other for other in sources if other is not source]
  return [*source.rows, *({**row, 'run': other.name} for other in others for row in other.rows)]


def main(argv):
  from reduction.checkpoint import write_atomic

  paths = [pathlib.Path(argument) for argument in argv[1:]]
  require(paths, 'name a workdir or a file of rows, such as runs/lenet')
  sources = merged([read(path) for path in paths])
  if FLAGS.export:
    names = ', '.join(source.name for source in sources)
    require(len(sources) == 1, f'--export takes the seeds of one config, these are {names}')
    write_atomic(FLAGS.export, export(sources[0]))
  if FLAGS.html:
    write_atomic(FLAGS.html, _page(sources))
  if FLAGS.pictures:
    for name, text in pictures(sources).items():
      write_atomic(pathlib.Path(FLAGS.pictures) / name, text)
  if FLAGS.readme:
    readme = pathlib.Path(FLAGS.readme)
    if not readme.is_file():
      raise MissingInput(f'--readme={readme} is not there')
    write_atomic(readme, replaced(readme.read_text(encoding='utf-8'), sources, str(readme)))
  if not (FLAGS.export or FLAGS.html or FLAGS.pictures or FLAGS.readme):
    for path in filter(pathlib.Path.is_dir, paths):
      print('wrote', *report.write(path))
    for source in sources:
      print(f'\n{source.name}')
      report.show(source.rows)


if __name__ == '__main__':
  cli.run(main)
