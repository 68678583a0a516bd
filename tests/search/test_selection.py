"""Selection of spaces: by hand on a small space that is listed whole, and what does not fit."""

import dataclasses

import numpy as np
import pytest

from configs.mcunet import cifar
from reduction.errors import UsageError
from reduction.search import selection
from reduction.search import space as s
from reduction.search.cost import cost, ops_of
from reduction.search.selection import Budget
from tests.search.test_space import TINY

ROOMY, NONE = Budget('roomy', 10**9, 10**9), Budget('none', 100, 100)


def test_means_are_those_of_the_networks_that_fit():
  part = TINY.at(12, 1.0)
  costs = cost(ops_of(part, s.enumerate_all(part)))
  half = Budget('half', int(np.median(costs['sram'])), int(np.median(costs['flash'])))
  random = np.random.default_rng(0)
  found = selection.examine(part, (half, ROOMY, NONE), random, samples=2_000, attempts=20_000)
  good = (costs['sram'] <= half.sram) & (costs['flash'] <= half.flash)
  # genes of absent places are drawn too, so that a shallow network is as likely as all deep ones
  shallow = s.active(part, s.enumerate_all(part)).sum(1) == 2
  weight = np.where(shallow, 1 / shallow.sum(), 1 / (~shallow).sum())
  wanted = np.sum((weight * costs['macs'])[good]) / weight[good].sum()
  assert abs(found.mean[0] - wanted) < 4 * found.error[0]
  assert abs(found.found[0] / found.drawn[0] - weight[good].sum() / 2) < 0.05
  assert found.possible.tolist() == [True, True, False]
  assert found.found.tolist() == [2_000, 2_000, 0]
  assert found.drawn[1:].tolist() == [2_000, 0]
  assert np.isnan(found.mean[2])
  assert found.quantiles[1][[0, -1]].tolist() == [costs['macs'].min(), costs['macs'].max()]


def test_a_space_that_hardly_anything_fits_is_given_up():
  part = dataclasses.replace(TINY.at(12, 1.0), kernels=(3, 5, 7), expansions=(2, 3, 4))
  costs = cost(ops_of(part, s.extremes(part)))  # the smallest: one of 2 x 9 x 9 that are drawn
  only = Budget('smallest', int(costs['sram'][0]), int(costs['flash'][0]))
  settings = dict(samples=1_000, attempts=50_000)
  found = selection.examine(part, (only,), np.random.default_rng(0), **settings)
  assert found.possible[0]
  assert found.drawn[0] == 6_000
  assert 0 < found.found[0] < 60


def test_the_best_is_the_largest_mean_of_those_that_have_all_samples():
  assert selection.choose(np.array([3.0, 9.0, 5.0]), np.array([10, 9, 10]), 10) == [2, 0]


def test_networks_that_fit_are_found_once_each_or_it_says_what_the_smallest_takes():
  random = np.random.default_rng(0)
  genes = selection.random_fitting(TINY, ROOMY, random, 40)
  assert len(np.unique(genes, axis=0)) == 40
  part = TINY.at(8, 1.0)
  assert len(selection.random_fitting(part, ROOMY, random, 100)) == part.count() == 80
  with pytest.raises(UsageError, match='the smallest takes'):
    selection.random_fitting(TINY, NONE, random, 1)
  with pytest.raises(UsageError, match='no resolution 16'):
    selection.narrowed(TINY, 16, 1.0)


def test_the_best_and_the_worst_space_of_the_cifar_config_are_those_of_the_selection():
  space = s.space(**cifar.SPACES)
  budget = Budget('cifar', cifar.LIMITS['sram'], cifar.LIMITS['flash'])
  parts = selection.parts(space)
  examine = lambda part: selection.examine(part, (budget,), np.random.default_rng(0), samples=200,
                                           attempts=4_000)  # fmt: skip
  found = [examine(part) for part in parts]
  order = selection.choose(np.array([f.mean[0] for f in found]),
                           np.array([f.found[0] for f in found]), 200)  # fmt: skip
  ends = [(parts[i].resolutions[0], parts[i].widths[0]) for i in (order[0], order[-1])]
  assert ends == [cifar.PLACES['best'], cifar.PLACES['worst']]
