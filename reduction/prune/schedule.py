"""What each layer keeps so that a net is fastest within its limits: an exact search and annealing.

A choice is a number of channels for each group (options of channels) and a share of filterlets for
each convolution; costs are tables over them, given. With prices for the limited costs the best
choice falls apart into factors of few groups, which are eliminated one by one: exact also where
groups are tied by sums. Prices are found by bisection, and what they leave is improved directly.
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from reduction.errors import UsageError

ROUNDS = 14  # of a bisection over prices, which span 10^12


class Layer(NamedTuple):
  """A convolution. groups: (its input's, its output's), None where channels are fixed.

  costs: name -> [inputs, outputs, shares] over the options of those groups (1 where None).
  """

  name: str
  groups: tuple[int | None, int | None]
  costs: dict[str, np.ndarray]


class Problem(NamedTuple):
  """options: how many each group has. limits: cost name -> the most its sum may be.

  objective: the cost to make least. check: (groups', layers' options) -> what else is wrong
  with them (memory that no sum says), or None.
  """

  options: tuple[int, ...]
  layers: tuple[Layer, ...]
  limits: dict[str, float]
  objective: str = 'instructions'
  check: Callable | None = None


class Choice(NamedTuple):
  """groups: an option each. layers: a share's index each. costs: sums by name."""

  groups: tuple[int, ...]
  layers: tuple[int, ...]
  costs: dict[str, float]


def costs(problem: Problem, groups, shares) -> dict[str, float]:
  """The sums of a choice."""
  total = {}
  for layer, share in zip(problem.layers, shares):
    at = *(0 if g is None else groups[g] for g in layer.groups), share
    for name, table in layer.costs.items():
      total[name] = total.get(name, 0.0) + float(table[at])
  return total


def excess(problem: Problem, choice: Choice) -> dict[str, float]:
  """By how much of each limit a choice passes it: empty where it is feasible."""
  found = {name: choice.costs[name] / limit - 1 if limit > 0 else math.inf
           for name, limit in problem.limits.items() if choice.costs[name] > limit}  # fmt: skip
  if problem.check and (wrong := problem.check(choice.groups, choice.layers)):
    found |= wrong
  return found


def _priced(problem: Problem, prices: dict[str, float]) -> Choice:
  """The least of the objective and all priced costs."""
  factors, pick = [], []
  for layer in problem.layers:
    total = sum(price * layer.costs[name] for name, price in prices.items())
    pick.append(total.argmin(-1))
    axes = [i for i, g in enumerate(layer.groups) if g is not None]
    table = total.min(-1).reshape([total.shape[i] for i in axes])
    factors.append((tuple(layer.groups[i] for i in axes), table))
  groups = _eliminate(problem.options, factors)
  at = lambda layer: tuple(0 if g is None else groups[g] for g in layer.groups)
  shares = tuple(int(p[at(layer)]) for layer, p in zip(problem.layers, pick))
  return Choice(groups, shares, costs(problem, groups, shares))


def _eliminate(sizes, factors) -> tuple[int, ...]:
  """Options of all groups with the least sum of factors [(groups, table)]: exact."""
  left, order, found = set(range(len(sizes))), [], {}
  while left:
    touched = {v: {u for names, _ in factors if v in names for u in names} for v in left}
    v = min(left, key=lambda v: (len(touched[v]), v))
    names = (v, *sorted(touched[v] - {v}))
    total = np.zeros([sizes[u] for u in names])
    for part, table in [f for f in factors if v in f[0]]:
      total = total + _aligned(part, table, names)
    factors = [f for f in factors if v not in f[0]] + [(names[1:], total.min(0))]
    order.append((names, total.argmin(0)))
    left.discard(v)
  for names, best in reversed(order):
    found[names[0]] = int(best[tuple(found[u] for u in names[1:])])
  return tuple(found[v] for v in range(len(sizes)))


def _aligned(part, table, names) -> np.ndarray:
  """table over groups `part` with the axes of `names`; one that stands twice is its diagonal."""
  if len(part) == 2 and part[0] == part[1]:
    part, table = part[:1], np.diagonal(table)
  axes = sorted(range(len(part)), key=lambda i: names.index(part[i]))
  table = table.transpose(axes)
  shape = [table.shape[axes.index(part.index(n))] if n in part else 1 for n in names]
  return table.reshape(shape)


def solve(problem: Problem) -> Choice:
  """The best feasible choice that prices, and then changes of one or two decisions, find.

  Raises UsageError where none is, naming the limits that are passed and the nearest choice.
  """
  seen, best = [], None
  for choice in _along_prices(problem):
    wrong = excess(problem, choice)
    seen.append((max(wrong.values(), default=0.0), choice))
    if not wrong and (best is None or _value(problem, choice) < _value(problem, best)):
      best = choice
  if best is None:
    nearest = min(seen, key=lambda entry: entry[0])[1]
    best = _repaired(problem, nearest)
  return _polished(problem, best)


def _value(problem, choice) -> float:
  return choice.costs[problem.objective]


