"""Searches compared by what they are for: the networks that each would train, trained."""

import math

import jax
import numpy as np

from reduction.errors import require
from reduction.models.mobile import Elastic
from reduction.net import Net
from reduction.run import Run, Stage
from reduction.search import evolution, selection
from reduction.search import space as spaces
from reduction.search.fitting import fitting
from reduction.search.space import space as find_space
from reduction.stages.rank import judged, trained
from reduction.stages.specialize import taken
from reduction.stages.supernet import BESIDE, accuracies, check_data
from reduction.stages.versus import answers, gains
from reduction.train import check_schedule
from reduction.update import optimizer as build_optimizer

METHODS = 'evolution', 'scored', 'random'


def finalists(
  *, space: dict, limits: dict, networks: int, steps: int, batch: int, optimizer: dict,
  every: int = 100, population: int = 100, generations: int = 30, parents: float = 0.2,
  mutated: float = 0.5, rate: float = 0.1, resamples: int = 2_000,
) -> Stage:  # fmt: skip
  """Each of three searches names networks that fit, which are trained; its best by validation wins.

  space: that of `supernet`, whose net is to come. limits: arguments of `search.fitting.fitting`.
  networks: how many each method may train, from newly drawn weights, all by one program; one that
  several name is trained once. 'evolution' (population, generations, parents, mutated, rate: of
  `search.evolution`) names the best of its last population by the supernet (and then of its first,
  should they be few); 'scored' the best by the supernet of as many random networks as evolution
  judged; 'random' the first of these, which needs no supernet. Each seed is a search of its own in
  a supernet of its own. Returns the supernet. Rows: a 'finalist' each method, costs and accuracies
  of its winner of each seed; a 'versus' of each pair of methods, the gain on test examples with its
  interval over seeds and examples.
  """
  check_schedule(steps=steps, batch=batch, every=every)
  whole, tx = find_space(**space), build_optimizer(**optimizer)
  allowed = fitting(whole, **limits)
  require(population >= networks > 0, f'{networks=} must be from 1 to {population=}')
  settings = dict(generations=generations, parents=parents, mutated=mutated, rate=rate)

  def stage(net: Net, run: Run) -> Net:
    require(isinstance(net.module, Elastic), 'the net that came is no supernet: train one before')
    check_data(whole, run.data)
    named = [
      _named(whole, allowed, _at(net, r), run.child(f'search-{seed}'), seed, networks, population,
             settings)
      for r, seed in enumerate(run.seeds)
    ]  # fmt: skip
    numbers = {}  # of (seed's place, genes): which of the trained
    for r, by_method in enumerate(named):
      for row in np.concatenate(list(by_method.values())):
        numbers.setdefault((r, *row.tolist()), len(numbers))
    genes = np.array([row for _, *row in numbers])
    nets = trained(net.module, genes, run, tx, steps=steps, batch=batch, every=every)
    right = judged(nets, genes, run, 'validation')
    said, labels = {}, np.asarray(run.data.test.y)
    for method in METHODS:
      own = [[numbers[r, *row.tolist()] for row in one[method]] for r, one in enumerate(named)]
      best = [max(some, key=right.__getitem__) for some in own]
      won = [taken(whole, _at(nets, i), run, genes[i]) for i in best]
      each = [answers(one, run.data) for one in won]
      said[method] = jax.tree.map(lambda *x: np.concatenate(x), *each)
      run.log(
        kind='finalist', summary=True, seeds=run.seeds, method=method, trained=list(map(len, own)),
        validation_accuracy=right[best], genes=[' '.join(map(str, genes[i])) for i in best],
        test_accuracy=(said[method].classes == labels).mean(-1), **allowed.costs(genes[best]),
      )  # fmt: skip
    for ours, theirs in (METHODS[:2], METHODS[::2], METHODS[1:]):
      row = gains(said[ours], said[theirs], labels, resamples, run.seeds[0])
      run.log(kind='versus', summary=True, seeds=run.seeds, net=ours, base=theirs, **row)
    return net

  return stage


def _at(net: Net, r: int) -> Net:
  """The net of one replicate, still with a leading axis."""
  return jax.tree.map(lambda w: w[r : r + 1], net)


def _named(space, allowed, net, run, seed, networks, population, settings) -> dict:
  """The genes [networks, genes] that each method would train of one seed."""
  run.seeds = (seed,)
  random = np.random.default_rng((seed, population))
  judge = lambda genes: accuracies(net, run, genes, 'validation')[0].astype(float)
  budget = {key: settings[key] for key in ('generations', 'parents')}
  count = evolution.scored(population, **budget)
  drawn = selection.drawn(space, allowed.budget, allowed.fits, random, count)
  last, _ = evolution.evolve(
    run, space, drawn[:population], lambda genes, _: judge(genes), allowed.fits, seed=seed,
    **settings,
  )  # fmt: skip
  step = lambda carry, i, run: (carry, dict(scores=judge(drawn[i * BESIDE :][:BESIDE])))
  _, outs = run.fold('scored', step, {}, math.ceil(count / BESIDE))
  scored, _ = evolution.ranked(drawn, np.concatenate([out['scores'] for out in outs]))
  ranked = dict(evolution=np.concatenate([last, drawn]), scored=scored, random=drawn)
  return {name: _different(space, ranked[name], networks) for name in METHODS}


def _different(space, genes, count: int) -> np.ndarray:
  """The first `count` networks of genes; one that is written in several ways is one."""
  kept = {row.tobytes(): row for row in reversed(spaces.canonical(space, genes))}
  return np.stack(list(kept.values())[::-1][:count])
