"""Filterlets pruned as far as accuracy holds, and what they compete with (DTMM, INFOCOM 2024)."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from reduction import prune, tree
from reduction.errors import did_you_mean, require
from reduction.mcu.sparse import footprint
from reduction.net import Net, create, over_replicas
from reduction.prune import channels, select
from reduction.prune.importance import KINDS, importance
from reduction.run import Run, Stage
from reduction.train import check_schedule, fit
from reduction.update import classified
from reduction.update import optimizer as build_optimizer

STARTS = 'last', 'rewind', 'reinit'
FORMS = {'filterlet': ('fwcs', 'bitmap', 'paired'), 'paired': ('fwcs', 'bitmap', 'paired'),
         'filter': ()}  # fmt: skip


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
  of: str | None
  tx: object
  schedule: dict


def filterlet(
  *, levels: tuple[float, ...], steps: int, batch: int, optimizer: dict,
  structure: str = 'filterlet', bisections: int = 0, tolerance: float = 0.01,
  score: str = 'taylor', examples: int = 1_024, scope: str = 'global', filters: float = 0.0,
  least: float = 0.05, start: str = 'last', of: str | None = None, every: int = 100,
) -> Stage:  # fmt: skip
  """Prunes level by level and trains after each; returns the smallest net that is accurate enough.

  levels: shares of the weights of convolutions to keep, falling; `bisections` more lie between the
  smallest that was accurate enough and the next. Enough is a validation accuracy, the mean of all
  seeds, at most `tolerance` below that of the net that came; the test split chooses nothing.
  structure, scope, filters, least: of `prune.select`. score: of `prune.importance`, on so many
  training `examples`. start: the weights that a level trains from: the 'last' level's, those of
  the net that the chain began with ('rewind'), or fresh ones ('reinit'). of: the stage whose net
  to prune, by default the one before. steps, batch, optimizer, every: of each level's training.
  The net that comes out is without the filters that are gone, and keeps its masks. Rows: a
  'filterlet' for each level, with the bytes of its int8 weights in their best form.
  """
  check_schedule(steps=steps, batch=batch, every=every)
  falling = levels and all(a > b for a, b in zip((1.0 + 1e-9, *levels), levels))
  require(falling, f'{levels=} must fall from 1')
  for share in levels:
    select.check(structure, share)
  for name, value, known in (
    ('score', score, KINDS), ('start', start, STARTS), ('scope', scope, ('global', 'layer'))
  ):  # fmt: skip
    require(value in known, f'{name}={value!r} is unknown.{did_you_mean(value, known)}')
  require(0 <= filters < 1, f'{filters=} must lie in [0, 1)')
  schedule = dict(steps=steps, batch=batch, every=every)
  found = Search(structure, tuple(levels), bisections, tolerance, score, examples, scope, filters,
                 least, start, of, build_optimizer(**optimizer), schedule)  # fmt: skip
  return lambda net, run: prune_until(found, net, run)


def prune_until(search: Search, net: Net, run: Run) -> Net:
  """The stage."""
  require(search.of in (None, *run.nets), f'of={search.of!r} names no stage before this one')
  net = run.nets[search.of] if search.of else net
  require(len(run.data.validation.y), 'filterlet chooses by the validation split: give it one')
  splits = jax.device_put(run.data.splits())
  example = run.data.train.x[:1]
  one = tree.map(lambda w: w[0], net)
  found = channels.structure(net.module, one.params, one.stats, example)
  require(found.convs, f'{type(net.module).__name__} has no convolution to prune')
  whole = prune.all_kept(net.params) if net.masks is None else net.masks
  net = net.replace(masks=whole)
  judge = over_replicas(classified(net.module), (0, 0, None))
  accuracy = lambda net, part: np.asarray(judge(net.params, net.stats, splits[part])['accuracy'])
  dense = accuracy(net, 'validation')
  first = {'rewind': run.nets.get('start', net).params, 'last': None}
  if search.start == 'reinit':
    first['reinit'] = create(net.module, run.key('init', 1), example).params

  def step(carry, index: int, run: Run):
    grid = index < len(search.levels)
    at = 'last' if grid else 'good'
    now = net.replace(**carry[at])
    good, bad = (float(carry[name]) for name in ('good_share', 'bad_share'))
    share = search.levels[index] if grid else math.sqrt(good * bad)
    how = dict(scope=search.scope, least=search.least, filters=search.filters)
    scores = scored(search, now, run)
    masks = select.select(scores, now.masks, search.structure, found, share, **how)
    begin = first[search.start]
    now = now.replace(masks=tree.map(jnp.asarray, masks),
                      params=now.params if begin is None else begin)  # fmt: skip
    _, best = fit(now, run, splits, search.tx, **search.schedule)
    now = now.replace(params=best.params, stats=best.stats)
    seen = accuracy(now, 'validation')
    enough = float(seen.mean()) >= float(dense.mean()) - search.tolerance
    run.log(
      kind='filterlet', summary=True, seeds=run.seeds, structure=search.structure, level=index,
      share=round(share, 6), start=search.start, enough=enough, validation_accuracy=seen,
      steps=search.schedule['steps'], test_accuracy=accuracy(now, 'test'),
      kept=prune.kept(now.masks, [n.removeprefix('params/') for n in found.convs]),
      conv_bytes=_bytes(search.structure, channels.shrunk(now, found), found),
    )  # fmt: skip
    held = dict(params=now.params, stats=now.stats, masks=now.masks)
    carry = dict(carry, last=held)
    if enough and share < good:
      return dict(carry, good=held, good_share=np.float32(share)), None
    return dict(carry, bad_share=np.float32(max(share, bad) if share < good else bad)), None

  held = dict(params=net.params, stats=net.stats, masks=net.masks)
  carry = dict(last=held, good=held, good_share=np.float32(1), bad_share=np.float32(search.least))
  last, _ = run.fold('levels', step, carry, len(search.levels) + search.bisections)
  return channels.shrunk(net.replace(**last['good']), found)


def scored(search, net: Net, run: Run):
  """Importance of every weight, [R, ...], by search.score, on search.examples for training."""
  size = min(search.examples, len(run.data.train.y)) // 64 * 64 or len(run.data.train.y)
  x, y = (values[:size].reshape(-1, min(64, size), *values.shape[1:]) for values in run.data.train)
  return over_replicas(importance(net.module, search.score), (0, 0, None, None))(
    tree.keep(net.params, net.masks), net.stats, x, y
  )


def _bytes(structure: str, net: Net, found) -> list[int]:
  """int8 bytes [R] of all convolutions' weights, each in the least form of its structure."""
  masks = dict(tree.named(net.masks))
  forms = FORMS.get(structure, ('csr', 'element_bitmap', 'patterns'))
  kernels = [np.moveaxis(np.asarray(masks[n.removeprefix('params/')]), -1, 1) for n in found.convs]
  return [sum(footprint(k[r].astype(np.int8), forms) for k in kernels)
          for r in range(len(kernels[0]))]  # fmt: skip
