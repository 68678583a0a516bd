"""Filterlets pruned as far as accuracy holds, and what they compete with (DTMM, INFOCOM 2024)."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from reduction import prune, tree
from reduction.distill.lesson import Lesson
from reduction.errors import did_you_mean, require
from reduction.net import Net, create
from reduction.prune import channels, select
from reduction.prune.importance import KINDS
from reduction.run import Run, Stage
from reduction.stages import pruning
from reduction.train import check_schedule
from reduction.update import optimizer as build_optimizer

STARTS = 'last', 'rewind', 'reinit'


class Search(NamedTuple):
  """The settings of `filterlet`, checked; as there."""

  structure: str
  levels: tuple
  bisections: int
  tolerance: float
  score: str
  examples: int
  scope: str
  filters: float
  least: float
  start: str
  control: bool
  of: str | None
  lesson: Lesson | None
  tx: object
  schedule: dict


def filterlet(
  *, levels: tuple[float, ...], steps: int, batch: int, optimizer: dict,
  structure: str = 'filterlet', bisections: int = 0, tolerance: float = 0.01,
  score: str = 'taylor', examples: int = 1_024, scope: str = 'normalized', filters: float = 0.0,
  least: float = 0.05, start: str = 'last', control: bool = False, of: str | None = None,
  teacher: dict | None = None, every: int = 100,
) -> Stage:  # fmt: skip
  """Prunes level by level and trains after each; returns the smallest net that is accurate enough.

  levels: shares of the weights of convolutions to keep, falling; `bisections` more lie between the
  smallest that was accurate enough and the next. Enough is a validation accuracy, the mean of all
  seeds, at most `tolerance` below that of the net that came; the test split chooses nothing.
  structure, scope, filters, least: of `prune.select`. score: of `prune.importance`, on so many
  training `examples`. start: the weights that a level trains from: the 'last' level's, those of
  the net that the chain began with ('rewind'), or fresh ones ('reinit'). control: trains each
  level's masks also from fresh weights, which changes nothing else. of: the stage whose net to
  prune, by default the one before. teacher: who teaches while it trains, of `pruning.told`,
  dict(of='train', temperature=4.0), the net that came whole. steps, batch, optimizer, every: of
  each level's training. The net that comes out is without the filters that are gone, and keeps its
  masks. Rows, for the whole net, level -1, and each level: a 'filterlet' with its `pruning.costs`,
  and a 'right', the test examples that it gets right, which `rivals` pairs.
  """
  check_schedule(steps=steps, batch=batch, every=every)
  falling = levels and all(a > b for a, b in zip((1.0 + 1e-9, *levels), levels))
  require(falling, f'{levels=} must fall from 1')
  for share in levels:
    select.check(structure, share)
  for name, value, known in (
    ('score', score, KINDS), ('start', start, STARTS), ('scope', scope, select.SCOPES)
  ):  # fmt: skip
    require(value in known, f'{name}={value!r} is unknown.{did_you_mean(value, known)}')
  require(0 <= filters < 1, f'{filters=} must lie in [0, 1)')
  schedule = dict(steps=steps, batch=batch, every=every)
  found = Search(structure, tuple(levels), bisections, tolerance, score, examples, scope, filters,
                 least, start, control, of, pruning.told(teacher), build_optimizer(**optimizer),
                 schedule)  # fmt: skip
  return lambda net, run: prune_until(found, net, run)


def prune_until(search: Search, net: Net, run: Run) -> Net:
  """The stage."""
  require(search.of in (None, *run.nets), f'of={search.of!r} names no stage before this one')
  net = run.nets[search.of] if search.of else net
  made = pruning.opened(net, run, search.tx, search.schedule, search.lesson, 'filterlet')
  net, found = made.net, made.found
  seen = made.accuracy(net)
  enough = float(seen.mean()) - search.tolerance
  first = dict(last=None, rewind=run.nets.get('start', net))
  if search.control or search.start == 'reinit':
    first['reinit'] = create(net.module, run.key('init', 1), run.data.train.x[:1])
  _log(search, made, net, run, seen, level=-1, share=1.0, enough=True, start=search.start)

  def step(carry, index: int, run: Run):
    grid = index < len(search.levels)
    at = 'last' if grid else 'good'
    now = net.replace(**carry[at])
    good, bad = (float(carry[name]) for name in ('good_share', 'bad_share'))
    share = search.levels[index] if grid else math.sqrt(good * bad)
    how = dict(scope=search.scope, least=search.least, filters=search.filters)
    scores = pruning.scored(search.score, search.examples, now, run)
    masks = select.select(scores, now.masks, search.structure, found, share, **how)
    masks, told = tree.map(jnp.asarray, masks), dict(level=index, share=round(share, 6))
    now = made.train((first[search.start] or now).replace(masks=masks), run)
    seen = made.accuracy(now)
    good_now = float(seen.mean()) >= enough
    _log(search, made, now, run, seen, **told, enough=good_now, start=search.start)
    if search.control:
      other = run.child('control')
      fresh = made.train(first['reinit'].replace(masks=masks), other)
      _log(search, made, fresh, other, made.accuracy(fresh), **told, start='reinit')
    held = dict(params=now.params, stats=now.stats, masks=now.masks)
    carry = dict(carry, last=held)
    if good_now and share < good:
      return dict(carry, good=held, good_share=np.float32(share)), None
    return dict(carry, bad_share=np.float32(max(share, bad) if share < good else bad)), None

  held = dict(params=net.params, stats=net.stats, masks=net.masks)
  carry = dict(last=held, good=held, good_share=np.float32(1), bad_share=np.float32(search.least))
  last, _ = run.fold('levels', step, carry, len(search.levels) + search.bisections)
  return channels.shrunk(net.replace(**last['good']), found)


def _log(search: Search, made, net: Net, run: Run, seen, **told):
  """The row of a level. seen: validation accuracy [R]."""
  names = [n.removeprefix('params/') for n in made.found.convs]
  run.log(
    kind='filterlet', summary=True, seeds=run.seeds, structure=search.structure, **told,
    validation_accuracy=seen, **_tell(search, made, net, run, **told),
    steps=search.schedule['steps'], kept=prune.kept(net.masks, names),
  )  # fmt: skip


def _tell(search: Search, made, net: Net, run: Run, **told) -> dict:
  """Logs which test examples net gets right; (test_accuracy, `pruning.costs`) by seed."""
  right, told = pruning.right(net, run), {k: v for k, v in told.items() if k != 'enough'}
  costs = pruning.costs(search.structure, net, made.found, run)
  nbytes = {key: value for key, value in costs.items() if key.endswith('_bytes')}
  run.log(kind='right', **told, **nbytes, right=pruning.packed(right))
  return dict(test_accuracy=right.mean(1, dtype=np.float32), **costs)
