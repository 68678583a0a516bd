"""Which search space suits a device: the first stage of TinyNAS (Lin et al., NeurIPS 2020, 3.1).

For each resolution and width multiplier, networks are drawn until enough of them fit the budget;
the space whose fitting networks have the most multiply-accumulates on average is taken: more
computation in the same memory is more capacity. Nothing is trained.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from reduction.errors import UsageError, require
from reduction.mcu import boards
from reduction.mcu.measure import STACK
from reduction.search import space as spaces
from reduction.search.cost import limits, ops_of
from reduction.search.space import Space

QUANTILES = np.arange(21) / 20
BLOCK = 2_000  # networks costed at a time
LEAST = 0.01  # share that fits below which a space is given up after a few blocks
PATIENCE = 5_000
DRAWS = 20  # of as many networks as are wanted, until enough fit all limits
DRY = 10  # blocks without a new network that fits, after which no more are looked for


class Budget(NamedTuple):
  """sram, flash: bytes that a network may take."""

  name: str
  sram: int
  flash: int


def of_board(name: str, code: int) -> Budget:
  """The memory of a board of `mcu.boards` less a stack, its Flash less `code` bytes."""
  chosen = boards.board(name)
  return Budget(name, chosen.ram - STACK, chosen.flash - code)


class Examined(NamedTuple):
  """What was found of one space, arrays [budgets].

  possible: whether its smallest network fits. found, drawn: networks that fit, of how many. mean,
  error: of the multiply-accumulates of those that fit, and the standard error; NaN without any.
  quantiles: [budgets, 21] of them, at 0, 5 ... 100 %.
  """

  possible: np.ndarray
  found: np.ndarray
  drawn: np.ndarray
  mean: np.ndarray
  error: np.ndarray
  quantiles: np.ndarray


def parts(space: Space) -> list[Space]:
  """The space of each resolution and width multiplier."""
  return [space.at(r, w) for r in space.resolutions for w in space.widths]


def fits(costs: dict, budgets: tuple[Budget, ...]) -> np.ndarray:
  """bool [budgets, n]."""
  return np.stack([(costs['sram'] <= b.sram) & (costs['flash'] <= b.flash) for b in budgets])


def examine(
  space: Space, budgets: tuple[Budget, ...], random: np.random.Generator, *, samples: int,
  attempts: int, memory: str = 'planner',
) -> Examined:  # fmt: skip
  """Draws networks of a space until `samples` fit each budget, at most `attempts`.

  A budget that the smallest network exceeds is impossible, exactly: no cost falls when a choice
  grows. One that less than 1 % fit of the first 5,000 is given up.
  """
  smallest = limits(ops_of(space, spaces.extremes(space)[:1]), memory)
  possible = fits(smallest, budgets)[:, 0]
  found, drawn, pending = [[] for _ in budgets], np.zeros(len(budgets), int), possible.copy()
  total = 0
  while pending.any() and total < attempts:
    genes = spaces.sample(space, random, min(BLOCK, attempts - total))
    costs = limits(ops_of(space, genes), memory)
    total += len(genes)
    good = fits(costs, budgets)
    for b in np.flatnonzero(pending):
      place = np.flatnonzero(good[b])[: samples - len(found[b])]
      found[b] += costs['macs'][place].tolist()
      full = len(found[b]) == samples
      drawn[b] += place[-1] + 1 if full else len(genes)
      pending[b] = not full and (total < PATIENCE or len(found[b]) >= LEAST * total)
  counts = np.array([len(f) for f in found])
  of = lambda f: np.array([f(np.array(x, float)) if len(x) else np.nan for x in found])
  return Examined(
    possible, counts, drawn, of(np.mean),
    of(lambda x: x.std(ddof=1) / np.sqrt(len(x)) if len(x) > 1 else np.nan),
    np.array([np.quantile(x, QUANTILES) if x else np.full(21, np.nan) for x in found]),
  )  # fmt: skip


def choose(means: np.ndarray, found: np.ndarray, samples: int) -> list[int]:
  """Places of the spaces [n] that have all samples, the largest mean first."""
  whole = np.flatnonzero(found >= samples)
  return sorted(whole.tolist(), key=lambda i: -means[i])


def random_fitting(
  space: Space, budget: Budget, random: np.random.Generator, count: int, *, attempts: int = 200_000,
  memory: str = 'planner',
) -> np.ndarray:  # fmt: skip
  """Genes [n, genes] of random networks that fit, each once: count, or as many as are found.

  Gives up after DRY blocks without a new one, or attempts. Raises UsageError, with what the
  smallest needs, where none is found.
  """
  smallest = limits(ops_of(space, spaces.extremes(space)[:1]), memory)
  kept, tried, dry = {}, 0, 0
  while len(kept) < count and tried < attempts and dry < DRY and fits(smallest, (budget,)).all():
    genes, before = spaces.sample(space, random, BLOCK), len(kept)
    good = fits(limits(ops_of(space, genes), memory), (budget,))[0]
    kept |= {row.tobytes(): row for row in genes[good]}
    tried, dry = tried + BLOCK, 0 if len(kept) > before else dry + 1
  if not kept:
    raise UsageError(
      f'none of {tried:,} networks of {space.name} fits {budget.name} ({budget.sram:,} bytes of '
      f'SRAM, {budget.flash:,} of Flash); the smallest takes {smallest["sram"][0]:,} and '
      f'{smallest["flash"][0]:,}: take a smaller resolution or width'
    )
  return np.stack(list(kept.values())[:count])


def drawn(space, budget, fits, random, count) -> np.ndarray:
  """Genes [count, genes] of random networks that fit, also in what a budget does not say.

  Each is there once, unless fewer are found. Raises UsageError where none is.
  """
  kept = np.empty((0, len(space.choices())), np.int64)
  for _ in range(DRAWS):
    more = random_fitting(space, budget, random, count)
    kept = np.unique(np.concatenate([kept, more[fits(more)]]), axis=0)
    if len(kept) >= count:
      return random.permutation(kept)[:count]
    if len(more) < count:
      break  # there are no more
  require(len(kept) > 0, f'no network of {space.name} fits all limits: widen them')
  return kept[random.integers(0, len(kept), count)]


def narrowed(space: Space, resolution: int, width: float) -> Space:
  """The space of one resolution and width; the same as `Space.at`, refusing what it has not."""
  if resolution not in space.resolutions or width not in space.widths:
    raise UsageError(f'{space.name} has no resolution {resolution} with width {width}')
  return dataclasses.replace(space.at(resolution, width), name=f'{space.name}-{resolution}-{width}')
