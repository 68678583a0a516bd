"""Architectures by gradient: mixtures of operations whose weights learn with the net's.

alpha: [edges, operations] of a `Choice`. Gates are made of it: 'darts' softmax (Liu et al., ICLR
2019); 'fbnet' Gumbel-softmax (Wu et al., CVPR 2019); 'proxyless' one operation an edge drawn by
softmax, whose gradient passes to the probabilities (Cai et al., ICLR 2019, equation 4; all paths
are computed, where the paper draws two to save memory).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from reduction import tree
from reduction.errors import require
from reduction.losses import accuracy
from reduction.models.choice import Choice, mixed
from reduction.net import create
from reduction.run import Run
from reduction.search.paths import strongest
from reduction.train import train
from reduction.update import classified, start

METHODS = ('darts', 'fbnet', 'proxyless')
SEARCHES = {  # name -> (method, whether of second order)
  'darts': ('darts', False), 'darts2': ('darts', True), 'proxyless': ('proxyless', False),
  'fbnet': ('fbnet', False),
}  # fmt: skip
PRICES = dict(proxyless='add', fbnet='power')  # how a method's loss holds cost; see `priced`


class Setting(NamedTuple):
  """tx, schedule: of each training. held: the share of examples that alpha learns from. rate,
  second: as of `bilevel`, second where it is of second order."""

  tx: Any
  schedule: dict
  held: float
  rate: float
  second: float


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


def costing(table, shared: float, dearest: float) -> dict:
  """What `bilevel` is given of costs, all as counted, such as instructions, not as shares.

  table: [edges, operations]. shared: of what all networks have besides. dearest: of the dearest
  network. Raises UsageError where a network costs 1 or less: FBNet's loss needs a log above 0.
  """
  least = shared + np.min(table, 1).sum()
  told = f"costs from {least:.3g} on have no log above 0, which FBNet's loss takes"
  require(least > 1, f'{told}: give them as counted, not as shares')
  return dict(table=np.float32(table), shared=np.float32(shared), dearest=np.float32(dearest))


def priced(loss, cost, push, dearest, method):
  """The loss of alpha with its price; method: place in METHODS, may be traced; push 0: loss.

  'add', ProxylessNAS': loss + push cost / dearest. 'power', FBNet's equation 2, CE alpha
  log(LAT)^beta: beta is push, 0.6 in the paper, and alpha, which is but a scale and 0.2 there,
  makes the dearest network's factor 1 whatever the push: loss (log(cost) / log(dearest))^push.
  """
  factor = (jnp.log(cost) / jnp.log(dearest)) ** push
  return jnp.where(method == METHODS.index('fbnet'), loss * factor, loss + push * cost / dearest)


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
  hottest: float = 5.0, coolest: float = 0.5,
):  # fmt: skip
  """An update that moves alpha by held examples, then weights by the others, by Adam and tx.

  state: as of `update.start`, and alpha [edges, operations], alpha_opt. batch: (x, labels,
  dict(held=[n] which examples alpha learns from, method (its place in METHODS: one program serves
  all), push, total, step, and those of `costing`)). The loss of alpha is cross entropy, `priced` by
  the cost of the mixture, which has the drawn gates of operations. rate: Adam's for alpha. second:
  the rate of the step that second-order DARTS looks ahead; 0: first order. hottest, coolest: the
  temperature of Gumbel-softmax falls between them, exponentially, in `total` steps.
  """
  tx_alpha = optax.chain(optax.add_decayed_weights(1e-3), optax.adam(rate, b1=0.5))
  tx = optax.with_extra_args_support(tx)

  def update(state, batch, key):
    x, labels, given = batch
    held = given['held'].astype(jnp.float32)
    heat = hottest * (coolest / hottest) ** jnp.minimum(given['step'] / given['total'], 1.0)
    keys = jax.random.split(key)

    def drawn(alpha, key):
      return jnp.stack([gates(kind, alpha, key, heat) for kind in METHODS])[given['method']]

    def loss(params, alpha, weights, key):
      logits, stats = mixed(module, params, state['stats'], x, drawn(alpha, key), True)
      each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
      value = (weights * each).sum() / jnp.maximum(weights.sum(), 1)
      return value, (stats, accuracy(logits, labels))

    def valid(params, alpha):
      value = loss(params, alpha, held, keys[0])[0]
      cost = given['shared'] + jnp.sum(drawn(alpha, keys[0]) * given['table'])
      return priced(value, cost, given['push'], given['dearest'], given['method'])

    others = lambda params, alpha: loss(params, alpha, 1 - held, keys[0])[0]
    grad = unrolled(others, valid, state['params'], state['alpha'], second)
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
    cost = (given['shared'] + expected(alpha, given['table'])) / given['dearest']
    told = dict(loss=value, accuracy=right, expected_cost=cost)
    return {**state, **kept, 'skipped': skipped, 'step': state['step'] + 1}, dict(told, fine=fine)

  return update


def begin(state: dict, edges: int, operations: int, replicas: int) -> dict:
  """A state of `update.start` with alpha [R, edges, operations] of 0 and its optimizer's state."""
  alpha = jnp.zeros((replicas, edges, operations))
  tx = optax.chain(optax.add_decayed_weights(1e-3), optax.adam(1e-3, b1=0.5))
  return {**state, 'alpha': alpha, 'alpha_opt': jax.vmap(tx.init)(alpha)}


def searched(module: Choice, searches, counts, setting: Setting, run: Run) -> dict:
  """(method, push) -> int [R, edges], the network it chooses, for each of searches.

  searches: [(name of SEARCHES, push), ...]. counts: of `costing`. Those of one order are replicates
  of one training, each seed's from the same weights and batches.
  """
  found = {}
  for order, ahead in (('first', False), ('second', True)):
    some = [one for one in searches if SEARCHES[one[0]][1] == ahead]
    if some:
      part = run.child(order)
      part.seeds = run.seeds * len(some)
      given = dict(
        method=np.array([METHODS.index(SEARCHES[name][0]) for name, _ in some]),
        push=np.array([push for _, push in some], np.float32),
      )
      given = {name: np.repeat(values, len(run.seeds)) for name, values in given.items()}
      second = setting.second if ahead else 0.0
      chosen = _searched(module, counts, setting, part, second, given)
      found |= dict(zip(some, chosen.reshape(len(some), len(run.seeds), -1)))
  return found


def _searched(module, counts, setting, run, second, given) -> np.ndarray:
  """int [R, edges] of searches [R] side by side."""
  net = create(module, run.key('init', 0), run.data.train.x[:1])
  state = start(net.params, net.stats, None, setting.tx)
  state = begin(state, len(module.edges), len(module.operations), len(run.seeds))
  splits = jax.device_put(run.data.splits())
  held = np.random.default_rng(0).random(len(splits['train'][1])) < setting.held
  tiled = lambda x: jnp.tile(jnp.asarray(x), (len(run.seeds), *(1,) * np.ndim(x)))
  given = jax.tree.map(jnp.asarray, given)
  given |= jax.tree.map(tiled, dict(counts, total=np.float32(setting.schedule['steps'])))
  update = bilevel(module, setting.tx, rate=setting.rate, second=second)
  state, _ = train(
    update, classified(module), state, splits['train'], {}, run, augment=run.data.augment,
    given=(dict(held=tiled(held)), given), **setting.schedule,
  )  # fmt: skip
  return np.stack([strongest(module, alpha) for alpha in state['alpha']])
