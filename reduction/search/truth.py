"""The truth of a small space of mixtures: each of its networks, trained by itself."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from reduction.models.choice import Choice, mixed
from reduction.net import create, over_replicas
from reduction.train import train
from reduction.update import classified, sgd, start

BLOCK = 16  # networks trained beside each other


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
