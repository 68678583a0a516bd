"""Lottery tickets: iterative magnitude pruning with rewinding (Frankle & Carbin, ICLR 2019)."""

import functools

import jax
import numpy as np

from reduction import prune, tree
from reduction.errors import require
from reduction.net import Net, initializer, over_replicas
from reduction.run import Run, Stage
from reduction.train import check_schedule, fit
from reduction.update import classified
from reduction.update import optimizer as build_optimizer


def lottery(
  *,
  rounds: int,
  rates: tuple[tuple[str, float], ...],
  steps: int,
  batch: int,
  optimizer: dict,
  every: int = 100,
  procedure: str = 'iterative',
  reinits: int = 1,
  reinit_levels: tuple[int, ...] | None = None,
  curve_levels: tuple[int, ...] = (),
) -> Stage:
  """Finds the ticket of each of `rounds` prunes, and trains its controls.

  Level 0 is the dense net. At each level the ticket starts from the masked first weights, trains
  for `steps`, and gives the next mask by the magnitude of its last weights.

  rounds: prunes. rates: (pattern, fraction) pairs; the first that occurs in a weight's name is its
  rate a round, what matches none is never pruned. every: steps between evaluations. procedure:
  'iterative' drops the smallest survivors of the last ticket (the paper's strategy 1); 'one_shot'
  drops them all at once from the trained dense net. reinits: random reinitializations of each
  ticket, at `reinit_levels` (None: all). curve_levels: levels whose test accuracy is followed all
  along, as in the paper's figure 3; elsewhere the test set is seen at the best and the last step.
  A net that comes with masks is pruned further from them. Returns the last ticket, trained. Rows:
  'curve' and 'level'.
  """
  _check(rounds, rates, procedure)
  schedule = dict(steps=steps, batch=batch, every=every)
  check_schedule(**schedule)
  tx = build_optimizer(**optimizer)

  def stage(net: Net, run: Run) -> Net:
    splits = jax.device_put(run.data.splits())
    cut = over_replicas(prune.largest, (0, 0, None))
    redraw = over_replicas(initializer(net.module), (0, None))
    whole = prune.all_kept(net.params) if net.masks is None else net.masks
    counts = _counts(whole, rates, rounds)
    pruned = [name for name, count in tree.named(counts[0]) if count is not None]

    def step(carry, level: int, run: Run):
      masks = carry['masks']
      if level:
        alive = masks if procedure == 'iterative' else whole
        masks = cut(prune.magnitude(carry['scored']), alive, counts[level])
      tags = dict(level=level, kept=round(prune.kept(masks, pruned), 6))
      attempt = functools.partial(
        _attempt, splits=splits, tx=tx, **schedule, watching=level in curve_levels
      )
      ticket = attempt(run.child('ticket', net='ticket', **tags), net.replace(masks=masks))
      for again in range(reinits if reinit_levels is None or level in reinit_levels else 0):
        params, stats = redraw(run.key('init', 1 + again), splits['train'][0][:1])
        fresh = net.replace(params=params, stats=stats, masks=masks)
        attempt(run.child(f'reinit{again}', net='reinit', **tags), fresh)
      scored = carry['scored'] if level and procedure == 'one_shot' else ticket.params
      carry = dict(masks=masks, scored=scored, params=ticket.params, stats=ticket.stats)
      return carry, dict(masks=masks)

    carry = dict(masks=whole, scored=net.params, params=net.params, stats=net.stats)
    last, _ = run.fold('levels', step, carry, rounds + 1)
    return net.replace(params=last['params'], stats=last['stats'], masks=last['masks'])

  return stage


def _check(rounds, rates, procedure):
  require(rounds >= 0, f'{rounds=} must not be negative')
  require(procedure in ('iterative', 'one_shot'), f"{procedure=} is not 'iterative' or 'one_shot'")
  for pattern, rate in rates:
    require(0 <= rate < 1, f'rate {rate} of {pattern!r} must lie in [0, 1)')


def _attempt(part: Run, first: Net, *, splits, tx, **schedule) -> Net:
  """Trains from masked first weights, and logs how that went."""
  last, best = fit(first, part, splits, tx, **schedule)
  score = over_replicas(classified(first.module), (0, 0, None))
  row = dict(early_stop_step=best.step, validation_loss=best.loss, steps=schedule['steps'])
  for when, at in ('early_stop_', best), ('', last):
    for split in 'train', 'test':
      row[f'{when}{split}_accuracy'] = score(at.params, at.stats, splits[split])['accuracy']
  part.log(kind='level', summary=True, seeds=part.seeds, **row)
  return last


def _counts(masks, rates, rounds: int) -> list:
  """For each level, a tree of how many weights of each leaf are left; None where never pruned."""

  def left(level):
    def leaf(name, mask):
      rate, alive = tree.first_match(rates, name), int(mask[0].sum())
      if rate is None:
        return None
      for _ in range(level):
        alive = prune.survivors(alive, rate)
      require(alive > 0, f'{rounds=} leave no weight in {name}; lower them or its rate {rate}')
      return np.int32(alive)

    return tree.map_named(leaf, masks)

  prune.by_name(masks, rates)  # refuses a rule that no weight follows
  return [left(level) for level in range(rounds + 1)]
