"""Differentiable search beside the truth: a space small enough to train all of its networks."""

import functools
import itertools

import jax.numpy as jnp
import numpy as np

from reduction.errors import require
from reduction.models.choice import Choice
from reduction.net import Net
from reduction.run import Run, Stage
from reduction.search import gradient, rewards
from reduction.search.truth import COSTS, Truth, described, listed
from reduction.train import check_schedule
from reduction.update import optimizer as build_optimizer

POLICIES = dict(reinforce=1, ppo=4)  # steps along each gradient


def darts(
  *, methods: tuple[str, ...], steps: int, batch: int, optimizer: dict, every: int = 100,
  repeats: int = 2, held: float = 0.5, rate: float = 3e-2, second: float = 3e-2,
  pushes: tuple[float, ...] = (), powers: tuple[float, ...] = (), trials: int = 100,
  cost: str = 'macs', targets: tuple[float, ...] = (), picojoules: dict | None = None,
) -> Stage:  # fmt: skip
  """Trains every network of the net's space, then lets searches choose; returns the net as it was.

  methods: of `gradient.SEARCHES` and POLICIES. repeats: trainings of each network, whose mean test
  accuracy is the truth. held: the share of training images that alpha learns from. rate: Adam's,
  for alpha. second: of the step that second-order DARTS looks ahead. pushes: weights of cost in the
  loss of 'proxyless', each a search; powers: of the log of cost in that of 'fbnet', likewise; see
  `gradient.priced`. trials: steps of a policy, 8 networks each, rewarded by accuracy on validation
  examples, of the first repeat. cost: of COSTS; instructions are of a Cortex-M4, by
  `search.latency`, energy is estimated, by picojoules of `search.cost.cost`; in rows the dearest
  network has 1. targets: costs that MnasNet's rewards, soft and hard, aim at, each a search more by
  each policy of methods, by reinforce where there is none. Rows: a 'listed' for each network; a
  'method' for each search, its network beside the best as of `_report`, its push or power and how
  that enters the loss, 'add' or 'power'.
  """
  check_schedule(steps=steps, batch=batch, every=every)
  known = (*gradient.SEARCHES, *POLICIES)
  require(set(methods) <= set(known), f'{methods=} are not all of {", ".join(known)}')
  require(0 < held < 1 and repeats > 0, f'{held=} must lie within (0, 1), {repeats=} above 0')
  require(cost in COSTS, f'{cost=} is not one of {", ".join(COSTS)}')
  require(cost == 'energy' or not picojoules, f'{picojoules=} are of energy, not of {cost=}')
  for name, given in dict(pushes=pushes, powers=powers, targets=targets).items():
    require(all(0 < x < np.inf for x in given), f'{name}={given} must be finite and above 0')
  counted = lambda ops: COSTS[cost](ops, picojoules)
  schedule = dict(steps=steps, batch=batch, every=every)
  setting = gradient.Setting(build_optimizer(**optimizer), schedule, held, rate, second)

  def stage(net: Net, run: Run) -> Net:
    module = net.module
    require(isinstance(module, Choice), f'{type(module).__name__} has no choices: model `choice`')
    policies = targets or any(name in POLICIES for name in methods)
    chain = not module.kept or (cost == 'macs' and not policies)
    require(chain, f'policies and {cost=} are of chains, kept=0, not of cells')
    truth = listed(module, counted, setting.tx, run, repeats=repeats, **schedule)
    searches = [(name, 0.0) for name in methods if name in gradient.SEARCHES]
    searches += [('proxyless', push) for push in pushes] + [('fbnet', push) for push in powers]
    tell = functools.partial(_report, module, truth, run, repeats)
    ended = gradient.searched(module, searches, truth.counts, setting, run)
    for (name, push), found in ended.items():
      tell(name, found, push=push, **(dict(loss=gradient.PRICES[name]) if push else {}))
    asking = [name for name in POLICIES if name in methods]
    for name in asking:
      found, asked = _reinforced(module, truth.held, run.child(name), trials, POLICIES[name])
      tell(name, found, trained=asked)
    several = targets, rewards.HOW.items(), asking or ['reinforce']
    for target, (how, exponents), name in itertools.product(*several):
      worth = lambda right, t=target, e=exponents: np.asarray(rewards.mnas(right, truth.cost, t, e))
      part = run.child(f'{name}-{how}-{targets.index(target)}')
      found, asked = _reinforced(module, worth(truth.held), part, trials, POLICIES[name])
      tell(f'{how} reward, {name}', found, worth, trained=asked, target=target)
    return net

  return stage


def _reinforced(module, worth, run, trials, epochs=1) -> tuple[np.ndarray, list[int]]:
  """(int [R, layers], how many it tried [R]): what policies find by worth [n], of each network."""
  rewarded = jnp.asarray(worth.reshape((len(module.operations),) * module.layers))
  keys = run.key('noise', 7)
  logits, drawn = rewards.reinforce(keys, rewarded, run, steps=trials, epochs=epochs)
  return np.asarray(logits).argmax(-1), [rewards.trained(choices) for choices in drawn]


def _report(module, truth: Truth, run, repeats, method, found, worth=lambda right: right, **told):
  """The row of a search that found networks [R]; worth: accuracies [n] -> rewards [n].

  best_accuracy: of the network with the best reward. behind [R]: that reward, as is rank [R].
  noise: how far apart the rewards of two trainings of a network lie, the median over networks; one
  repeat tells none. within_noise [R]: whether the network found is no further behind.
  """
  places = {tuple(path): i for i, path in enumerate(truth.paths)}
  index = np.array([places[tuple(path)] for path in found])
  mean, once = worth(truth.accuracy), worth(truth.once)
  behind = mean.max() - mean[index]
  if repeats > 1:  # |first - mean of the others|: of two their spread
    noise = np.median(np.abs(once - mean)) * repeats / (repeats - 1)
    told |= dict(noise=noise, within_noise=behind <= noise)
  run.log(
    kind='method', summary=True, seeds=run.seeds, method=method,
    networks=[described(module, path) for path in found],
    test_accuracy=truth.accuracy[index], best_accuracy=truth.accuracy[mean.argmax()],
    behind=behind, rank=[int((mean > mean[i]).sum()) + 1 for i in index],
    cost=np.round(truth.cost[index], 4), **{'push': 0.0, 'target': 0.0, **told},
  )  # fmt: skip
