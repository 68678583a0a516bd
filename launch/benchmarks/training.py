"""Training a multilayer perceptron: steps a second, beside the same protocol in other libraries."""

import contextlib
import os
import pathlib
import sys
import tempfile

import numpy as np

from launch.benchmarks import pace
from launch.benchmarks.pace import OURS
from launch.benchmarks.sides import Session, Side, interleaved, on_platform, process, together
from reduction import data as sources
from reduction import models
from reduction.config import call
from reduction.errors import MissingInput, require

PEER = pathlib.Path(__file__).parent.parent / 'peers' / 'lenet_torch.py'
PEERS = {  # processes, and threads of each: None is what a trial finds fastest
  'torch': (1, None),  # one program, seed after seed
  'torch_processes': (os.cpu_count() or 1, 1),  # a program a core, seeds dealt to them
}
EXAMPLES = dict(train=55_000, validation=5_000, shape=(28, 28, 1))  # of MNIST


def training(
  *,
  data: dict,
  model: dict,
  optimizer: dict,
  batch: int,
  every: int,
  steps: int,
  repeats: int,
  replicas: tuple[int, ...],
  kept: float,
  peers: tuple[str, ...],
):
  """Times `train.train` as users call it, with and without evaluation, and each peer beside it.

  data: a set of `reduction.data`; where its files are missing, or for 'random', random values of
  EXAMPLES, which give times but no losses. optimizer: an Adam. every: steps between evaluations on
  the validation split. steps: of one repeat. replicas: how many seeds at once. kept: share of each
  layer's weights that its mask keeps. peers: of PEERS.
  Rows: 'training', one for each number of seeds, with and without evaluation, and peer; 'side'.
  """
  require(steps > 0 and steps % every == 0, f'{every=} must divide {steps=}')
  require(repeats > 0 and all(r > 0 for r in replicas), f'{repeats=}, {replicas=} must be above 0')
  require(optimizer['name'] == 'adam', f'{optimizer["name"]=}: the peers run Adam')
  require(0 < kept <= 1, f'{kept=} must lie in (0, 1]')
  for peer in peers:
    require(peer in PEERS, f'{peer=} is not one of {", ".join(PEERS)}')
  module = call(models, model, 'model')
  jobs = [(r, evaluated) for r in replicas for evaluated in (True, False)]

  def bench(session: Session):
    arrays, source = load(data, session)
    layers = [arrays['x'][0].size, *module.widths, module.classes]
    work = pace.work(layers, batch, every, len(arrays['validation_x']))
    shared = dict(batch=batch, every=every, kept=kept)
    to_peer = dict(shared, widths=module.widths, classes=module.classes,
                   learning_rate=optimizer['learning_rate'])  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
      path = f'{folder}/data.npz'
      np.savez(path, **arrays)
      del arrays
      to_us = dict(shared, model=model, optimizer=optimizer, data=path)
      sides = {OURS: stack.enter_context(_ours(to_us))}
      for peer in peers:
        sides |= beside(peer, dict(to_peer, data=path), session, stack)
      asked = [dict(seeds=list(range(r)), steps=steps, evaluated=e) for r, e in jobs]
      limits = []

      def after(line):
        limits.append(sides[OURS].ask(limit=True)['gflops'])
        session.say(f'training: {line}')

      replies = interleaved({n: s.ask for n, s in sides.items()}, asked, repeats, after)
      peaks = {n: side.peak_mib() for n, side in sides.items()}
    rows = pace.compare(replies, jobs, steps, work, max(limits))
    rows += [pace.side(replies, jobs, n, s.about['about'], peaks[n]) for n, s in sides.items()]
    rows = [dict(row, data=source) for row in rows]
    return rows, pace.tables(rows)

  return bench


def load(settings: dict, session: Session) -> tuple[dict, str]:
  """(arrays, name): x, y, validation_x and validation_y of a data set, or random ones."""
  settings = dict(settings)
  if settings['name'] != 'random':
    try:
      given = {'data_dir': session.data_dir} if session.data_dir else {}
      found = call(sources, {**settings, **given}, 'data')
      (x, y), (vx, vy) = found.train, found.validation
      return dict(x=x, y=y, validation_x=vx, validation_y=vy), found.name
    except MissingInput as error:
      session.say(f'{error}; timing random values instead')
      settings = {}
  size, rng = {**EXAMPLES, **settings}, np.random.default_rng(0)
  arrays = {}
  for prefix, count in ('', size['train']), ('validation_', size['validation']):
    arrays[f'{prefix}x'] = rng.random((count, *size['shape']), np.float32)
    arrays[f'{prefix}y'] = rng.integers(0, 10, count, np.int32)
  return arrays, 'random values'


def _ours(settings):
  command = [sys.executable, '-m', 'launch.benchmarks.ours']
  return process(OURS, command, settings, **on_platform())


def beside(name, settings, session, stack) -> dict[str, Side]:
  """{name: side}, or {} and a line where this Python lacks the library."""
  count, threads = PEERS[name]
  command, sides = [session.peer_python, str(PEER)], []
  for _ in range(count):
    side = stack.enter_context(process(name, command, dict(settings, threads=threads)))
    if missing := side.about.get('missing'):
      session.say(f'{name}: {missing} is not installed; pip install -e .[bench], '
                  'or name a Python that has it with --peer_python')  # fmt: skip
      return {}
    sides.append(side)
  return {name: together(sides)}
