"""Training a multilayer perceptron: steps a second, beside the same protocol in other libraries."""

import contextlib
import os
import pathlib
import sys
import tempfile

import numpy as np

from launch.benchmarks.sides import Session, Side, Spread, interleaved, process, spread, together
from reduction import data as sources
from reduction import models
from reduction.config import call
from reduction.errors import MissingInput, require
from reduction.report import Table

OURS = 'reduction'
PEER = pathlib.Path(__file__).parent.parent / 'peers' / 'lenet_torch.py'
PEERS = {'torch': 'PyTorch, seed after seed', 'torch_processes': 'PyTorch, a process a core'}
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
    arrays, name = load(data, session)
    layers = [arrays['x'][0].size, *module.widths, module.classes]
    work = _work(layers, batch, every, len(arrays['validation_x']))
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
        sides |= _peer(peer, dict(to_peer, data=path), session, stack)
      asked = [dict(seeds=list(range(r)), steps=steps, evaluated=e) for r, e in jobs]
      asks = {name: side.ask for name, side in sides.items()}
      limits = []

      def after(line):
        limits.append(sides[OURS].ask(limit=True)['gflops'])
        session.say(f'training: {line}')

      replies = interleaved(asks, asked, repeats, after)
      peaks = {name: side.peak_mib() for name, side in sides.items()}
    rows = compare(replies, jobs, steps, work, max(limits))
    rows += [_side(replies, jobs, name, sides[name], peaks[name]) for name in sides]
    return [dict(row, data=name) for row in rows], tables(rows, name)

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
  # the CPU, where the peers are; a compile cache would hide the compile time
  return process(OURS, [sys.executable, '-m', 'launch.benchmarks.ours'], settings,
                 JAX_PLATFORMS='cpu')  # fmt: skip


def _peer(name, settings, session, stack) -> dict[str, Side]:
  """{name: side}, or {} and a line where this Python lacks the library."""
  count, threads = ((os.cpu_count() or 1), 1) if name == 'torch_processes' else (1, None)
  command = [session.peer_python, str(PEER)]
  sides = []
  for _ in range(count):
    side = stack.enter_context(process(name, command, dict(settings, threads=threads)))
    if missing := side.about.get('missing'):
      session.say(f'{name}: {missing} is not installed; pip install -e .[bench], '
                  'or name a Python that has it with --peer_python')  # fmt: skip
      return {}
    sides.append(side)
  return {name: together(sides)}


def _work(layers, batch, every, examples) -> dict[bool, float]:
  """Floating-point operations of the matrix products of one step, by whether it is evaluated.

  A multiply-add is two. Backward: the gradient of every weight, and of every input but the first.
  layers: widths, the input's first.
  """
  products = [a * b for a, b in zip(layers, layers[1:])]
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
        **spread(seconds(side, i) / ours).fields('ratio'), **_share(seconds, side, jobs, i, 'peer_'),
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


def _side(replies, jobs, name, side, peak) -> dict:
  """Row 'side': what a library costs beside its steps."""
  first, *rest = [reply['seconds'] for reply in replies[name, 0]]
  losses = [loss for (_, e), i in zip(jobs, range(len(jobs))) if e
            for loss in replies[name, i][-1]['validation_loss']]  # fmt: skip
  return dict(
    kind='side', summary=True, side=name, about=side.about['about'],
    warm_up_s=round(max(0.0, first - float(np.median(rest))), 2),
    peak_mib=peak and round(peak), validation_loss=float(f'{np.mean(losses):.4g}'),
  )  # fmt: skip
