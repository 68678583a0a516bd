"""Differentiable search beside the truth: a space small enough to train all of its networks."""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from reduction.errors import require
from reduction.models.choice import Choice, costs
from reduction.net import Net, create
from reduction.run import Run, Stage
from reduction.search import gradient, rewards, truth
from reduction.train import check_schedule, train
from reduction.update import classified, start
from reduction.update import optimizer as build_optimizer

METHODS = {  # name -> (method of `search.gradient`, whether of second order)
  'darts': ('darts', False), 'darts2': ('darts', True), 'proxyless': ('proxyless', False),
  'fbnet': ('fbnet', False),
}  # fmt: skip


class Setting(NamedTuple):
  """tx, schedule: of each training. The rest as of `darts`."""

  tx: Any
  schedule: dict
  repeats: int
  held: float
  rate: float
  second: float


def darts(
  *, methods: tuple[str, ...], steps: int, batch: int, optimizer: dict, every: int = 100,
  repeats: int = 2, held: float = 0.5, rate: float = 3e-2, second: float = 3e-2,
  pushes: tuple[float, ...] = (), trials: int = 100,
) -> Stage:  # fmt: skip
  """Trains every network of the net's space, then lets searches choose; returns the net as it was.

  methods: of METHODS and 'reinforce'. repeats: trainings of each network, whose mean test accuracy
  is the truth. held: the share of training images that alpha learns from. rate: Adam's, for alpha.
  second: of the step that second-order DARTS looks ahead. pushes: weights of expected cost in the
  loss of 'proxyless', each a search. trials: steps of reinforce, 8 networks each, rewarded by the
  truth of the first repeat. Cost: multiply-accumulates of the operations, the dearest network 1.
  Rows: a 'listed' for each network; a 'method' for each search: its network's accuracy [R], rank
  [R], how far behind the best [R] and cost [R].
  """
  check_schedule(steps=steps, batch=batch, every=every)
  known = (*METHODS, 'reinforce')
  require(set(methods) <= set(known), f'{methods=} are not all of {", ".join(known)}')
  require(0 < held < 1 and repeats > 0, f'{held=} must lie within (0, 1), {repeats=} above 0')
  schedule = dict(steps=steps, batch=batch, every=every)
  setting = Setting(build_optimizer(**optimizer), schedule, repeats, held, rate, second)

  def stage(net: Net, run: Run) -> Net:
    module = net.module
    require(isinstance(module, Choice), f'{type(module).__name__} has no choices: model `choice`')
    table = costs(module, run.data.train.x.shape[1:])
    paths = np.array(list(itertools.product(range(len(module.operations)), repeat=module.layers)))
    known = listed(module, paths, table, setting, run)
    report = functools.partial(_report, module, paths, table, known.mean(1), run)
    searches = [(name, 0.0) for name in methods if name != 'reinforce']
    searches += [('proxyless', push) for push in pushes]
    for (name, push), chosen in searched(module, searches, table, setting, run).items():
      report(name, push, chosen)
    if 'reinforce' in methods:
      rewarded = jnp.asarray(known[:, 0].reshape((len(module.operations),) * module.layers))
      drawn = [rewards.reinforce(key, rewarded, steps=trials) for key in run.key('noise', 7)]
      report('reinforce', 0.0, np.stack([gradient.chosen(logits) for logits, _ in drawn]),
             trained=[rewards.trained(choices) for _, choices in drawn])  # fmt: skip
    return net

  return stage


def listed(module: Choice, paths, table, setting: Setting, run: Run) -> np.ndarray:
  """float32 [networks, repeats]: test accuracy of each network, trained by one program."""
  gates = np.eye(len(module.operations), dtype=np.float32)[np.repeat(paths, setting.repeats, 0)]
  found = truth.trained(module, gates, setting.tx, run, **setting.schedule)
  found = found.reshape(len(paths), setting.repeats)
  for i, path in enumerate(paths):
    run.log(
      kind='listed', summary=True, network=' '.join(module.operations[j] for j in path),
      test_accuracy=found[i].mean(), spread=np.ptp(found[i]),
      cost=table[np.arange(module.layers), path].sum(),
    )  # fmt: skip
  return found


def searched(module: Choice, searches, table, setting: Setting, run: Run) -> dict:
  """(method, push) -> int [R, layers], the operations it chooses, for each of searches.

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
  """int [R, layers] of searches [R] side by side."""
  net = create(module, run.key('init', 0), run.data.train.x[:1])
  state = start(net.params, net.stats, None, setting.tx)
  state = gradient.begin(state, module.layers, len(module.operations), len(run.seeds))
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
  return np.asarray(gradient.chosen(state['alpha']))


def _report(module, paths, table, truth, run, method, push, found, **told):
  base = len(module.operations) ** np.arange(module.layers)[::-1]
  index = found @ base
  run.log(
    kind='method', summary=True, seeds=run.seeds, method=method, push=push,
    networks=[' '.join(module.operations[j] for j in path) for path in found],
    test_accuracy=truth[index], behind=truth.max() - truth[index],
    rank=[int((truth > truth[i]).sum()) + 1 for i in index],
    cost=[float(table[np.arange(module.layers), path].sum()) for path in found], **told,
  )  # fmt: skip
