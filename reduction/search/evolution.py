"""Evolution of networks that fit a budget (Lin et al., NeurIPS 2020; Cai et al., ICLR 2020).

A generation keeps its best as parents; half of the children are mutants of one, half are crossed
from two. Populations are arrays [n, genes] with scores [n], the best first.
"""

from collections.abc import Callable

import numpy as np

from reduction.search import space as spaces
from reduction.search.space import Space


def ranked(genes: np.ndarray, scores: np.ndarray):
  """Both in falling order of scores."""
  order = np.argsort(-scores, kind='stable')
  return genes[order], scores[order]


def kept(population: int, parents: float) -> int:
  """How many of a population are the parents of the next."""
  return max(1, round(parents * population))


def scored(population: int, *, generations: int, parents: float) -> int:
  """How many networks an evolution scores, as many as a search beside it may."""
  return population + generations * (population - kept(population, parents))


def children(
  space: Space, parents: np.ndarray, fits: Callable, random: np.random.Generator, *, count: int,
  mutated: float = 0.5, rate: float = 0.1, tries: int = 50,
) -> np.ndarray:  # fmt: skip
  """Genes [count, genes] of children of parents [n, genes], all of which fit.

  fits: genes -> bool [n]. mutated: share of mutants, each gene of which is drawn again with
  probability rate. A child that does not fit is made again, at most `tries` times, then is its
  first parent.
  """
  mutants = np.arange(count) < round(mutated * count)
  result = parents[random.integers(0, len(parents), count)]
  pending = np.ones(count, bool)
  for _ in range(tries):
    mothers, fathers = (parents[random.integers(0, len(parents), count)] for _ in range(2))
    made = np.where(
      mutants[:, None], spaces.mutate(space, mothers, rate, random),
      spaces.cross(space, mothers, fathers, random),
    )  # fmt: skip
    good = pending & fits(made)
    result[good] = made[good]
    pending &= ~good
    if not pending.any():
      break
  return result


def evolve(
  run, space: Space, first: np.ndarray, score: Callable, fits: Callable, *, generations: int,
  parents: float = 0.2, mutated: float = 0.5, rate: float = 0.1, seed: int = 0,
  name: str = 'generations',
):  # fmt: skip
  """(genes, scores) of the last population, the best first; a fold of run, which resumes.

  first: the population [n, genes]. score: (genes [m, genes], the generation's run) -> [m]; of a
  generation only the children are scored. parents: the share that is kept. Rows: a 'generation'
  each: best and median score.
  """
  keep = kept(len(first), parents)

  def step(carry, index: int, run):
    genes, scores = np.asarray(carry['genes']), np.asarray(carry['scores'])
    random = np.random.default_rng((seed, index))
    if index:
      made = children(space, genes[:keep], fits, random, count=len(first) - keep, mutated=mutated,
                      rate=rate)  # fmt: skip
      genes = np.concatenate([genes[:keep], made])
      scores = np.concatenate([scores[:keep], score(made, run)])
    else:
      scores = score(genes, run)
    genes, scores = ranked(genes, scores)
    run.log(kind='generation', step=index, seed=seed, best=scores[0], median=np.median(scores))
    return dict(genes=genes, scores=scores), None

  start = dict(genes=np.asarray(first), scores=np.zeros(len(first), np.float64))
  last, _ = run.fold(name, step, start, generations + 1)
  return np.asarray(last['genes']), np.asarray(last['scores'])
