"""Architectures by gradient: mixtures of operations whose weights learn with the net's.

alpha: [edges, operations] of a `Choice`. Gates are made of it: 'darts' softmax (Liu et al., ICLR
2019); 'fbnet' Gumbel-softmax (Wu et al., CVPR 2019); 'proxyless' one operation an edge drawn by
softmax, whose gradient passes to the probabilities (Cai et al., ICLR 2019, equation 4; all paths
are computed, where the paper draws two to save memory).
"""

import functools

import jax
import jax.numpy as jnp
import optax

from reduction import tree
from reduction.errors import require
from reduction.losses import accuracy
from reduction.models.choice import Choice, mixed

METHODS = ('darts', 'fbnet', 'proxyless')
COSTS = ('add', 'power')


def gates(method: str, alpha, key, temperature):
  """[edges, operations] weights of operations, differentiable in alpha."""
  if method == 'darts':
    return jax.nn.softmax(alpha)
  if method == 'fbnet':
    return jax.nn.softmax((alpha + jax.random.gumbel(key, alpha.shape)) / temperature)
  chances = jax.nn.softmax(alpha)
  one = jax.nn.one_hot(jax.random.categorical(key, alpha), alpha.shape[1])
  return one + chances - jax.lax.stop_gradient(chances)


def expected(alpha, table):
  """The cost of a network drawn by softmax(alpha), the mean. table: [edges, operations]."""
  return jnp.sum(jax.nn.softmax(alpha) * table)


def unrolled(train_loss, valid_loss, params, alpha, rate: float):
  """The gradient of valid_loss(params - rate d train_loss / d params, alpha) in alpha.

  DARTS' equation 6 by automatic differentiation: its second term, a product with a matrix of mixed
  second derivatives, is exact, where the paper takes a finite difference. rate 0: first order.
  """

  def after(alpha):
    if not rate:
      return valid_loss(params, alpha)
    inner = jax.grad(train_loss)(params, alpha)
    return valid_loss(tree.map(lambda w, g: w - rate * g, params, inner), alpha)

  return jax.grad(after)(alpha)


@functools.lru_cache(maxsize=32)
def bilevel(
  module: Choice, tx: optax.GradientTransformation, *, rate: float = 3e-2, second: float = 0.0,
  cost: str = 'add', hottest: float = 5.0, coolest: float = 0.5,
):  # fmt: skip
  """An update that moves alpha by held examples, then weights by the others, by Adam and tx.

  state: as of `update.start`, and alpha [edges, operations], alpha_opt. batch: (x, labels,
  dict(held=[n] which examples alpha learns from, method (its place in METHODS: one program serves
  all), table=[edges, operations] costs, push, total, step)). The loss of alpha is cross entropy +
  push E[cost] ('add', ProxylessNAS), or times log(E[cost])^push ('power', FBNet). rate: Adam's for
  alpha. second: the rate of the step that second-order DARTS looks ahead; 0: first order. hottest,
  coolest: the temperature of Gumbel-softmax falls between them, exponentially, in `total` steps.
  """
  require(cost in COSTS, f'{cost=} is not one of {", ".join(COSTS)}')
  tx_alpha = optax.chain(optax.add_decayed_weights(1e-3), optax.adam(rate, b1=0.5))
  tx = optax.with_extra_args_support(tx)

  def update(state, batch, key):
    x, labels, given = batch
    held = given['held'].astype(jnp.float32)
    heat = hottest * (coolest / hottest) ** jnp.minimum(given['step'] / given['total'], 1.0)
    keys = jax.random.split(key)

    def loss(params, alpha, weights, key):
      every = jnp.stack([gates(method, alpha, key, heat) for method in METHODS])
      parts = every[given['method']]
      logits, stats = mixed(module, params, state['stats'], x, parts, True)
      each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
      value = (weights * each).sum() / jnp.maximum(weights.sum(), 1)
      return value, (stats, accuracy(logits, labels))

    def valid(params, alpha):
      value = loss(params, alpha, held, keys[0])[0]
      mean = expected(alpha, given['table'])
      return (
        value + given['push'] * mean if cost == 'add' else (value * jnp.log(mean) ** given['push'])
      )

    train = lambda params, alpha: loss(params, alpha, 1 - held, keys[0])[0]
    grad = unrolled(train, valid, state['params'], state['alpha'], second)
    updates, alpha_opt = tx_alpha.update(grad, state['alpha_opt'], state['alpha'])
    alpha = optax.apply_updates(state['alpha'], updates)
    (value, (stats, right)), grads = jax.value_and_grad(loss, has_aux=True)(
      state['params'], alpha, 1 - held, keys[1]
    )
    updates, opt = tx.update(grads, state['opt'], state['params'], step=state['step'])
    fine = jnp.isfinite(value)
    new = dict(params=optax.apply_updates(state['params'], updates), stats=stats, opt=opt,
               alpha=alpha, alpha_opt=alpha_opt)  # fmt: skip
    kept = tree.select(fine, new, {name: state[name] for name in new})
    skipped = jnp.where(fine, 0, state['skipped'] + 1)
    told = dict(loss=value, accuracy=right, expected_cost=expected(alpha, given['table']))
    return {**state, **kept, 'skipped': skipped, 'step': state['step'] + 1}, dict(told, fine=fine)

  return update


def begin(state: dict, edges: int, operations: int, replicas: int) -> dict:
  """A state of `update.start` with alpha [R, edges, operations] of 0 and its optimizer's state."""
  alpha = jnp.zeros((replicas, edges, operations))
  tx = optax.chain(optax.add_decayed_weights(1e-3), optax.adam(1e-3, b1=0.5))
  return {**state, 'alpha': alpha, 'alpha_opt': jax.vmap(tx.init)(alpha)}
