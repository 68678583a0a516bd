"""What clients do with a model: FedAvg, FedProx, FedDropout, SCAFFOLD, FedMD; not FedKD's."""

import functools
import re

import jax
import jax.numpy as jnp

from reduction import losses, tree
from reduction.errors import require
from reduction.federate.clients import Method
from reduction.federate.codecs.columns import kept
from reduction.net import apply
from reduction.update import classification, sgd


def state_of(params, stats, masks, opt, step) -> dict:
  """The state that `update.sgd` trains, of one replicate; dead weights stay what they are."""
  return dict(
    params=params, stats=stats, masks=masks, opt=opt, skipped=jnp.zeros((), jnp.int32), step=step
  )


def trainable(masks, frozen: str):
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
def average(
  module, tx, *, frozen: str = '', proximal: float = 0.0, thin: float = 0.0, layers: str = '',
  feeds: tuple[tuple[str, str], ...] = (),
) -> Method:  # fmt: skip
  """FedAvg (McMahan et al. 2017); with proximal mu, FedProx (Li et al. 2020).

  Clients keep nothing: each round's optimizer is fresh. FedProx adds mu / 2 |w - w_shared|^2 to the
  loss. frozen: weights of these names are neither trained nor sent. thin: FedDropout, the share of
  units that each client leaves out of the layers, a pattern, each round anew; feeds: as of
  `codecs.columns`.
  """
  require(proximal >= 0, f'{proximal=} must not be negative')
  require(0 <= thin < 1, f'{thin=} must lie in [0, 1)')
  loss = anchored(classification(module), proximal) if proximal else classification(module)

  def begin(shared, own, key):
    del own
    params, masks = shared['params'], trainable(shared['masks'], frozen)
    if thin:
      units = thinned(params, thin, layers, feeds, key)
      params = tree.keep(params, units)
      masks = tree.map(lambda a, b: a & b, masks, units)
    state = state_of(params, shared['stats'], masks, tx.init(params), shared['step'])
    return state, dict(anchor=params) if proximal else {}

  def end(shared, own, state, steps):
    del steps
    update = difference(shared, state['params'], state['stats'], frozen)
    if thin:
      masks = {f'params/{name}': m for name, m in tree.named(state['masks'])}
      update = {n: jnp.where(masks.get(n, True), x, 0.0) for n, x in update.items()}
    return update, own

  return Method(begin, sgd(loss, tx), end)


def thinned(params, share: float, layers: str, feeds, key):
  """Masks that leave the same number of units out of each layer that matches the pattern.

  A unit is a column of a kernel, its bias, and a row of what it feeds; see `codecs.columns.kept`.
  """
  of = kept({n: w for n, w in tree.named(params) if w.ndim}, share, layers, feeds, key)

  def mask(name, w):
    grid = functools.reduce(lambda rows, columns: rows[:, None] & columns, of.get(name, (True,)))
    return jnp.broadcast_to(grid, w.shape)

  return tree.map_named(mask, params)


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
def scaffold(module, tx, *, rate: float, part: float = 1.0, frozen: str = '') -> Method:
  """SCAFFOLD (Karimireddy et al. 2020), option II: steps along g - c_i + c.

  tx: plain SGD of that constant rate. A client keeps control=c_i, like params and 0 at first; the
  server sends shared['control']=c. c_i becomes c_i - c + (w_shared - w_i) / (steps rate), and its
  change travels too, as 'control/...': twice the bytes of FedAvg. part: of the clients, who take
  part in a round, by which the server's c moves less. The paper's means are uniform. Where an
  update was not taken the server's c did not move for it, and c_i goes back.
  """

  def begin(shared, own, key):
    del key
    params, masks = shared['params'], trainable(shared['masks'], frozen)
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
    return update | {f'control/{name}': part * x for name, x in sent}, dict(own, control=control)

  return Method(begin, sgd(corrected(classification(module)), tx), end, settles=True)


@functools.lru_cache(maxsize=64)
def separate(module, tx, *, digest: bool = False) -> Method:
  """A client's own model, which nobody else sees: own is dict(params=, stats=, opt=).

  Trained on labels, or where digest, on soft targets: logits [n, classes] in place of labels, the
  first half of a round of FedMD (Li & Wang 2019, 1910.03581).
  """
  loss = agreeing(module) if digest else classification(module)

  def begin(shared, own, key):
    del key
    return state_of(
      own['params'], own['stats'], shared['masks'], own['opt'], shared['step']
    ), {}

  def end(shared, own, state, steps):
    del shared, own, steps
    return {}, {name: state[name] for name in ('params', 'stats', 'opt')}

  return Method(begin, sgd(loss, tx), end)


@functools.lru_cache(maxsize=64)
def agreeing(module):
  """The loss of a classifier against logits, a function for `update.sgd`; batch: (x, logits)."""

  def loss(params, stats, batch, key):
    logits, stats = apply(module, params, stats, batch[0], train=True, rngs={'dropout': key})
    return losses.soft_cross_entropy(logits, batch[1]), (stats, {})

  return loss
