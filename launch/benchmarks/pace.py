"""From the times of a training benchmark to rows, and from rows to tables."""

import itertools

import numpy as np

from launch.benchmarks.sides import spread
from reduction.report import Table
from reduction.report.intervals import NONE

OURS = 'reduction'


def work(layers, batch, every, examples) -> dict[bool, float]:
  """Floating-point operations of the matrix products of one step, by whether it is evaluated.

  A multiply-add is two. Backward: the gradient of every weight, and of every input but the first.
  layers: widths, the input's first.
  """
  products = [a * b for a, b in itertools.pairwise(layers)]
  step = 2 * batch * (3 * sum(products) - products[0])
  return {False: step, True: step + 2 * examples * sum(products) / every}


def compare(replies: dict, jobs: list, steps: int, work: dict, limit: float) -> list[dict]:
  """Rows 'training' from the replies of `interleaved`; the peers stand beside us, pair by pair.

  ratio: our speed over the peer's in the same repeat. evaluation_share: 1 - seconds without / with
  evaluation, in the same repeat. gflops: ours, counting `work`; limit: GFLOP/s of the machine.
  """
  sides = list(dict.fromkeys(side for side, _ in replies))
  seconds = lambda side, i: np.array([reply['seconds'] for reply in replies[side, i][1:]])
  rows = []
  for i, (replicas, evaluated) in enumerate(jobs):
    ours, total = seconds(OURS, i), replicas * steps
    gflops = total * work[evaluated] / float(np.median(ours)) / 1e9
    row = dict(
      kind='training', summary=True, replicas=replicas, evaluated=evaluated,
      **spread(total / ours).fields('steps_per_s'), **_share(seconds, OURS, jobs, i, ''),
      gflops=round(gflops, 2), limit_gflops=round(limit, 2), of_limit=round(gflops / limit, 4),
    )  # fmt: skip
    beside = [
      dict(
        peer=side, **spread(total / seconds(side, i)).fields('peer_steps_per_s'),
        **spread(seconds(side, i) / ours).fields('ratio'),
        **_share(seconds, side, jobs, i, 'peer_'),
      )
      for side in sides if side != OURS
    ]  # fmt: skip
    rows += [{**row, **peer} for peer in beside or [dict(peer=None)]]
  return rows


def _share(seconds, side, jobs, i, prefix) -> dict:
  replicas, evaluated = jobs[i]
  if not evaluated:
    return {}
  share = 1 - seconds(side, jobs.index((replicas, False))) / seconds(side, i)
  return spread(share).fields(f'{prefix}evaluation_share')


def side(replies, jobs, name, about, peak) -> dict:
  """Row 'side': what a library costs beside its steps."""
  first, *rest = [reply['seconds'] for reply in replies[name, 0]]
  losses = [loss for (_, e), i in zip(jobs, range(len(jobs))) if e
            for loss in replies[name, i][-1]['validation_loss']]  # fmt: skip
  return dict(
    kind='side', summary=True, side=name, about=about,
    compile_s=round(max(0.0, first - float(np.median(rest))), 2),
    peak_mib=peak and round(peak), validation_loss=float(f'{np.mean(losses):.4g}'),
  )  # fmt: skip


def tables(rows: list[dict]) -> list[Table]:
  """Our pace, each peer's beside it, and what each library costs beside its steps."""
  times = [row for row in rows if row['kind'] == 'training']
  sides = [row for row in rows if row['kind'] == 'side']
  job = lambda row: (f'{row["replicas"]}', 'yes' if row['evaluated'] else 'no')
  ours = {
    job(row): (
      *job(row), cell(row, 'steps_per_s', '.0f'), cell(row, 'evaluation_share', '.1%'),
      f'{row["gflops"]:.0f} ({row["of_limit"]:.0%})',
    )
    for row in times
  }  # fmt: skip
  peers = tuple(
    (
      *job(row), row['peer'], cell(row, 'peer_steps_per_s', '.0f'),
      cell(row, 'peer_evaluation_share', '.1%'), cell(row, 'ratio', '.2f'),
    )
    for row in times if row['peer']
  )  # fmt: skip
  costs = tuple(
    (row['side'], row['about'], f'{row["compile_s"]:.1f}', _plain(row['peak_mib']),
     f'{row["validation_loss"]:.4f}')
    for row in sides
  )  # fmt: skip
  limit = (
    f'Data: {times[0]["data"]}. Medians and ranges. The limit is what a large float32 matrix '
    f'product reaches here, {times[0]["limit_gflops"]:.0f} GFLOP/s.'
  )
  pairs = (
    'A ratio is our steps/s over the peer\'s, of two runs side by side. torch runs its seeds one '
    'after another, torch_processes deals them to a process a core.'
  )
  said = 'Compiling is the first run less the median of the later ones.'
  pace = ('seeds', 'evaluated', 'steps/s', 'in evaluation')
  found = (
    Table(OURS, (*pace, 'GFLOP/s (of the limit)'), tuple(ours.values()), limit),
    Table('Peers', (*pace[:2], 'peer', *pace[2:], 'ratio'), peers, pairs),
    Table('Sides', ('side', '', 'compiling, s', 'peak MiB', 'validation loss'), costs, said),
  )
  return [table for table in found if table.rows]


def cell(row, name, form) -> str:
  """'12 (11 to 14)': the median and range that `Spread.fields(name)` put into a row."""
  if name not in row:
    return NONE
  median, low, high = (format(row[name + end], form) for end in ('', '_low', '_high'))
  return f'{median} ({low} to {high})'


def _plain(value) -> str:
  return NONE if value is None else f'{value:,}'
