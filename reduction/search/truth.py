"""The truth of a small space of mixtures: each of its networks, trained by itself."""

import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from reduction.models.choice import Choice, mixed
from reduction.net import create, over_replicas
from reduction.search import latency
from reduction.search.cost import macs
from reduction.search.paths import costs
from reduction.train import train
from reduction.update import classified, sgd, start

BLOCK = 16  # networks trained beside each other


COSTS = {
  'macs': lambda ops: macs(ops).sum(1),
  'instructions': lambda ops: latency.predict(latency.read(), ops),
}


class Truth(NamedTuple):
  """paths: int [n, layers]. accuracy: [n], the mean. once: [n], of the first training. cost: [n].

  table: [layers, operations], of an operation; cost and table of the dearest network's.
  """

  paths: np.ndarray
  accuracy: np.ndarray
  once: np.ndarray
  cost: np.ndarray
  table: np.ndarray


@functools.lru_cache(maxsize=32)
def single(module: Choice):
  """The loss of the net of one operation a layer, for `update.sgd`; batch: (.., dict(gates))."""

  def loss(params, stats, batch, key):
    del key
    x, labels, given = batch
    logits, stats = mixed(module, params, stats, x, given['gates'], True)
    each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return each.mean(), (stats, {})

  return loss


def trained(module: Choice, gates, tx, run, **schedule) -> np.ndarray:
  """float32 [n]: test accuracy of the networks of gates [n, layers, operations], by one program.

  Each begins from weights of its own. A fold of run, which resumes, over blocks of networks.
  """
  splits = jax.device_put(run.data.splits())
  block = math.gcd(len(gates), BLOCK)
  score = over_replicas(_score(module), (0, 0, 0, None))

  def step(carry, index: int, run):
    part, own = run.child('block'), jnp.asarray(gates[index * block : (index + 1) * block])
    part.seeds = tuple(range(index * block, (index + 1) * block))  # each network is a replicate
    net = create(module, part.key('init', 0), run.data.train.x[:1])
    state, _ = train(
      sgd(single(module), tx), classified(module), start(net.params, net.stats, None, tx),
      splits['train'], {}, part, given=({}, dict(gates=own)), augment=run.data.augment, **schedule,
    )  # fmt: skip
    found = score(state['params'], state['stats'], own, tuple(splits['test']))
    return carry, dict(accuracy=np.asarray(found, np.float32))

  _, outs = run.fold('truth', step, dict(none=np.zeros(())), len(gates) // block)
  return np.concatenate([out['accuracy'] for out in outs])


@functools.lru_cache(maxsize=8)
def _score(module):
  def score(params, stats, gates, split):
    x, labels = split
    return jnp.mean(mixed(module, params, stats, x, gates).argmax(-1) == labels)

  return score


def listed(module: Choice, cost: str, tx, run, *, repeats: int, **schedule) -> Truth:
  """Trains each network of a space, `repeats` times. cost: of COSTS. Rows: a 'listed' each."""
  count = len(module.operations)
  paths = np.array(list(itertools.product(range(count), repeat=module.layers)))
  table, shared = costs(module, run.data.train.x.shape[1:], COSTS[cost])
  dearest = shared + table.max(1).sum()
  costed = (shared + table[np.arange(module.layers), paths].sum(1)) / dearest
  gates = np.eye(count, dtype=np.float32)[np.repeat(paths, repeats, 0)]
  found = trained(module, gates, tx, run, **schedule).reshape(len(paths), repeats)
  for path, accuracies, one in zip(paths, found, costed):
    run.log(
      kind='listed', summary=True, network=' '.join(module.operations[j] for j in path),
      test_accuracy=accuracies.mean(), spread=np.ptp(accuracies), cost=round(float(one), 4),
    )  # fmt: skip
  table = (table / dearest).astype(np.float32)
  return Truth(paths, found.mean(1), found[:, 0], costed, table)