def _along_prices(problem: Problem):
  """Choices for prices of each limited cost, bisected one inside the other."""
  names = list(problem.limits)
  base = _priced(problem, {problem.objective: 1.0})
  scale = {n: max(_value(problem, base), 1e-9) / max(base.costs[n], 1e-9) for n in names}

  def bisect(fixed, rest):
    if not rest:
      choice = _priced(problem, {problem.objective: 1.0, **fixed})
      yield choice
      return choice
    name, low, high = rest[0], -6.0, 6.0
    free = yield from bisect({**fixed, name: 0.0}, rest[1:])
    if free.costs[name] <= problem.limits[name]:
      return free
    best = free
    for _ in range(ROUNDS):
      middle = (low + high) / 2
      choice = yield from bisect({**fixed, name: scale[name] * 10**middle}, rest[1:])
      if choice.costs[name] <= problem.limits[name]:
        high, best = middle, choice
      else:
        low = middle
    return best

  yield from bisect({}, names)
  for name in names:  # the ends: what is least of each cost alone
    yield _priced(problem, {name: 1.0, problem.objective: 1e-9})


def _neighbours(problem: Problem, choice: Choice, pairs: bool):
  """Choices that differ in one decision, or two."""
  places = [('groups', i, n) for i, n in enumerate(problem.options)]
  places += [('layers', i, next(iter(layer.costs.values())).shape[2])
             for i, layer in enumerate(problem.layers)]  # fmt: skip
  for changed in itertools.combinations(places, 2 if pairs else 1):
    for values in itertools.product(*(range(n) for _, _, n in changed)):
      made = dict(groups=list(choice.groups), layers=list(choice.layers))
      for (kind, i, _), value in zip(changed, values):
        made[kind][i] = value
      groups, layers = tuple(made['groups']), tuple(made['layers'])
      if (groups, layers) != choice[:2]:
        yield Choice(groups, layers, costs(problem, groups, layers))


def _polished(problem: Problem, choice: Choice) -> Choice:
  """choice, improved by the best change of one decision, then of two, as long as one helps."""
  pairs = False
  while True:
    better = [c for c in _neighbours(problem, choice, pairs)
              if _value(problem, c) < _value(problem, choice) * (1 - 1e-9)]  # fmt: skip
    better.sort(key=lambda c: _value(problem, c))
    found = next((c for c in better if not excess(problem, c)), None)
    if found:
      choice, pairs = found, False
    elif pairs or len(problem.layers) > 16:
      return choice
    else:
      pairs = True


def _repaired(problem: Problem, choice: Choice) -> Choice:
  """A feasible choice near one that is not, step by step. Raises UsageError where none is found."""
  worst = lambda c: sum(excess(problem, c).values())
  while (now := worst(choice)) > 0:
    nearest = min(_neighbours(problem, choice, False), key=worst, default=choice)
    if worst(nearest) >= now:
      wrong = excess(problem, choice)
      says = ', '.join(f'{name} by {100 * part:.1f} %' for name, part in wrong.items())
      sums = ', '.join(f'{name} {value:,.6g}' for name, value in choice.costs.items())
      raise UsageError(f'no choice keeps all limits ({_told(problem.limits)}): the nearest passes '
                       f'{says}; it has {sums}. Raise that limit')  # fmt: skip
    choice = nearest
  return choice


def _told(limits) -> str:
  return ', '.join(f'{name} {value:,.6g}' for name, value in limits.items())


def anneal(
  problem: Problem, seed: int = 0, *, moves: int = 100, cooling: float = 0.9, last: float = 1e-4
) -> Choice:
  """The paper's simulated annealing: `moves` at each temperature, `cooling` times the one before.

  Temperatures are shares of the objective, from 1/10 to `last`, so that it cools: the authors' run
  from 100 to 20 on an objective below 1, where 95 % of all worse moves are taken. What passes a
  limit pays its excess. Raises UsageError where nothing feasible was seen.
  """
  random = np.random.default_rng(seed)
  sizes = [*problem.options, *(next(iter(p.costs.values())).shape[2] for p in problem.layers)]
  count, unit = len(problem.options), _value(problem, _priced(problem, {problem.objective: 1.0}))

  def made(state):
    groups, layers = tuple(state[:count]), tuple(state[count:])
    choice = Choice(groups, layers, costs(problem, groups, layers))
    wrong = excess(problem, choice)
    return choice, bool(wrong), _value(problem, choice) / unit + 10 * sum(wrong.values())

  state = [0] * len(sizes)
  now, best, temperature = made(state), None, 0.1
  while temperature > last:
    for _ in range(moves):
      step = random.integers(-1, 2, len(sizes)) * (random.random(len(sizes)) < 2 / len(sizes))
      new = [int(np.clip(v + d, 0, n - 1)) for v, d, n in zip(state, step, sizes)]
      then = made(new)
      if then[2] <= now[2] or random.random() < accepts(then[2] - now[2], temperature * now[2]):
        state, now = new, then
      if not now[1] and (best is None or now[2] < best[2]):
        best = now
    temperature *= cooling
  if best is None:
    raise UsageError(f'annealing saw no choice within {_told(problem.limits)}')
  return best[0]


def accepts(worse: float, temperature: float) -> float:
  """The probability with which a move that is worse by so much is taken (Metropolis)."""
  return math.exp(-worse / temperature)
