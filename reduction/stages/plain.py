"""MLPs and ConvNets for a device: evolution of plain networks, each judged by training it."""

import functools

import jax
import numpy as np

from reduction.errors import require
from reduction.net import Net, create
from reduction.predict import logits, scores
from reduction.run import Run, Stage
from reduction.search import chain, evolution
from reduction.search import space as spaces
from reduction.search.fitting import CODE, within
from reduction.stages.specialize import write_architecture
from reduction.stages.versus import log_compared
from reduction.train import check_schedule, fit
from reduction.update import optimizer as build_optimizer

DRAWS = 100  # of as many networks as are wanted, until enough fit


def plain(
  *, space: dict, steps: int, batch: int, optimizer: dict, every: int = 100,
  board: str | None = None, sram: int = 0, flash: int = 0, macs: int = 0, energy: float = 0.0,
  code: int = CODE, picojoules: dict | None = None, population: int = 16, generations: int = 4,
  parents: float = 0.25, mutated: float = 0.5, rate: float = 0.2, beside: bool = True,
) -> Stage:  # fmt: skip
  """Takes the plain network that is the best of those that fit; returns it, trained.

  space: pairs, layers, filters and units of `search.chain.Chain`, whose images and classes are
  those of the data. steps to every: of each network's training, from newly drawn weights. board to
  picojoules: the limits, of `search.fitting.within`. population to rate: of `search.evolution`. A
  network's score is its accuracy on validation data, the mean over seeds. beside: as many random
  networks that fit are trained too. Rows: 'generation', a 'found' each for evolution and random,
  the two in a 'versus'. Writes its JSON. Raises UsageError where nothing fits.
  """
  check_schedule(steps=steps, batch=batch, every=every)
  require(population > 1 and generations >= 0, f'{population=}, {generations=}: 2 and 0 at least')
  chain.Chain('plain', (2**10, 2**10, 1), **space)  # or what is wrong with it is seen late
  tx, schedule = build_optimizer(**optimizer), dict(steps=steps, batch=batch, every=every)
  limits = dict(board=board, sram=sram, flash=flash, macs=macs, energy=energy, code=code)
  within(None, **limits)
  settings = dict(generations=generations, parents=parents, mutated=mutated, rate=rate)

  def stage(net: Net, run: Run) -> Net:
    del net  # the network that is found takes its place
    data = run.data
    require(len(data.validation.y), f'{data.name} holds no validation examples to judge by')
    whole = chain.Chain('plain', data.train.x.shape[1:], classes=data.classes, **space)
    costed = functools.partial(chain.costs, whole, picojoules=picojoules)
    allowed = within(costed, **limits)
    count = evolution.scored(population, generations=generations, parents=parents)
    drawn = _drawn(whole, allowed, np.random.default_rng(run.seeds[0]), count)
    train = functools.partial(_trained, whole, tx, schedule, jax.device_put(data.splits()))
    judge = lambda genes, run: np.array([
      _right(train(row, run.child(f'network-{i}')), data).mean() for i, row in enumerate(genes)
    ], float)  # fmt: skip
    genes, found = evolution.evolve(
      run, whole, drawn[:population], judge, allowed.fits, seed=run.seeds[0], **settings
    )
    won = _taken(whole, costed, train, run, 'evolution', genes[0], found[0])
    if beside:
      step = lambda carry, i, run: (carry, dict(score=judge(drawn[i : i + 1], run)))
      _, outs = run.fold('random', step, {}, len(drawn))
      found = np.concatenate([out['score'] for out in outs])
      best = found.argmax()
      other = _taken(whole, costed, train, run, 'random', drawn[best], found[best])
      log_compared(run, won, other, net='evolution', base='random')
    write_architecture(chain.description(whole, genes[0]), run)
    return won

  return stage


def _drawn(whole, allowed, random, count: int) -> np.ndarray:
  """Genes [count, genes] of random networks that fit; each once, unless fewer are found."""
  kept = np.empty((0, len(whole.choices())), np.int64)
  for _ in range(DRAWS):
    more = np.unique(np.concatenate([kept, spaces.sample(whole, random, count)]), axis=0)
    kept = more[allowed.fits(more)]
    if len(kept) >= min(count, whole.count()):
      break
  least = allowed.costs(spaces.extremes(whole)[:1])
  require(
    len(kept), f'none of {DRAWS * count:,} plain networks fits {allowed.budget}; the smallest '
    f'takes {least["sram"][0]:,} bytes of SRAM and {least["flash"][0]:,} of Flash',
  )  # fmt: skip
  return np.resize(random.permutation(kept), (count, kept.shape[1]))


def _trained(whole, tx, schedule, splits, genes, run: Run) -> Net:
  """The network of genes after its training."""
  net = create(chain.network(whole, genes), run.key('init', 0), run.data.train.x[:1])
  return fit(net, run, splits, tx, **schedule)[0]


def _right(net: Net, data) -> np.ndarray:
  """[R]: accuracy on validation data."""
  found = scores(logits(net, data.validation.x), data.validation.y, split='validation')
  return found['validation_accuracy']


def _taken(whole, costed, train, run, method, genes, score) -> Net:
  """The network of genes, trained again as it was, after its row."""
  net = train(genes, run.child(f'{method}-found'))
  found = {name: values[0] for name, values in costed(genes).items()}
  right = scores(logits(net, run.data.test.x), run.data.test.y)['test_accuracy']
  sizes = (' '.join(map(str, part)) or 'none' for part in chain.sizes(whole, genes))
  run.log(
    kind='found', summary=True, seeds=run.seeds, method=method, score=score,
    validation_accuracy=score, test_accuracy=right, genes=' '.join(map(str, genes)),
    **dict(zip(('filters', 'units'), sizes)), **found,
  )  # fmt: skip
  return net
