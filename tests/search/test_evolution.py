"""Evolution, prediction and ranks: better than chance where that is known, resumed bit for bit."""

import itertools

import numpy as np
import pytest
from scipy import stats

from reduction.errors import UsageError
from reduction.run import Run
from reduction.search import evolution, predictor, rank
from reduction.search import space as s
from reduction.search.cost import cost, ops_of

SPACE = s.space('mcunet').at(96, 0.5)
LIMIT = 14_000_000


def fits(genes):
  return cost(ops_of(SPACE, genes))['macs'] <= LIMIT


def worth(genes):
  """A made-up accuracy that grows with computation, and likes 5 x 5 kernels best."""
  likes = (s.split(SPACE, genes)[3] == 1) & s.active(SPACE, genes)
  return cost(ops_of(SPACE, genes))['macs'] / LIMIT + 0.2 * likes.sum(1)


def first(count=20):
  genes = s.sample(SPACE, np.random.default_rng(0), 4_000)
  return genes[fits(genes)][:count]


def evolved(run, generations=6):
  score = lambda genes, _: worth(genes)
  return evolution.evolve(run, SPACE, first(), score, fits, generations=generations)


def test_an_evolution_scores_as_many_networks_as_it_says():
  seen = []
  score = lambda genes, _: seen.append(len(genes)) or worth(genes)
  evolution.evolve(Run(), SPACE, first(), score, fits, generations=3, parents=0.25)
  assert sum(seen) == evolution.scored(20, generations=3, parents=0.25) == 20 + 3 * 15


def test_evolution_beats_as_many_random_networks_within_the_budget():
  genes, scores = evolved(Run())
  assert fits(genes).all()
  np.testing.assert_array_equal(scores, np.sort(worth(genes))[::-1])
  others = s.sample(SPACE, np.random.default_rng(1), 4_000)
  others = others[fits(others)][: 20 + 6 * 16]
  assert scores[0] > worth(others).max() > worth(first()).mean()


def test_a_search_that_stopped_goes_on_with_the_same_bits(tmp_path, monkeypatch):
  whole = Run(save_every=0)
  want = evolved(whole)
  real, calls = evolution.children, itertools.count()

  def dies(*args, **settings):
    if next(calls) == 3:
      raise KeyboardInterrupt
    return real(*args, **settings)

  monkeypatch.setattr(evolution, 'children', dies)
  with pytest.raises(KeyboardInterrupt):
    evolved(Run(workdir=tmp_path, save_every=0))
  resumed = Run(workdir=tmp_path, save_every=0)
  found = evolved(resumed)
  for a, b in zip(want, found):
    np.testing.assert_array_equal(a, b)
  assert [r['best'] for r in resumed.rows] == [r['best'] for r in whole.rows]


def test_children_that_cannot_fit_are_their_parents():
  parents = first(5)
  made = evolution.children(
    SPACE, parents, lambda genes: np.zeros(len(genes), bool), np.random.default_rng(0), count=9
  )
  assert {row.tobytes() for row in made} <= {row.tobytes() for row in parents}


def test_a_predictor_orders_networks_it_has_not_seen():
  genes = s.sample(SPACE, np.random.default_rng(2), 250)
  learned = predictor.fit(SPACE, genes[:200], worth(genes[:200]), steps=150, widths=(64, 64))
  assert rank.tau(learned(genes[200:]), worth(genes[200:])) > 0.6


def test_tau_is_kendall_s():
  random = np.random.default_rng(0)
  for _ in range(5):
    a, b = random.integers(0, 6, (2, 15))
    assert rank.tau(a, b) == pytest.approx(stats.kendalltau(a, b).statistic)
  assert rank.tau([1, 2, 3], [2, 4, 9]) == 1
  middle, low, high = rank.tau_interval(np.arange(30), np.arange(30) + random.normal(0, 9, 30))
  assert 0 < low < middle < high <= 1
  with pytest.raises(UsageError, match='three or more'):
    rank.tau_interval([1, 2], [1, 2])
