"""Training a teacher and its students, hard and soft: steps a second beside PyTorch's."""

import contextlib
import pathlib
import sys

import numpy as np

from launch.benchmarks.pace import OURS, cell, work
from launch.benchmarks.sides import Session, interleaved, on_platform, process, spread
from reduction.errors import require
from reduction.report import Table
from reduction.report.intervals import NONE

LESSONS = ('teacher', 'hard', 'soft')
PEERS = ('torch', 'torch_fused')  # Adam as it comes, and its fused form
PEER = pathlib.Path(__file__).parent.parent / 'peers' / 'teaching_torch.py'


def teaching(
  *, teacher: tuple[int, ...], student: tuple[int, ...], batch: int, steps: int, repeats: int,
  peers: tuple[str, ...] = PEERS,
):  # fmt: skip
  """Times `steps` updates of Adam on 60,000 random 28 x 28 images, here and in PyTorch.

  teacher: widths of its hidden layers; it has dropout, moved images and a limit on its weights.
  student: those of the student, which learns from hard labels and from kept logits at T = 20.
  peers: of PEERS. Rows 'teaching', one for each of LESSONS and peers: steps a second, GFLOP/s and
  what a large matrix product reaches, the peer's steps a second and ours over them; for 'soft' also
  `extra`, the time that soft targets cost over hard labels.
  """
  for name in peers:
    require(name in PEERS, f'{name!r} is not one of {", ".join(PEERS)}')
  require(min(batch, steps, repeats) > 0, f'{batch=}, {steps=} and {repeats=} must be above 0')
  settings = dict(teacher=teacher, student=student, batch=batch)

  def bench(session: Session):
    with contextlib.ExitStack() as stack:
      commands = {OURS: [sys.executable, '-m', 'launch.benchmarks.teaching_ours']}
      commands |= {name: [session.peer_python, str(PEER)] for name in peers}
      asks = {}
      for side, command in commands.items():
        found = stack.enter_context(process(
          side, command, dict(settings, fused=side == 'torch_fused'), **on_platform()
        ))  # fmt: skip
        if missing := found.about.get('missing'):
          session.say(f'{side}: {missing} is not installed; pip install -e .[bench]')
        else:
          asks[side] = found.ask
      jobs = [dict(lesson=lesson, steps=steps) for lesson in LESSONS]
      replies = interleaved(asks, jobs, repeats, lambda line: session.say(f'teaching: {line}'))
      limit = asks[OURS](limit=True)['gflops']
    rows = compare(replies, settings, steps, limit)
    return rows, [table(rows)]

  return bench


def compare(replies: dict, settings: dict, steps: int, limit: float) -> list[dict]:
  """Rows from the replies of `interleaved`; see `teaching`."""
  rows, seconds = [], lambda side, i: np.array([r['seconds'] for r in replies[side, i][1:]])
  for i, lesson in enumerate(LESSONS):
    widths = settings['teacher' if lesson == 'teacher' else 'student']
    ours = seconds(OURS, i)
    step = work((784, *widths, 10), settings['batch'], every=1, examples=0)[False]
    gflops = step * steps / float(np.median(ours)) / 1e9
    row = dict(
      kind='teaching', summary=True, lesson=lesson, widths=' '.join(map(str, widths)),
      batch=settings['batch'], **spread(steps / ours).fields('steps_per_s'),
      gflops=round(gflops, 1), limit_gflops=round(limit, 1), of_limit=round(gflops / limit, 4),
    )  # fmt: skip
    if lesson == 'soft':
      row |= spread(ours / seconds(OURS, LESSONS.index('hard')) - 1).fields('extra')
    beside = [
      dict(peer=side, **spread(steps / seconds(side, i)).fields('peer_steps_per_s'),
           **spread(seconds(side, i) / ours).fields('ratio'))
      for side, job in replies if job == i and side != OURS
    ]  # fmt: skip
    rows += [{**row, **peer} for peer in beside or [{}]]
  return rows


def table(rows: list[dict]) -> Table:
  """A line for each lesson."""
  cells = tuple(
    (
      row['lesson'], row['widths'], cell(row, 'steps_per_s', '.0f'),
      f'{row["gflops"]:.0f} ({row["of_limit"]:.0%})', row.get('peer', NONE),
      cell(row, 'peer_steps_per_s', '.0f'),
      cell(row, 'ratio', '.2f'), cell(row, 'extra', '+.1%') if 'extra' in row else NONE,
    )
    for row in rows
  )  # fmt: skip
  columns = ('lesson', 'units', 'steps/s', 'GFLOP/s (of the limit)', 'beside', 'its steps/s',
             'ratio', 'over hard labels')  # fmt: skip
  note = (
    f'One seed, batch {rows[0]["batch"]}, Adam. Medians and ranges. Ratio: ours over '
    "the peer's, side by side. "
    f'The limit is a large float32 matrix product, '
    f'{rows[0]["limit_gflops"]:.0f} GFLOP/s.'
  )
  return Table('Teaching', columns, cells, note)
