"""The noun of training: the pure `update: (state, batch, key) -> (state, metrics)`.

A state is a dict: params, stats, masks, opt and whatever else an update carries. All that varies
between trainings (masks, learning rates, a schedule's offset, a teacher) is data in it, so that
every level, control and sparsity shares one compiled program. The factories here remember what
they made: the same module and optimizer give the same update, hence the same program.
"""

import functools
import inspect
import itertools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from reduction import losses, tree
from reduction.errors import UsageError, did_you_mean, require
from reduction.net import apply, over_replicas

State = dict[str, Any]
Update = Callable[[State, Any, jax.Array], tuple[State, dict]]


@functools.lru_cache(maxsize=64)
def optimizer(
  name: str, *, warmup: int = 0, drops: tuple[int, ...] = (), cosine: int = 0, l2: float = 0.0,
  max_norm: float = 0.0, **settings,
) -> optax.GradientTransformation:
  """`optax.<name>(**settings)` on a schedule; the same object for the same settings.

  warmup: the learning rate rises linearly from 0 over so many steps. drops: steps at which it
  falls to a tenth. cosine: it falls to 0 along half a cosine of so many steps. l2: the gradient of
  l2 / 2 |w|^2 is added for weights of two axes and more ('weight decay' in the papers that train by
  SGD). max_norm: after each step, the weights that come into a hidden unit are scaled down to this
  length (Hinton et al. 2012); the layer 'out' is not.
  Equal optax optimizers hash differently, and every new one would compile every program again.
  Settings that are numbers live in the optimizer's state, so that they can change without that;
  the step that the schedule looks at is told by `sgd`.
  """
  factory = getattr(optax, name, None)
  if name.startswith('_') or not callable(factory) or 'learning_rate' not in (
    inspect.signature(factory).parameters
  ):
    raise UsageError(f'optimizer {name!r} is not in optax.{did_you_mean(name, OPTIMIZERS)}')
  known = inspect.signature(factory).parameters
  for key, value in settings.items():
    require(key in known, f'optax.{name} has no setting {key!r}.{did_you_mean(key, known)}')
    if isinstance(value, float):
      require(np.isfinite(value), f'optimizer.{key}={value} must be finite')
  rate = settings.get('learning_rate')
  require(rate is not None and rate > 0, f'optimizer.learning_rate={rate} must be above 0')
  for key, value in dict(warmup=warmup, cosine=cosine, l2=l2, max_norm=max_norm).items():
    require(value >= 0, f'optimizer.{key}={value} must not be negative')
  require(
    all(a < b for a, b in itertools.pairwise((0, *drops))), f'optimizer.{drops=} must rise from 1'
  )
  parts = [optax.inject_hyperparams(factory)(**settings)]
  if l2:
    parts.insert(0, optax.add_decayed_weights(l2, mask=lambda p: tree.map(lambda w: w.ndim > 1, p)))
  if warmup or drops or cosine:
    parts.append(_scheduled(warmup, drops, cosine))
  if max_norm:
    parts.append(_constrained(max_norm))
  return optax.with_extra_args_support(parts[0] if len(parts) == 1 else optax.chain(*parts))


def _scheduled(warmup: int, drops: tuple[int, ...], cosine: int):
  """Scales updates, which follow the learning rate linearly in every optimizer of optax."""

  def update(updates, state, params=None, *, step, **extra):
    del params, extra
    factor = jnp.minimum(1.0, (step + 1) / warmup) if warmup else 1.0
    factor *= 0.1 ** jnp.sum(step >= jnp.array(drops, jnp.int32))
    if cosine:
      factor *= 0.5 + 0.5 * jnp.cos(jnp.pi * jnp.minimum(step / cosine, 1.0))
    return tree.map(lambda u: factor * u, updates), state

  return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _constrained(most: float):
  """Shortens steps so that no hidden unit's incoming weights get longer than most."""

  def limited(name, step, w):
    if w.ndim < 2 or name.startswith('out/'):
      return step
    new = w + step
    length = jnp.sqrt(jnp.sum(new**2, tuple(range(w.ndim - 1)), keepdims=True))
    return new * (most / jnp.maximum(length, most)) - w

  def update(updates, state, params, **extra):
    del extra
    return tree.map_named(limited, updates, params), state

  return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


