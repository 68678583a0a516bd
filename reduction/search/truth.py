"""The truth of a small space of mixtures: each of its networks, trained by itself."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from reduction.errors import require
from reduction.models.choice import Choice, mixed
from reduction.net import create, over_replicas
from reduction.search import latency
from reduction.search.cost import cost, macs
from reduction.search.gradient import costing
from reduction.search.paths import costs, gates, networks
from reduction.train import train
from reduction.update import classified, sgd, start

BLOCK = 16  # networks trained beside each other
SPLITS = 'test', 'validation'


COSTS = {  # (ops, picojoules) -> [n]
  'macs': lambda ops, _=None: macs(ops).sum(1),
  'instructions': lambda ops, _=None: latency.predict(latency.read(), ops),
  # in picojoules, whose logs are above 0
  'energy': lambda ops, picojoules=None: 1e6 * cost(ops, picojoules=picojoules)['energy_uj'],
}


class Truth(NamedTuple):
  """paths: int [n, edges]. accuracy: [n], of test examples, the mean; once: of the first training.

  held: [n], of validation examples, of the first training, which a search may know. cost: [n], of
  the dearest network's. counts: of `gradient.costing`, for searches.
  """

  paths: np.ndarray
  accuracy: np.ndarray
  once: np.ndarray
  held: np.ndarray
  cost: np.ndarray
  counts: dict


@functools.lru_cache(maxsize=32)
def single(module: Choice):
  """The loss of the net of one operation an edge, for `update.sgd`; batch: (.., dict(gates))."""

  def loss(params, stats, batch, key):
    del key
    x, labels, given = batch
    logits, stats = mixed(module, params, stats, x, given['gates'], True)
    each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return each.mean(), (stats, {})

  return loss


def trained(module: Choice, having, tx, run, **schedule) -> np.ndarray:
  """float32 [n, 2]: test and validation accuracy of the networks of gates [n, edges, operations],
  by one program.

  Each begins from weights of its own. A fold of run, which resumes, over blocks of networks.
  """
  splits = jax.device_put(run.data.splits())
  block = math.gcd(len(having), BLOCK)
  score = over_replicas(_score(module), (0, 0, 0, None))

  def step(carry, index: int, run):
    part, own = run.child('block'), jnp.asarray(having[index * block : (index + 1) * block])
    part.seeds = tuple(range(index * block, (index + 1) * block))  # each network is a replicate
    net = create(module, part.key('init', 0), run.data.train.x[:1])
    state, _ = train(
      sgd(single(module), tx), classified(module), start(net.params, net.stats, None, tx),
      splits['train'], {}, part, given=({}, dict(gates=own)), augment=run.data.augment, **schedule,
    )  # fmt: skip
    found = [score(state['params'], state['stats'], own, tuple(splits[name])) for name in SPLITS]
    return carry, dict(accuracy=np.stack(found, -1).astype(np.float32))

  _, outs = run.fold('truth', step, dict(none=np.zeros(())), len(having) // block)
  return np.concatenate([out['accuracy'] for out in outs])


@functools.lru_cache(maxsize=8)
def _score(module):
  def score(params, stats, gates, split):
    x, labels = split
    return jnp.mean(mixed(module, params, stats, x, gates).argmax(-1) == labels)

  return score


def listed(module: Choice, counted: Callable, tx, run, *, repeats: int, **schedule) -> Truth:
  """Trains each network of a space, `repeats` times. counted: ops -> [n]. Rows: a 'listed' each."""
  require(len(run.data.validation.y), f'{run.data.name} holds no validation examples for searches')
  paths = networks(module)
  table, shared = costs(module, run.data.train.x.shape[1:], counted)
  costed = shared + (gates(module, paths) * table).sum((1, 2))
  dearest = costed.max()
  having = gates(module, np.repeat(paths, repeats, 0))
  found = trained(module, having, tx, run, **schedule).reshape(len(paths), repeats, len(SPLITS))
  found, held = found[..., 0], found[:, 0, 1]
  for path, accuracies, known, one in zip(paths, found, held, costed / dearest):
    run.log(
      kind='listed', summary=True, network=described(module, path),
      test_accuracy=accuracies.mean(), spread=np.ptp(accuracies), validation_accuracy=known,
      cost=round(float(one), 4),
    )  # fmt: skip
  counts = costing(table, shared, dearest)
  return Truth(paths, found.mean(1), found[:, 0], held, costed / dearest, counts)


def described(module: Choice, path) -> str:
  """The operations of a network, '-' for an edge that it does not have."""
  return ' '.join('-' if j < 0 else module.operations[j] for j in path)
