"""Training convolutional networks: images a second, beside XLA's own convolution and PyTorch."""

import contextlib
import pathlib
import sys

import numpy as np

from launch.benchmarks.pace import OURS, cell
from launch.benchmarks.sides import Session, interleaved, on_platform, process, spread
from reduction.errors import require
from reduction.report import Table
from reduction.report.intervals import NONE

NETWORKS = {  # what the peer calls so too
  'resnet20': dict(name='resnet', layers=20),
  'mobilenetv2': dict(name='mobilenetv2', strides=(1, 1, 1, 2, 2, 1, 2, 1)),
  'conv2': dict(name='convnet', depth=2),
  'conv4': dict(name='convnet', depth=4),
}
PEER = pathlib.Path(__file__).parent.parent / 'peers' / 'pictures_torch.py'


def pictures(*, networks: dict[str, int], steps: int, repeats: int, sides: tuple[str, ...]):
  """Times `steps` updates of SGD on random images, in this project and in each of sides.

  networks: name of NETWORKS -> batch. sides: 'xla' is this project with XLA's convolutions,
  'torch' PyTorch in the memory layout that a trial finds faster.
  Rows 'pictures': images a second, GFLOP/s (a backward pass counted as two forward), the limit of
  a large matrix product, and for each side its images a second and ours over them.
  """
  for name, batch in networks.items():
    require(name in NETWORKS, f'{name!r} is not one of {", ".join(NETWORKS)}')
    require(batch > 0, f'{batch=} of {name} must be above 0')
  for side in sides:
    require(side in ('xla', 'torch'), f"{side=} is not 'xla' or 'torch'")
  require(steps > 0 and repeats > 0, f'{steps=} and {repeats=} must be above 0')

  def bench(session: Session):
    rows = []
    for name, batch in networks.items():
      with contextlib.ExitStack() as stack:
        asks = {}
        for side in (OURS, *sides):
          settings = dict(network=name, model=NETWORKS[name], batch=batch, xla=side == 'xla')
          found = stack.enter_context(
            process(side, _command(side, session), settings, **on_platform())
          )
          if side == OURS:
            macs = found.about['macs']
          if missing := found.about.get('missing'):
            session.say(f'{side}: {missing} is not installed; pip install -e .[bench]')
          else:
            asks[side] = found.ask
        say = lambda line, name=name: session.say(f'{name}: {line}')
        replies = interleaved(asks, [dict(steps=steps)], repeats, say)
        limit = asks[OURS](limit=True)['gflops']
      rows += _rows(name, batch, replies, steps, macs, limit)
    return rows, [_table(rows)]

  return bench


def _command(side, session):
  if side == 'torch':
    return [session.peer_python, str(PEER)]
  return [sys.executable, '-m', 'launch.benchmarks.pictures_ours']


def _rows(name, batch, replies, steps, macs, limit) -> list[dict]:
  seconds = {side: np.array([r['seconds'] for r in found[1:]]) for (side, _), found in
             replies.items()}  # fmt: skip
  ours = seconds.pop(OURS)
  speed = lambda seconds: spread(batch * steps / seconds)
  gflops = 6 * macs * batch * steps / float(np.median(ours)) / 1e9
  row = dict(
    kind='pictures', summary=True, network=name, batch=batch,
    **speed(ours).fields('images_per_s'), gflops=round(gflops, 1), limit_gflops=round(limit, 1),
    of_limit=round(gflops / limit, 4),
    compile_s=round(replies[OURS, 0][0]['seconds'] - float(np.median(ours)), 1),
  )  # fmt: skip
  return [
    dict(row, peer=side, **speed(theirs).fields('peer_images_per_s'),
         **spread(theirs / ours).fields('ratio'))
    for side, theirs in seconds.items()
  ] or [row]  # fmt: skip


def _table(rows) -> Table:
  cells = tuple(
    (
      row['network'], str(row['batch']), cell(row, 'images_per_s', '.0f'),
      f'{row["gflops"]:.0f} ({row["of_limit"]:.0%})', row.get('peer', NONE),
      cell(row, 'peer_images_per_s', '.0f'), cell(row, 'ratio', '.2f'),
    )
    for row in rows
  )  # fmt: skip
  columns = (
    'network', 'batch', 'images/s', 'GFLOP/s (of the limit)', 'beside', 'its images/s', 'ratio'
  )  # fmt: skip
  note = (
    'Training by SGD with momentum. Medians and ranges. Ratio: ours over its, side by side. The '
    f'limit is a large float32 matrix product, {rows[0]["limit_gflops"]:.0f} GFLOP/s.'
  )
  return Table('Training on images', columns, cells, note)
