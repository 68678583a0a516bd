"""What clients do with the shared model: FedAvg, FedProx, SCAFFOLD. `mutual.py` has FedKD's."""

import functools
import re

import jax
import jax.numpy as jnp

from reduction import tree
from reduction.errors import require
from reduction.federate.clients import Method
from reduction.update import classification, sgd


def state_of(params, stats, masks, opt, step) -> dict:
  """The state that `update.sgd` trains, of one replicate; dead weights stay what they are."""
  return dict(
    params=params, stats=stats, masks=masks, opt=opt, skipped=jnp.zeros((), jnp.int32), step=step
  )


def trainable(params, masks, frozen: str):
  """masks without the weights whose name matches the pattern frozen; '' freezes none."""
  if not frozen:
    return masks
  return tree.map_named(lambda name, m: jnp.zeros_like(m) if _found(frozen, name) else m, masks)


def _found(pattern, name):
  return re.search(pattern, name) is not None


def difference(shared, params, stats, frozen: str = '') -> dict:
  """What a client sends: {name: after - before} of weights that train and of statistics."""
  parts = dict(params=params, stats=stats)
  return {
    f'{part}/{name}': new - old
    for part, after in parts.items()
    for (name, new), old in zip(tree.named(after), tree.leaves(shared[part]), strict=True)
    if not frozen or not _found(frozen, name)
  }


@functools.lru_cache(maxsize=64)
def average(module, tx, *, frozen: str = '', proximal: float = 0.0) -> Method:
  """FedAvg (McMahan et al. 2017); with proximal mu, FedProx (Li et al. 2020).

  Clients keep nothing: each round's optimizer is fresh. FedProx adds mu / 2 |w - w_shared|^2 to the
  loss. frozen: weights of these names are neither trained nor sent.
  """
  require(proximal >= 0, f'{proximal=} must not be negative')
  loss = anchored(classification(module), proximal) if proximal else classification(module)

  def begin(shared, own):
    del own
    params, masks = shared['params'], trainable(shared['params'], shared['masks'], frozen)
    state = state_of(params, shared['stats'], masks, tx.init(params), shared['step'])
    return state, dict(anchor=params) if proximal else {}

  def end(shared, own, state, steps):
    del steps
    return difference(shared, state['params'], state['stats'], frozen), own

  return Method(begin, sgd(loss, tx), end)


@functools.lru_cache(maxsize=64)
def anchored(loss, proximal: float):
  """loss plus proximal / 2 times the squared distance to batch[2]['anchor']."""

  def near(params, stats, batch, key):
    value, rest = loss(params, stats, batch, key)
    apart = tree.map(lambda w, a: jnp.sum((w - a) ** 2), params, batch[2]['anchor'])
    return value + proximal / 2 * sum(tree.leaves(apart)), rest

  return near


@functools.lru_cache(maxsize=64)
def corrected(loss):
  """loss plus <params, batch[2]['correction']>, whose gradient is loss's plus the correction."""

  def leaning(params, stats, batch, key):
    value, (stats, told) = loss(params, stats, batch, key)
    products = tree.map(lambda w, c: jnp.sum(w * c), params, batch[2]['correction'])
    return value + sum(tree.leaves(products)), (stats, dict(told, task_loss=value))

  return leaning


@functools.lru_cache(maxsize=64)
def scaffold(module, tx, *, rate: float, frozen: str = '') -> Method:
  """SCAFFOLD (Karimireddy et al. 2020), option II: steps along g - c_i + c.

  tx: plain SGD of that constant rate. A client keeps control=c_i, like params and 0 at first; the
  server sends shared['control']=c. c_i becomes c_i - c + (w_shared - w_i) / (steps rate), and its
  change travels too, as 'control/...': twice the bytes of FedAvg.
  """

  def begin(shared, own):
    params, masks = shared['params'], trainable(shared['params'], shared['masks'], frozen)
    state = state_of(params, shared['stats'], masks, tx.init(params), shared['step'])
    lean = tree.map(lambda c, mine: jax.lax.stop_gradient(c - mine), shared['control'],
                    own['control'])  # fmt: skip
    return state, dict(correction=lean)

  def end(shared, own, state, steps):
    update = difference(shared, state['params'], state['stats'], frozen)
    control = tree.map(
      lambda mine, c, before, after: mine - c + (before - after) / (steps * rate),
      own['control'], shared['control'], shared['params'], state['params'],
    )  # fmt: skip
    change = tree.map(lambda new, old: new - old, control, own['control'])
    sent = [pair for pair in tree.named(change) if not frozen or not _found(frozen, pair[0])]
    return update | {f'control/{name}': x for name, x in sent}, dict(own, control=control)

  return Method(begin, sgd(corrected(classification(module)), tx), end)
