"""Differentiable search beside the truth: a space small enough to train all of its networks."""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from reduction.errors import require
from reduction.models.choice import Choice, costs, mixed
from reduction.net import Net, create, over_replicas
from reduction.run import Run, Stage
from reduction.search import gradient, rewards
from reduction.train import check_schedule, train
from reduction.update import classified, sgd, start
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
    truth = listed(module, paths, table, setting, run)
    report = functools.partial(_report, module, paths, table, truth.mean(1), run)
    for name in methods:
      if name == 'reinforce':
        shape = (len(module.operations),) * module.layers
        keys = run.key('noise', 7)
        rewarded = jnp.asarray(truth[:, 0].reshape(shape))
        found = [rewards.reinforce(key, rewarded, steps=trials) for key in keys]
        report(name, 0.0, np.stack([gradient.chosen(logits) for logits, _ in found]),
               trained=[rewards.trained(drawn) for _, drawn in found])  # fmt: skip
      else:
        report(name, 0.0, searched(module, name, 0.0, table, setting, run))
    for push in pushes:
      report('proxyless', push, searched(module, 'proxyless', push, table, setting, run))
    return net

  return stage


def listed(module: Choice, paths, table, setting: Setting, run: Run) -> np.ndarray:
  """float32 [networks, repeats]: test accuracy of each network, trained by one program."""
  part = run.child('listed')
  part.seeds = tuple(range(len(paths) * setting.repeats))  # each training is a replicate
  gates = np.eye(len(module.operations), dtype=np.float32)[np.repeat(paths, setting.repeats, 0)]
  net = create(module, part.key('init', 0), run.data.train.x[:1])
  splits = jax.device_put(run.data.splits())
  state = start(net.params, net.stats, None, setting.tx)
  state, _ = train(
    sgd(gradient.single(module), setting.tx), classified(module), state, splits['train'], {}, part,
    given=({}, dict(gates=jnp.asarray(gates))), augment=run.data.augment, **setting.schedule,
  )  # fmt: skip
  score = over_replicas(_score(module), (0, 0, 0, None))
  found = np.asarray(score(state['params'], state['stats'], gates, tuple(splits['test'])))
  found = found.reshape(len(paths), setting.repeats)
  for i, path in enumerate(paths):
    run.log(
      kind='listed', summary=True, network=' '.join(module.operations[j] for j in path),
      test_accuracy=found[i].mean(), spread=np.ptp(found[i]),
      cost=table[np.arange(module.layers), path].sum(),
    )  # fmt: skip
  return found


@functools.lru_cache(maxsize=8)
def _score(module):
  def score(params, stats, gates, split):
    x, labels = split
    return jnp.mean(mixed(module, params, stats, x, gates).argmax(-1) == labels)

  return score


def searched(module, name: str, push: float, table, setting: Setting, run: Run) -> np.ndarray:
  """int [R, layers]: the operations that a differentiable search chooses."""
  method, looks_ahead = METHODS[name]
  second = setting.second if looks_ahead else 0.0
  update = gradient.bilevel(module, setting.tx, method, rate=setting.rate, second=second)
  part, replicas = run.child(f'{name}-{push:g}'.replace('.', '_')), len(run.seeds)
  net = create(module, part.key('init', 0), run.data.train.x[:1])
  state = start(net.params, net.stats, None, setting.tx)
  state = gradient.begin(state, module.layers, len(module.operations), replicas)
  splits = jax.device_put(run.data.splits())
  held = np.random.default_rng(0).random(len(splits['train'][1])) < setting.held
  tiled = lambda x: jnp.tile(jnp.asarray(x), (replicas, *(1,) * np.ndim(x)))
  given = dict(held=tiled(held)), dict(
    table=tiled(table), push=tiled(np.float32(push)),
    total=tiled(np.float32(setting.schedule['steps'])),
  )  # fmt: skip
  state, _ = train(update, classified(module), state, splits['train'], {}, part, given=given,
                   augment=run.data.augment, **setting.schedule)  # fmt: skip
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
