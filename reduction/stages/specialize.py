"""A network for a device out of a supernet: evolution under its memory, beside random search."""

import json
import math

import jax
import numpy as np

from reduction.errors import require
from reduction.models.mobile import Elastic
from reduction.net import Net, over_replicas
from reduction.run import Run, Stage
from reduction.search import evolution, predictor, rewards, selection
from reduction.search import space as spaces
from reduction.search import supernet as s
from reduction.search.arch import description
from reduction.search.fitting import CODE, fitting
from reduction.search.space import space as find_space
from reduction.stages.supernet import BESIDE, SEEN, accuracies, check_data
from reduction.stages.versus import log_compared


def specialize(
  *, space: dict, board: str | None = None, sram: int = 0, flash: int = 0, macs: int = 0,
  energy: float = 0.0, instructions: int = 0, code: int = CODE, picojoules: dict | None = None,
  table: str | None = None, population: int = 100, generations: int = 30, parents: float = 0.2,
  mutated: float = 0.5, rate: float = 0.1, beside: bool = True, predicted: int = 0,
  reward: dict | None = None,
) -> Stage:  # fmt: skip
  """Takes the best network that fits out of a supernet; returns it with its weights.

  space: that of `supernet`. board to table: the limits, of `search.fitting.fitting`. population,
  generations, parents, mutated, rate: of `search.evolution`; the defaults are the paper's. A
  network's score is its accuracy on validation data, the mean over seeds' supernets; with reward,
  the arguments of `search.rewards.rewarded` (cost, target, how), MnasNet's of it and a cost.
  beside: as many random networks that fit are scored too. predicted: accuracies come from a
  predictor trained on so many networks, and the last population is scored by the supernet; 0:
  always by the supernet. Rows: 'generation', a 'found' each for evolution and random, the two in a
  'versus', 'predictor'. Writes its JSON.
  """
  whole = find_space(**space)
  budget, costed, fits = fitting(
    whole, board=board, sram=sram, flash=flash, macs=macs, energy=energy, code=code,
    instructions=instructions, picojoules=picojoules, table=table,
  )  # fmt: skip
  require(population > 1 and generations >= 0, f'{population=}, {generations=}: 2 and 0 at least')
  worth = lambda genes, right: right
  if reward:
    worth = lambda genes, right: rewards.rewarded(right, costed(genes), **reward)
    worth(spaces.extremes(whole), np.ones(2))  # or what is wrong with reward is seen late

  def stage(net: Net, run: Run) -> Net:
    require(isinstance(net.module, Elastic), 'the net that came is no supernet: train one before')
    check_data(whole, run.data)
    random = np.random.default_rng((run.seeds[0], population))
    measure = lambda genes: accuracies(net, run, genes, 'validation').mean(0).astype(float)
    first = selection.drawn(whole, budget, fits, random, population)
    guess = _predictor(whole, budget, fits, random, predicted, measure, run) or measure
    settings = dict(generations=generations, parents=parents, mutated=mutated, rate=rate)
    score = lambda genes: worth(genes, guess(genes))
    judge = lambda genes, _: score(genes)
    genes, scores = evolution.evolve(run, whole, first, judge, fits, **settings)
    score = lambda genes: worth(genes, measure(genes))
    if predicted:
      genes, scores = evolution.ranked(genes, score(genes))
    found = _taken(whole, costed, net, run, 'evolution', genes[0], scores[0])
    if beside:
      count = evolution.scored(population, generations=generations, parents=parents)
      others = selection.drawn(whole, budget, fits, random, count)
      step = lambda best, i, run: (_better(best, others[i * BESIDE :][:BESIDE], score), None)
      start = dict(genes=others[0], score=np.full((), -1.0))
      best, _ = run.fold('random', step, start, math.ceil(count / BESIDE))
      other = _taken(whole, costed, net, run, 'random', best['genes'], float(best['score']))
      log_compared(run, found, other, net='evolution', base='random')
    write_architecture(description(spaces.decode(whole, genes[0])), run)
    return found

  return stage


def write_architecture(arch: dict, run: Run):
  """The JSON of a network that was found, where there is a workdir."""
  if run.workdir:
    with run.write('architecture') as folder:
      (folder / 'architecture.json').write_text(json.dumps(arch, indent=1) + '\n')


def _better(best, genes, score):
  scores = score(genes)
  i = scores.argmax()
  return dict(genes=genes[i], score=np.asarray(scores[i])) if scores[i] > best['score'] else best


def _predictor(space, budget, fits, random, count, measure, run):
  """The score of a predictor trained on `count` networks, three quarters of them; None without."""
  if not count:
    return None
  genes = selection.drawn(space, budget, fits, random, count)
  step = lambda carry, i, run: (carry, dict(right=measure(genes[i * BESIDE :][:BESIDE])))
  _, outs = run.fold('predicted', step, {}, math.ceil(count / BESIDE))
  learned, row = predictor.held_out(space, genes, np.concatenate([out['right'] for out in outs]))
  run.log(kind='predictor', summary=True, **row)
  return learned


def _taken(space, costed, net, run, method, genes, score) -> Net:
  """The network of genes, after its row."""
  found = {name: values[0] for name, values in costed(genes).items()}
  right = lambda split: accuracies(net, run, np.atleast_2d(genes), split)[:, 0]
  run.log(
    kind='found', summary=True, seeds=run.seeds, method=method, score=score,
    validation_accuracy=right('validation').mean(), test_accuracy=right('test'),
    genes=' '.join(map(str, genes)), **found,
  )  # fmt: skip
  return taken(space, net, run, genes)


def taken(space, net: Net, run: Run, genes) -> Net:
  """The network of genes as a Net, each seed's from its supernet, statistics recalibrated."""
  seen = s.batches(run.data.train.x, *SEEN)
  calibrate = lambda p, t, x: s.recalibrated(net.module, p, t, np.asarray(genes), x)
  stats = over_replicas(calibrate, (0, 0, None))(net.params, net.stats, seen)
  params, stats = jax.vmap(lambda p, t: s.extract(space, p, t, genes))(net.params, stats)
  return Net(s.network(spaces.decode(space, genes)), params, stats)
