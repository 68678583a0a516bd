"""Which networks of a space a device may have: limits of memory, computation and energy."""

import functools
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from reduction.errors import require
from reduction.mcu import boards
from reduction.search import latency
from reduction.search.cost import cost, ops_of
from reduction.search.selection import Budget, of_board
from reduction.search.space import Space

CODE = 64 * 1024  # bytes of Flash left for a board's code


class Fitting(NamedTuple):
  """budget: of memory. costs: genes [n, genes] -> dict of arrays [n]. fits: genes -> bool [n]."""

  budget: Budget
  costs: Callable
  fits: Callable


def fitting(
  space: Space, *, picojoules: dict | None = None, table: str | None = None,
  board: str | None = None, **limits,
) -> Fitting:  # fmt: skip
  """The limits of a device on networks of a space.

  board, limits: of `within`. picojoules: of `search.cost.cost`, what the estimate of energy is of.
  table: whose instructions, a core of `mcu.boards.CORES` or a file of `search.latency`; by default
  the board's core, or 'm4'.
  """
  name = table or (boards.board(board).core if board else 'm4')
  counted = latency.read(name if name in boards.CORES else pathlib.Path(name))
  costed = functools.partial(costs, space, picojoules=picojoules, table=counted)
  return within(costed, board=board, **limits)


def within(
  costed: Callable, *, board: str | None = None, sram: int = 0, flash: int = 0, macs: int = 0,
  energy: float = 0.0, instructions: int = 0, code: int = CODE,
) -> Fitting:  # fmt: skip
  """The limits of a device on networks whose costs are known.

  costed: genes [n, genes] -> dict of arrays [n]. board: of `mcu.boards`, whose memory less a stack
  and Flash less `code` bytes are limits; or sram, flash in bytes. macs, energy (microjoules,
  estimated), instructions: limits too; 0: none. Raises UsageError where neither a board nor both
  sizes are named.
  """
  require(board is not None or min(sram, flash) > 0, 'name a board, or sram and flash in bytes')
  budget = of_board(board, code) if board else Budget('limits', sram, flash)
  limits = dict(sram=budget.sram, flash=budget.flash, macs=macs, energy_uj=energy,
                instructions=instructions)  # fmt: skip
  limits = {name: most for name, most in limits.items() if most}
  return Fitting(budget, costed, functools.partial(_fits, costed, limits))


def costs(space: Space, genes, picojoules: dict | None = None, table=None) -> dict:
  """What `search.cost` says of networks [n, genes], and 'instructions'."""
  ops = ops_of(space, np.atleast_2d(genes))
  return latency.with_instructions(cost(ops, picojoules=picojoules), ops, table)


def _fits(costed: Callable, limits: dict, genes) -> np.ndarray:
  found = costed(genes)
  told = 'instructions' not in limits or not np.isnan(found['instructions']).any()
  require(told, 'no table has every kind of op of this space: see search.latency')
  return np.all([found[name] <= most for name, most in limits.items()], axis=0)
