"""Lottery tickets: find them, rewind them, train their controls (Frankle & Carbin, ICLR 2019)."""

import functools
import math

import jax

from reduction import prune, tree
from reduction.config import call
from reduction.errors import did_you_mean, require
from reduction.net import Net, over_replicas
from reduction.run import Run, Stage
from reduction.stages import controls as known_controls
from reduction.stages.controls import Start, Ticket
from reduction.train import check_schedule, fit
from reduction.update import classified
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
  learning rate and data order (Frankle et al. 2020). controls: of `stages.controls`, with their
  settings. curve_levels: levels whose test accuracy is followed all along, as in the paper's figure
  3; elsewhere the test set is seen before training, at the best and at the last step.
  A net that comes with masks is pruned further from them. Returns the last ticket, trained. Rows:
  'curve' and 'level'.
  """
  _check(rounds, rates, procedure, scope, criterion)
  schedule = dict(steps=steps, batch=batch, every=every, first=rewind)
  check_schedule(**schedule)
  tx = build_optimizer(**optimizer)
  chosen = {name: call(known_controls, c, name) for name, c in (controls or {}).items()}

  def stage(net: Net, run: Run) -> Net:
    splits = jax.device_put(run.data.splits())
    whole = prune.all_kept(net.params) if net.masks is None else net.masks
    groups = prune.groups(whole, rates, together=scope == 'global')
    counts = prune.counts(jax.tree.map(lambda m: m[0], whole), groups, rounds)
    pruned = [name for group in groups for name in group.names]
    cut = over_replicas(_cutter(groups), (0, 0, None))
    score = over_replicas(prune.criterion(criterion))
    if rewind:
      to_step = dict(steps=rewind, batch=batch, every=math.gcd(rewind, every))
      net, _ = fit(net.replace(masks=whole), run.child('before'), splits, tx, **to_step)

    def starts(level: int, masks, trunk: Net, run: Run):
      """The nets to train: first the trunk, whose last weights are scored; then the rest."""
      ticket = net.replace(masks=masks)
      if level and procedure in ('continued', 'learning_rate'):
        yield Start('continued', 'continued', trunk.replace(masks=masks))
      if not level or procedure != 'learning_rate':
        yield Start('ticket', 'ticket', ticket)
      again = lambda scores: cut(scores, whole, counts[level])
      for control in chosen.values():
        if level > 0 if control.levels is None else level in control.levels:
          yield from control.starts(Ticket(ticket, run.key, again, splits['train'][0][:1]))

    def step(carry, level: int, run: Run):
      masks, trunk = carry['masks'], net.replace(**carry['trunk'])
      if level:
        alive = whole if procedure == 'one_shot' else masks
        masks = cut(score(net.params, trunk.params), alive, counts[level])
      tags = dict(level=level, kept=round(prune.kept(masks, pruned), 6))
      train = dict(schedule, tx=tx, watching=level in curve_levels)
      attempt = functools.partial(_attempt, run=run, tags=tags, splits=splits, **train)
      trained = [(s.net, attempt(s)) for s in starts(level, masks, trunk, run)]
      own = [dict(params=n.params, stats=n.stats) for name, n in trained if name in OWN]
      stays = level and procedure == 'one_shot'
      carry = dict(masks=masks, trunk=carry['trunk'] if stays else own[0], ticket=own[-1])
      return carry, dict(masks=masks)

    begin = dict(params=net.params, stats=net.stats)
    last, _ = run.fold('levels', step, dict(masks=whole, trunk=begin, ticket=begin), rounds + 1)
    return net.replace(masks=last['masks'], **last['ticket'])

  return stage


def _check(rounds, rates, procedure, scope, criterion):
  require(rounds >= 0, f'{rounds=} must not be negative')
  for name, value, known in (
    ('procedure', procedure, PROCEDURES), ('scope', scope, SCOPES),
    ('criterion', criterion, prune.CRITERIA),
  ):  # fmt: skip
    require(value in known, f'{name}={value!r} is unknown.{did_you_mean(value, known)}')
  for pattern, rate in rates:
    require(0 <= rate < 1, f'rate {rate} of {pattern!r} must lie in [0, 1)')


def _attempt(start: Start, *, run: Run, tags, splits, **schedule) -> Net:
  """Trains from masked first weights, and logs how that went."""
  part = run.child(start.part, net=start.net, **tags)
  last, best = fit(start.first, part, splits, frozen=start.frozen, **schedule)
  score = over_replicas(classified(last.module), (0, 0, None))
  row = dict(early_stop_step=best.step, validation_loss=best.loss, steps=schedule['steps'])
  for when, at in ('early_stop_', best), ('', last):
    for split in 'train', 'test':
      row[f'{when}{split}_accuracy'] = score(at.params, at.stats, splits[split])['accuracy']
  first = start.first.params if start.frozen else tree.keep(start.first.params, start.first.masks)
  row['start_test_accuracy'] = score(first, start.first.stats, splits['test'])['accuracy']
  part.log(kind='level', summary=True, seeds=part.seeds, **row)
  return last


@functools.lru_cache(maxsize=64)
def _cutter(groups):
  """(scores, masks, counts, one a group) -> masks; the same function for the same groups."""
  return lambda scores, masks, counts: prune.largest_in_groups(scores, masks, groups, counts)
