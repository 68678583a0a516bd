"""Differentiable search beside the truth: a space small enough to train all of its networks."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from reduction.errors import require
from reduction.models.choice import Choice
from reduction.net import Net, create
from reduction.run import Run, Stage
from reduction.search import gradient, rewards
from reduction.search.paths import strongest
from reduction.search.truth import COSTS, Truth, described, listed
from reduction.train import check_schedule, train
from reduction.update import classified, start
from reduction.update import optimizer as build_optimizer

METHODS = {  # name -> (method of `search.gradient`, whether of second order)
  'darts': ('darts', False), 'darts2': ('darts', True), 'proxyless': ('proxyless', False),
  'fbnet': ('fbnet', False),
}  # fmt: skip
POLICIES = dict(reinforce=1, ppo=4)  # steps along each gradient


class Setting(NamedTuple):
  """tx, schedule: of each training. The rest as of `darts`."""

  tx: Any
  schedule: dict
  held: float
  rate: float
  second: float


def darts(
  *, methods: tuple[str, ...], steps: int, batch: int, optimizer: dict, every: int = 100,
  repeats: int = 2, held: float = 0.5, rate: float = 3e-2, second: float = 3e-2,
  pushes: tuple[float, ...] = (), trials: int = 100, cost: str = 'macs',
  targets: tuple[float, ...] = (),
) -> Stage:  # fmt: skip
  """Trains every network of the net's space, then lets searches choose; returns the net as it was.

  methods: of METHODS and POLICIES. repeats: trainings of each network, whose mean test accuracy
  is the truth. held: the share of training images that alpha learns from. rate: Adam's, for alpha.
  second: of the step that second-order DARTS looks ahead. pushes: weights of expected cost in the
  loss of 'proxyless', each a search. trials: steps of a policy, 8 networks each, rewarded by the
  truth of the first repeat. cost: of COSTS; instructions are of a Cortex-M4, by `search.latency`;
  the dearest network has 1. targets: costs that MnasNet's rewards, soft and hard, aim at, each two
  more searches by reinforce. Rows: a 'listed' for each network; a 'method' for each search: its
  network's accuracy [R], rank [R], how far behind the best [R] and cost [R]; of those with a
  target, rank and how far behind are of rewards.
  """
  check_schedule(steps=steps, batch=batch, every=every)
  known = (*METHODS, *POLICIES)
  require(set(methods) <= set(known), f'{methods=} are not all of {", ".join(known)}')
  require(0 < held < 1 and repeats > 0, f'{held=} must lie within (0, 1), {repeats=} above 0')
  require(cost in COSTS, f'{cost=} is not one of {", ".join(COSTS)}')
  require(all(t > 0 for t in targets), f'{targets=} must be above 0')
  schedule = dict(steps=steps, batch=batch, every=every)
  setting = Setting(build_optimizer(**optimizer), schedule, held, rate, second)

  def stage(net: Net, run: Run) -> Net:
    module = net.module
    require(isinstance(module, Choice), f'{type(module).__name__} has no choices: model `choice`')
    policies = targets or any(name in POLICIES for name in methods)
    chain = not module.kept or (cost == 'macs' and not policies)
    require(chain, "policies and cost='instructions' are of chains, kept=0, not of cells")
    truth = listed(module, cost, setting.tx, run, repeats=repeats, **schedule)
    searches = [(name, 0.0) for name in methods if name in METHODS]
    searches += [('proxyless', push) for push in pushes]
    for (name, push), found in searched(module, searches, truth.table, setting, run).items():
      _report(module, truth, run, name, found, truth.accuracy, push=push)
    for name in (name for name in POLICIES if name in methods):
      _reinforced(module, truth, run, trials, name, lambda right: right, epochs=POLICIES[name])
    for target, (how, exponents) in itertools.product(targets, rewards.HOW.items()):
      worth = lambda right, t=target, e=exponents: np.asarray(rewards.mnas(right, truth.cost, t, e))
      _reinforced(module, truth, run, trials, f'{how} reward', worth, target=target)
    return net

  return stage


def _reinforced(module, truth: Truth, run, trials, name, worth, epochs=1, **told):
  """A policy that learns from worth(accuracies [n]) -> rewards [n]."""
  rewarded = jnp.asarray(worth(truth.once).reshape((len(module.operations),) * module.layers))
  drawn = [rewards.reinforce(key, rewarded, steps=trials, epochs=epochs)
           for key in run.key('noise', 7)]  # fmt: skip
  found = np.stack([np.argmax(logits, -1) for logits, _ in drawn])
  asked = [rewards.trained(choices) for _, choices in drawn]
  _report(module, truth, run, name, found, worth(truth.accuracy), trained=asked, **told)


def searched(module: Choice, searches, table, setting: Setting, run: Run) -> dict:
  """(method, push) -> int [R, edges], the network it chooses, for each of searches.

  Those of one order are replicates of one training, each seed's from the same weights and batches.
  """
  found = {}
  for order, second in (('first', 0.0), ('second', setting.second)):
    some = [one for one in searches if METHODS[one[0]][1] == bool(second)]
    if some:
      part = run.child(order)
      part.seeds = run.seeds * len(some)
      given = dict(
        method=np.array([gradient.METHODS.index(METHODS[name][0]) for name, _ in some]),
        push=np.array([push for _, push in some], np.float32),
      )
      given = {name: np.repeat(values, len(run.seeds)) for name, values in given.items()}
      chosen = _searched(module, table, setting, part, second, given)
      found |= dict(zip(some, chosen.reshape(len(some), len(run.seeds), -1)))
  return found


def _searched(module, table, setting, run, second, given) -> np.ndarray:
  """int [R, edges] of searches [R] side by side."""
  net = create(module, run.key('init', 0), run.data.train.x[:1])
  state = start(net.params, net.stats, None, setting.tx)
  state = gradient.begin(state, len(module.edges), len(module.operations), len(run.seeds))
  splits = jax.device_put(run.data.splits())
  held = np.random.default_rng(0).random(len(splits['train'][1])) < setting.held
  tiled = lambda x: jnp.tile(jnp.asarray(x), (len(run.seeds), *(1,) * np.ndim(x)))
  given = jax.tree.map(jnp.asarray, given)
  given |= dict(table=tiled(table), total=tiled(np.float32(setting.schedule['steps'])))
  update = gradient.bilevel(module, setting.tx, rate=setting.rate, second=second)
  state, _ = train(
    update, classified(module), state, splits['train'], {}, run, augment=run.data.augment,
    given=(dict(held=tiled(held)), given), **setting.schedule,
  )  # fmt: skip
  return np.stack([strongest(module, alpha) for alpha in state['alpha']])


def _report(module, truth: Truth, run, method, found, worth, **told):
  places = {tuple(path): i for i, path in enumerate(truth.paths)}
  index = np.array([places[tuple(path)] for path in found])
  run.log(
    kind='method', summary=True, seeds=run.seeds, method=method,
    networks=[described(module, path) for path in found],
    test_accuracy=truth.accuracy[index], behind=worth.max() - worth[index],
    rank=[int((worth > worth[i]).sum()) + 1 for i in index],
    cost=np.round(truth.cost[index], 4), **{'push': 0.0, 'target': 0.0, **told},
  )  # fmt: skip
