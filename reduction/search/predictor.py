"""A net that predicts a network's accuracy from its genes (Cai et al., Once-for-All, ICLR 2020)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from reduction.models.mlp import mlp
from reduction.search import space as spaces
from reduction.search.rank import tau
from reduction.search.space import Space

WIDTHS = (400, 400, 400)


def features(space: Space, genes) -> np.ndarray:
  """float32 [n, features]: each choice one-hot; all 0 for places without a block."""
  genes = spaces.canonical(space, genes)
  here = np.repeat(spaces.active(space, genes), 2, axis=1)
  head = np.ones((len(genes), genes.shape[1] - here.shape[1]), bool)
  use = np.concatenate([head, here], 1)
  columns = [
    (genes[:, i : i + 1] == np.arange(count)) & use[:, i : i + 1]
    for i, count in enumerate(space.choices())
  ]
  return np.concatenate(columns, 1).astype(np.float32)


@functools.lru_cache(maxsize=4)
def _trained(widths, steps: int):
  module, tx = mlp(widths=widths, classes=1), optax.adamw(1e-3, weight_decay=1e-4)

  @jax.jit
  def train(key, x, y):
    params = module.init(key, x)['params']

    def loss(params):
      return jnp.mean((module.apply({'params': params}, x)[:, 0] - y) ** 2)

    def step(state, _):
      params, opt = state
      updates, opt = tx.update(jax.grad(loss)(params), opt, params)
      return (optax.apply_updates(params, updates), opt), None

    return jax.lax.scan(step, (params, tx.init(params)), None, length=steps)[0][0]

  return train, jax.jit(lambda params, x: module.apply({'params': params}, x)[:, 0])


def fit(space: Space, genes, accuracy, *, steps: int = 500, widths=WIDTHS, seed: int = 0):
  """genes -> predicted accuracy [n], learned from networks [m, genes] and their accuracy [m].

  Learns the difference to the mean, as the paper's code does, in its standard deviations.
  """
  accuracy = np.asarray(accuracy, np.float32)
  mean, scale = accuracy.mean(), accuracy.std() + 1e-8
  train, predict = _trained(tuple(widths), steps)
  params = train(jax.random.key(seed), features(space, genes), (accuracy - mean) / scale)
  return lambda new: mean + scale * np.asarray(predict(params, features(space, new)))


def held_out(space: Space, genes, accuracy) -> tuple:
  """(`fit` on three quarters of the networks, a row of how well it orders and meets the others)."""
  cut = max(2, 3 * len(genes) // 4)
  learned = fit(space, genes[:cut], accuracy[:cut])
  told, known = learned(genes[cut:]), accuracy[cut:]
  error = float(np.abs(told - known).mean())
  others = dict(held_out=len(known), held_out_tau=tau(told, known), held_out_error=error)
  return learned, dict(networks=cut, **others)