OPTIMIZERS = ('adam', 'adamw', 'lion', 'momentum', 'rmsprop', 'sgd')


@functools.lru_cache(maxsize=64)
def classification(module: nn.Module):
  """The loss of a classifier, a function for `sgd`; batch: (x, labels, ...)."""

  def loss(params, stats, batch, key):
    x, labels = batch[:2]
    logits, stats = apply(module, params, stats, x, train=True, rngs={'dropout': key})
    return losses.cross_entropy(logits, labels), (stats, {})

  return loss


@functools.lru_cache(maxsize=64)
def classified(module: nn.Module, block: int = 500):
  """The metrics of a classifier: (params, stats, (x, labels)) -> dict(loss, accuracy).

  Works in blocks of `block` examples, whose activations stay in a CPU's cache.
  """

  def score(params, stats, x, labels):
    logits = apply(module, params, stats, x)
    scores = losses.cross_entropy(logits, labels), losses.accuracy(logits, labels)
    return len(x) * jnp.stack(scores)

  def evaluate(params, stats, split):
    whole, total = len(split[0]) // block * block, 0.0
    if whole:
      blocks = jax.tree.map(lambda a: a[:whole].reshape(-1, block, *a.shape[1:]), split)
      total += jax.lax.map(lambda b: score(params, stats, *b), blocks).sum(0)
    if whole < len(split[0]):
      total += score(params, stats, *jax.tree.map(lambda a: a[whole:], split))
    loss, accuracy = total / len(split[0])
    return dict(loss=loss, accuracy=accuracy)

  return evaluate


@functools.lru_cache(maxsize=64)
def sgd(loss, tx: optax.GradientTransformation) -> Update:
  """The usual update: one gradient step of `loss` by `tx`, on the weights that masks keep.

  loss: (params, stats, batch, key) -> (value, (new stats, scalars to log by name)). Only weights
  that masks keep move: the gradient and the step are masked, which is forward masking exactly (also
  under global-norm clipping) while dead weights stay what they were: 0, so that whoever reads
  params reads the pruned net. state['step'] is what schedules look at. A step whose loss or
  gradient is not finite changes nothing but state['skipped'], the length of the current run of such
  steps.
  """
  tx = optax.with_extra_args_support(tx)

  def update(state, batch, key):
    (value, (stats, told)), grads = jax.value_and_grad(loss, has_aux=True)(
      state['params'], state['stats'], batch, key
    )
    grads = tree.keep(grads, state['masks'])
    updates, opt = tx.update(grads, state['opt'], state['params'], step=state['step'])
    params = optax.apply_updates(state['params'], tree.keep(updates, state['masks']))
    fine = jnp.isfinite(value) & tree.finite(_telling(grads))
    old = {k: state[k] for k in ('params', 'stats', 'opt')}
    new = tree.select(fine, dict(params=params, stats=stats, opt=opt), old)
    skipped = jnp.where(fine, 0, state['skipped'] + 1)
    state = {**state, **new, 'skipped': skipped, 'step': state['step'] + 1}
    told = tree.map(lambda x: jnp.where(fine, x, 0.0), dict(told, loss=value))
    return state, dict(told, fine=fine)

  return update


def _telling(grads):
  """The vectors among grads: a bias's gradient sums what flows back, so it shows a NaN at no cost.

  Looking at the matrices too would cost 15 % of a LeNet step on a CPU.
  """
  vectors = [g for g in tree.leaves(grads) if g.ndim < 2]
  return vectors or grads


def start(params, stats, masks, tx, *, first: int = 0, frozen: bool = False) -> State:
  """The state [R] that `sgd` trains from at step `first`, with an optimizer that has seen nothing.

  Dead weights are 0, or where frozen, stay what they are in params.
  """
  params = params if frozen else tree.keep(params, masks)
  replicas = tree.leaves(params)[0].shape[0]
  return dict(
    params=params, stats=stats, masks=masks, opt=over_replicas(tx.init)(params),
    skipped=jnp.zeros(replicas, jnp.int32), step=jnp.full(replicas, first, jnp.int32),
  )  # fmt: skip
