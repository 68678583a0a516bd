"""The fastest net within a board's memory and an accuracy (Han et al., DTMM, INFOCOM 2024)."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from reduction import prune, tree
from reduction.distill.lesson import Lesson
from reduction.errors import UsageError, did_you_mean, require
from reduction.mcu import boards, latency
from reduction.mcu.from_flax import convert
from reduction.net import Net
from reduction.prune import channels, select
from reduction.prune import schedule as solver
from reduction.prune.importance import KINDS, of_layers
from reduction.run import Run, Stage
from reduction.stages import budget, pruning
from reduction.train import check_schedule
from reduction.update import optimizer as build_optimizer

HOW = dict(solve=solver.solve, anneal=solver.anneal)


class Search(NamedTuple):
  """The settings of `schedule`, checked; as there."""

  losses: tuple
  limits: dict
  tolerance: float
  score: str
  scope: str
  examples: int
  how: str
  objective: str
  core: str
  lesson: Lesson | None
  tx: object
  timing: dict


def schedule(
  *, losses: tuple[float, ...], steps: int, batch: int, optimizer: dict, flash: int = 0,
  ram: int = 0, tolerance: float = 0.01, score: str = 'taylor', scope: str = 'normalized',
  examples: int = 1_024, how: str = 'solve', objective: str = 'instructions', core: str = 'm4',
  teacher: dict | None = None, every: int = 100,
) -> Stage:  # fmt: skip
  """Chooses filters and filterlets of every layer, trains on, and returns the fastest good net.

  losses: shares of all importance that may go, rising; each is a round of its own from the net
  that came. Among those that keep a validation accuracy at most `tolerance` below it, the one
  with the least objective, 'instructions' (of `mcu.latency`) or 'bytes', is returned. core: of
  `boards.CORES`, whose instructions count. flash, ram: bytes of constants and of the arena, 0: as
  many as it takes. how: 'solve' or 'anneal' (the paper's). scope: 'global' sums importance over
  all layers (the paper's), 'normalized' each layer's shares of its own. score, examples, teacher,
  steps, batch, optimizer, every: as for `filterlet`. Rows: a 'schedule' for each loss that some
  choice keeps; raises UsageError, naming the limit, where none does, and where there are limits but
  no round within them keeps the accuracy.
  """
  check_schedule(steps=steps, batch=batch, every=every)
  require(losses and all(a < b for a, b in zip((0.0, *losses), losses)), f'{losses=} must rise')
  for name, value, known in (
    ('score', score, KINDS), ('scope', scope, select.SCOPES[:2]), ('how', how, HOW),
    ('core', core, boards.CORES), ('objective', objective, ('instructions', 'bytes')),
  ):  # fmt: skip
    require(value in known, f'{name}={value!r} is unknown.{did_you_mean(value, known)}')
  require(min(flash, ram) >= 0, f'{flash=} and {ram=} must not be negative')
  limits = {name: most for name, most in (('bytes', flash), ('ram', ram)) if most}
  timing = dict(steps=steps, batch=batch, every=every)
  search = Search(tuple(losses), limits, tolerance, score, scope, examples, how, objective,
                  core, pruning.told(teacher), build_optimizer(**optimizer), timing)  # fmt: skip
  return lambda net, run: choose(search, net, run)


def choose(search: Search, net: Net, run: Run) -> Net:
  """The stage."""
  made = pruning.opened(net, run, search.tx, search.timing, search.lesson, 'schedule')
  net, found, whole = made.net, made.found, made.net.masks
  dense = float(made.accuracy(net).mean())
  names = [leaf.removeprefix('params/') for leaf in found.convs]
  scores = pruning.scored(search.score, search.examples, net, run)
  scores = of_layers(scores) if search.scope == 'normalized' else scores
  graph = convert(net, run.data.train.x[:64])
  limits = dict(search.limits, loss=search.losses[-1])
  bill = budget.budget(graph, found, scores, latency.read(search.core), limits, budget.Setting())
  _first(search, bill)  # raises where not even the largest loss fits

  def step(carry, index: int, run: Run):
    loss = search.losses[index]
    try:
      choice = _choice(search, bill, loss)
    except UsageError:  # memory asks for more to go
      return carry, None
    masks = _masks(choice, bill, found, scores, whole)
    now = made.train(net.replace(masks=masks), run)
    seen = made.accuracy(now)
    enough = float(seen.mean()) >= dense - search.tolerance
    cost = choice.costs[search.objective]
    run.log(
      kind='schedule', summary=True, seeds=run.seeds, loss=loss, how=search.how, enough=enough,
      predicted_instructions=round(choice.costs['instructions']),
      predicted_bytes=round(choice.costs['bytes']), kept=prune.kept(masks, names),
      validation_accuracy=seen, test_accuracy=pruning.right(now, run).mean(1, dtype=np.float32),
      steps=search.timing['steps'],
    )  # fmt: skip
    carry = dict(carry, most=jnp.maximum(carry['most'], jnp.float32(seen.mean() - dense)))
    if not enough or cost >= float(carry['cost']):
      return carry, None
    held = dict(params=now.params, stats=now.stats, masks=now.masks)
    return dict(carry, best=held, cost=jnp.float32(cost)), None

  held = dict(params=net.params, stats=net.stats, masks=net.masks)
  first = dict(best=held, cost=jnp.float32(math.inf), most=jnp.float32(-1))
  last, _ = run.fold('losses', step, first, len(search.losses))
  _good(search, last, run)
  return channels.shrunk(net.replace(**last['best']), found)


def _choice(search: Search, made, loss: float):
  limits = dict(made.problem.limits, loss=loss)
  return HOW[search.how](made.problem._replace(limits=limits, objective=search.objective))


def _masks(choice, made, found, scores, whole):
  widths, shares, _ = budget.told(made, found, choice)
  return tree.map(jnp.asarray, select.by_layer(scores, whole, found, widths, shares))


def _first(search: Search, made):
  try:
    _choice(search, made, search.losses[-1])
  except UsageError as error:
    raise UsageError(f'{error}, or let more importance go: losses={search.losses}') from error


def _good(search: Search, last: dict, run: Run):
  """Raises UsageError where there are limits and no round within them is accurate enough."""
  if search.limits and not math.isfinite(float(last['cost'])):
    limits = ', '.join(f'{name} {most:,}' for name, most in search.limits.items())
    raise UsageError(
      f'{run.where}: within {limits} the best choice loses {-100 * float(last["most"]):.1f} points '
      f'of validation accuracy, more than tolerance={search.tolerance}: raise it or the limits, or '
      'train for more steps'
    )
