"""The server's optimizer (Reddi et al. 2021, FedOpt): Adam, Yogi, Adagrad, momentum on changes."""

import functools

import jax.numpy as jnp
import optax

from reduction import tree


@functools.lru_cache(maxsize=16)
def by(tx: optax.GradientTransformation):
  """A server's step that takes the negative combined update of params for a gradient.

  Statistics and control variates change by the update itself.
  """

  def step(shared, update, state):
    weights = _named(shared)
    grads = {name: -x for name, x in update.items() if name in weights}
    weights = {name: weights[name] for name in grads}
    change, opt = tx.update(grads, state['opt'], weights, step=state['step'])
    return {**update, **change}, dict(opt=opt, step=state['step'] + 1)

  return step


@functools.lru_cache(maxsize=16)
def begin(tx: optax.GradientTransformation, names: tuple[str, ...]):
  """shared of one replicate -> the first state of `by(tx)`, of the weights of these names."""

  def first(shared):
    weights = {name: w for name, w in _named(shared).items() if name in names}
    return dict(opt=tx.init(weights), step=jnp.zeros((), jnp.int32))

  return first


def _named(shared) -> dict:
  return {f'params/{name}': w for name, w in tree.named(shared['params'])}
