"""Compound scaling: the paper's coefficients, and what networks of a family cost."""

import itertools

import numpy as np
import pytest

from reduction.errors import UsageError
from reduction.search import arch as a
from reduction.search import scaling
from reduction.search import space as s
from reduction.search.cost import cost, ops_of_arch


def base():
  space = s.space('proxyless').at(160, 1.0)
  genes = np.zeros(len(space.choices()), int)
  return s.decode(space, genes)


def macs(arch):
  return int(cost(ops_of_arch(arch))['macs'][0])


def test_the_paper_s_coefficients_are_on_the_grid():
  assert scaling.PAPER.growth == pytest.approx(1.9203, abs=1e-4)
  found = scaling.grid()
  assert scaling.PAPER in found
  assert all(1.9 <= c.growth <= 2.1 for c in found)
  brute = [
    (x, y, z) for x in range(21) for y in range(10) for z in range(10)
    if abs((1 + x / 20) * (1 + y / 20) ** 2 * (1 + z / 20) ** 2 - 2) <= 0.1
  ]  # fmt: skip
  assert len(found) == len(brute)


def test_nothing_changes_at_phi_0_and_costs_double_with_each():
  first = base()
  assert scaling.scaled(first, scaling.PAPER, 0) == first
  members = scaling.family(first, scaling.PAPER, range(5))
  for one in members:
    a.check(one)
  found = [macs(one) for one in members]
  # depths are rounded up, so that it may grow faster than 1.92 a step, never as fast as 3
  assert all(1.5 < after / before < 3 for before, after in itertools.pairwise(found))
  assert 1.9203**4 * 0.8 < found[-1] / found[0] < 1.9203**4 * 2


def test_each_coefficient_grows_its_own_side():
  first = base()
  deep = scaling.scaled(first, scaling.Coefficients(2, 1, 1), 1)
  assert len(deep.blocks) == 2 * len(first.blocks)
  assert {b.middle / b.cin for b in deep.blocks} == {b.middle / b.cin for b in first.blocks}
  assert deep.resolution == first.resolution and deep.stem == first.stem
  assert scaling.scaled(first, scaling.Coefficients(1, 2, 1), 1).stem[0] == 2 * first.stem[0]
  fine = scaling.scaled(first, scaling.Coefficients(1, 1, 1.5), 1)
  assert fine.resolution == 240 and fine.blocks == first.blocks


def test_a_grid_that_is_none_is_refused():
  with pytest.raises(UsageError, match='above 1'):
    scaling.grid(growth=1.0)
