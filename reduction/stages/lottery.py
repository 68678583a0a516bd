"""Lottery tickets: find them, rewind them, train their controls (Frankle & Carbin, ICLR 2019)."""

import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax

from reduction import prune
from reduction.config import call
from reduction.errors import did_you_mean, require
from reduction.net import Net, over_replicas
from reduction.run import Run, Stage
from reduction.stages import controls as known_controls
from reduction.stages.controls import Control, Ticket
from reduction.stages.trial import Start, at_step, connect, histograms, trial
from reduction.train import check_schedule
from reduction.update import optimizer as build_optimizer

PROCEDURES = ('resetting', 'continued', 'one_shot', 'learning_rate')
SCOPES = ('layer', 'global')
OWN = ('continued', 'ticket')  # trained at every level; all other nets are controls


def lottery(
  *,
  rounds: int,
  rates: tuple[tuple[str, float], ...],
  steps: int,
  batch: int,
  optimizer: dict,
  every: int = 100,
  procedure: str = 'resetting',
  scope: str = 'layer',
  criterion: str = 'large_final',
  rewind: int = 0,
  controls: dict | None = None,
  curve_levels: tuple[int, ...] = (),
  histogram_levels: tuple[int, ...] = (),
) -> Stage:
  """Finds the ticket of each of `rounds` prunes, and trains its controls.

  Level 0 is the dense net. At each level a mask is made from last weights, and the ticket, the
  weights of step `rewind` under that mask, trains from there to `steps`.

  rounds: prunes. rates: (pattern, fraction) pairs; the first that occurs in a weight's name is its
  rate a round, what matches none is never pruned. every: steps between evaluations.
  procedure: whose last weights make the next mask
    'resetting'      the ticket's (the paper's strategy 1)
    'continued'      those of a net that is pruned and trains on without a reset (strategy 2)
    'one_shot'       the dense net's, all at once
    'learning_rate'  as 'continued', and no ticket is trained: with rewind > 0 only the learning
                     rate goes back to that step (Renda, Frankle & Carbin 2020)
  scope: 'layer' ranks each weight matrix by itself, 'global' all that follow one rule of rates.
  criterion: of `prune.CRITERIA`. rewind: the step that the tickets go back to, weights, statistics,
  learning rate and data order (Frankle et al. 2020); the optimizer's moments begin anew. controls:
  of `stages.controls`, with their settings. curve_levels: levels whose test accuracy is followed
  all along, as in the paper's figure 3; elsewhere the test set is seen before training, at the best
  and at the last step.
  histogram_levels: levels at which the distribution of the ticket's first weights is logged.
  A net that comes with masks is pruned further from them. Returns the last ticket, trained. Rows:
  'curve', 'level' and 'histogram'; for a net and its reordered twin 'path' and 'instability'.
  """
  _check(rounds, rates, procedure, scope, criterion)
  schedule = dict(steps=steps, batch=batch, every=every, first=rewind)
  check_schedule(**schedule)
  chosen = {name: call(known_controls, c, name) for name, c in (controls or {}).items()}
  twins = any(c.get('name', name) == 'reordered' for name, c in (controls or {}).items())
  require(not twins or procedure != 'learning_rate', 'a reordered twin needs a ticket: '
          f'{procedure=} trains none')  # fmt: skip
  watch = {'curve': curve_levels, 'histogram': histogram_levels}
  schedule['tx'] = build_optimizer(**optimizer)
  search = Search(rounds, rates, procedure, scope, criterion, chosen.values(), schedule, watch)
  return functools.partial(find, search)


class Search(NamedTuple):
  """The settings of `lottery`, checked. watch: row kind -> the levels that log it."""

  rounds: int
  rates: tuple
  procedure: str
  scope: str
  criterion: str
  controls: Iterable[Control]
  schedule: dict
  watch: dict


def find(search: Search, net: Net, run: Run) -> Net:
  """The stage: dense net, then prune, rewind, train, as often as the search says."""
  splits = jax.device_put(run.data.splits())
  whole = prune.all_kept(net.params) if net.masks is None else net.masks
  groups = prune.groups(whole, search.rates, together=search.scope == 'global')
  pruned = [name for group in groups for name in group.names]
  counts = prune.counts(jax.tree.map(lambda m: m[0], whole), groups, search.rounds)
  cut = over_replicas(prune.cutter(groups), (0, 0, None))
  score = over_replicas(prune.criterion(search.criterion))
  one_shot = search.procedure == 'one_shot'
  net = at_step(search.schedule, net.replace(masks=whole), run, splits)

  def step(carry, level: int, run: Run):
    masks, trunk = carry['masks'], net.replace(**carry['trunk'])
    if level:
      alive = whole if one_shot else masks
      masks = cut(score(net.params, trunk.params), alive, counts[level])
    tags = dict(level=level, kept=round(prune.kept(masks, pruned), 6))
    train = dict(search.schedule, watching=level in w if (w := search.watch['curve']) else None)
    again = lambda scores: cut(scores, whole, counts[level])
    ticket = Ticket(net.replace(masks=masks), run.key, again, splits['train'][0][:1])
    own = {}
    for start in starts(search, level, ticket, trunk):
      part = run.child(start.part, net=start.net, **tags)
      last = trial(start, part, splits, **train)
      if start.net in OWN:
        own[start.net] = last
      if start.net == 'ticket' and level in search.watch['histogram']:
        histograms(start.first, part, pruned)
      if start.points:
        connect(own['ticket'], last, part, splits, start.points)
    trained = [dict(params=last.params, stats=last.stats) for last in own.values()]
    trunk = carry['trunk'] if level and one_shot else trained[0]
    return dict(masks=masks, trunk=trunk, ticket=trained[-1]), dict(masks=masks)

  first = dict(params=net.params, stats=net.stats)
  carry = dict(masks=whole, trunk=first, ticket=first)
  last, _ = run.fold('levels', step, carry, search.rounds + 1)
  return net.replace(masks=last['masks'], **last['ticket'])


def starts(search: Search, level: int, ticket: Ticket, trunk: Net) -> Iterator[Start]:
  """The nets to train at a level: first the trunk, whose last weights are scored; controls last."""
  if level and search.procedure in ('continued', 'learning_rate'):
    yield Start('continued', 'continued', trunk.replace(masks=ticket.first.masks))
  if not level or search.procedure != 'learning_rate':
    yield Start('ticket', 'ticket', ticket.first)
  for control in search.controls:
    if level > 0 if control.levels is None else level in control.levels:
      yield from control.starts(ticket)


def _check(rounds, rates, procedure, scope, criterion):
  require(rounds >= 0, f'{rounds=} must not be negative')
  for name, value, known in (
    ('procedure', procedure, PROCEDURES), ('scope', scope, SCOPES),
    ('criterion', criterion, prune.CRITERIA),
  ):  # fmt: skip
    require(value in known, f'{name}={value!r} is unknown.{did_you_mean(value, known)}')
  for pattern, rate in rates:
    require(0 <= rate < 1, f'rate {rate} of {pattern!r} must lie in [0, 1)')
