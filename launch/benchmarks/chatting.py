"""How fast a language model reads a prompt and writes an answer on a CPU, beside llama.cpp."""

import contextlib
import pathlib
import sys
import tempfile

import numpy as np

from launch.benchmarks.pace import OURS, cell
from launch.benchmarks.sides import Session, on_platform, process, spread
from reduction import written
from reduction.errors import require
from reduction.opened import find, language_model
from reduction.report import Table
from reduction.report.intervals import NONE

COMMAND = [sys.executable, '-m', 'launch.benchmarks.chatting_ours']
PEER = pathlib.Path(__file__).parent.parent / 'peers' / 'chatting_llama.py'
READ, LLAMA = 'read', 'llama.cpp'
# what is timed -> (inputs in 8 bits, how the memory is kept, all blocks at once)
KINDS = {
  'INT4': (False, 'float32', True),
  'INT4, A8': (True, 'float32', True),
  'INT4, INT8 memory': (False, 'int8', True),
  'INT4, blocks apart': (False, 'float32', False),
}


def chatting(
  *, model: str, prompt: int, answer: int, group: int, threads: int, repeats: int,
  kinds: tuple[str, ...] = tuple(KINDS), peer: bool = True, peer_blocks: str | None = None,
):  # fmt: skip
  """Times a model whose blocks are rounded to 4 bits, its words to 8, and llama.cpp's of its file.

  model: a .gguf or its name in the data directory. peer_blocks: what llama.cpp's blocks are written
  in, words in Q8_0, such as 'q4_0', which it keeps in an order of its own; '' or None runs the file
  as it is. prompt, answer: tokens, greedy. group: rows of a scale in our blocks. threads: of both
  sides. kinds: of KINDS; an A8 has its inputs in 8 bits, which llama.cpp always has. Rows
  'chatting': kind, tokens a second of both stages, bytes that a token of the answer reads, their
  share of what only reading takes (`of_read`), the peer's pace and the ratio of ours to it in the
  same repeat, and how many characters of both answers are alike from the beginning. `same`: how
  many tokens from the beginning are those of the same weights in floats. Kinds take turns in each
  repeat.
  """
  for name in kinds:
    require(name in KINDS, f'{name!r} is not one of {", ".join(KINDS)}')
  require(min(prompt, repeats) > 0, f'{prompt=} and {repeats=} must be above 0')
  require(answer > 1, f'{answer=} must be above 1: the first token is the end of the prompt')

  def bench(session: Session):
    path = find(model, session.data_dir)
    settings = dict(model=str(path), prompt=prompt, answer=answer, group=group, threads=threads)
    with contextlib.ExitStack() as stack:
      variables = on_platform() | dict(REDUCTION_THREADS=str(threads))
      ours = stack.enter_context(process(OURS, COMMAND, settings, **variables))
      asks = {kind: ours.ask for kind in (READ, *kinds)}
      if peer:
        given = settings | dict(tokens=ours.about['tokens'])
        if peer_blocks:
          place = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
          given['model'] = rewritten(model, session.data_dir, peer_blocks, place)
        command = [session.peer_python, str(PEER)]
        other = stack.enter_context(process(LLAMA, command, given))
        if 'missing' in other.about:
          session.say(f'{LLAMA}: {other.about["missing"]} is not installed')
        else:
          asks[LLAMA] = other.ask
          about = other.about['about']
          settings |= dict(peer_blocks=peer_blocks or 'as published', peer_about=about)
      rows = compare(measured(asks, repeats, session), settings)
    return rows, [table(rows, settings)]

  return bench


def rewritten(model: str, data_dir, blocks: str, place: pathlib.Path) -> str:
  """The path of a GGUF file of the model, its blocks in `blocks` and its words in Q8_0."""
  found = language_model(model, data_dir)
  form = written.Format(blocks, written.TABLE)
  written.write(place, found.net, found.config, found.files(), form)
  return str(place / 'model.gguf')


def measured(asks: dict, repeats: int, session: Session) -> dict:
  """Kind or peer -> its replies, but the first of each."""
  found = {name: [] for name in asks}
  for repeat in range(repeats + 1):
    for name in list(asks)[:: -1 if repeat % 2 else 1]:
      reply = asks[name](kind=name)
      if repeat:
        found[name].append(reply)
    session.say(f'chatting: repeat {repeat} of {repeats}' if repeat else 'chatting: warmed up')
  return found


def compare(found: dict, settings: dict) -> list[dict]:
  """Rows from what `measured` gave; see `chatting`."""
  pace = lambda name, stage: np.array([r[f'{stage}_per_s'] for r in found[name]])
  read = np.array([reply['bytes_per_s'] for reply in found[READ]])
  rows = []
  for kind in (name for name in found if name not in (READ, LLAMA)):
    size = found[kind][-1]['bytes']
    row = dict(
      kind='chatting', summary=True, product=kind, **{k: settings[k] for k in SHOWN},
      bytes=size, same=found[kind][-1].get('same'),
      read_gb_per_s=round(float(np.median(read)) / 1e9, 2),
      of_read=round(float(np.median(size * pace(kind, 'answer') / read)), 3),
    )  # fmt: skip
    for stage in 'prompt', 'answer':
      row |= spread(pace(kind, stage)).fields(f'{stage}_per_s')
      if LLAMA in found:
        row |= spread(pace(LLAMA, stage)).fields(f'peer_{stage}_per_s')
        row |= spread(pace(kind, stage) / pace(LLAMA, stage)).fields(f'{stage}_ratio')
    if LLAMA in found:
      row |= {key: settings[key] for key in ('peer_blocks', 'peer_about') if key in settings}
      row |= dict(peer=LLAMA, alike=alike(found[kind][-1]['text'], found[LLAMA][-1]['text']))
    rows.append(row)
  return rows


SHOWN = 'prompt', 'answer', 'group', 'threads'


def alike(one, other) -> int:
  """How many characters two texts, or tokens two answers begin with alike."""
  pairs = enumerate(zip(one, other))
  return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def table(rows: list[dict], settings: dict) -> Table:
  """A line for each kind."""
  cells = tuple(
    (
      row['product'], cell(row, 'prompt_per_s', '.0f'), cell(row, 'answer_per_s', '.1f'),
      f'{row["bytes"] / 1e6:.0f}', f'{row["of_read"]:.0%}',
      cell(row, 'peer_prompt_per_s', '.0f'), cell(row, 'peer_answer_per_s', '.1f'),
      cell(row, 'prompt_ratio', '.2f'), cell(row, 'answer_ratio', '.2f'),
      str(row.get('alike', NONE)),
    )
    for row in rows
  )  # fmt: skip
  note = (
    f'{settings["prompt"]} tokens read, {settings["answer"]} written, {settings["threads"]} '
    f'threads. Blocks in 4 bits, ours in groups of {settings["group"]}; the table of words, which '
    'is also the last layer, in 8. Medians and ranges of tokens a second. Of reading: the time in '
    'which the bytes of a token are only read, over that of the token. A8: inputs in 8 bits, as '
    "llama.cpp's always are, else in 16. Ratio: our pace over llama.cpp's in the same repeat. "
    'Alike: the first characters of both answers.'
  )
  columns = (
    'blocks', 'reads', 'writes', 'MB a token', 'of reading', 'llama.cpp reads', 'it writes',
    'ratio, reading', 'ratio, writing', 'alike',
  )  # fmt: skip
  return Table('A language model on a CPU', columns, cells, note)
