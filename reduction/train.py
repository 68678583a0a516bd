"""The one training loop. Its noun is the pure `update: (state, batch, key) -> (state, metrics)`.

A state is a dict: params, stats, masks, opt and whatever else an update carries. All that varies
between trainings (masks, learning rates, a schedule's offset, a teacher) is data in it, so that
every level, control and sparsity shares one compiled program.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from reduction import losses, tree
from reduction.errors import DataError, UsageError, did_you_mean, require
from reduction.net import apply, over_replicas

State = dict[str, Any]
Update = Callable[[State, Any, jax.Array], tuple[State, dict]]


class Best(NamedTuple):
  """The evaluation with the lowest validation loss so far: that loss, its step, its variables."""

  loss: jax.Array  # [R]
  step: jax.Array  # [R]
  params: Any
  stats: Any


@functools.lru_cache(maxsize=64)
def optimizer(name: str, **settings) -> optax.GradientTransformation:
  """`optax.<name>(**settings)`, the same object for the same settings.

  Equal optax optimizers hash differently, and every new one would compile every program again.
  Settings that are numbers live in the optimizer's state, so that they can change without that.
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
  return optax.inject_hyperparams(factory)(**settings)


OPTIMIZERS = ('adam', 'adamw', 'lion', 'momentum', 'rmsprop', 'sgd')


@functools.lru_cache(maxsize=64)
def classification(module: nn.Module):
  """The loss of a classifier: (params, stats, batch (x, labels), key) -> (loss, new stats)."""

  def loss(params, stats, batch, key):
    x, labels = batch
    logits, stats = apply(module, params, stats, x, train=True, rngs={'dropout': key})
    return losses.cross_entropy(logits, labels), stats

  return loss


@functools.lru_cache(maxsize=64)
def classified(module: nn.Module, block: int = 1_000):
  """The metrics of a classifier: (params, stats, (x, labels)) -> dict(loss, accuracy).

  Works in blocks of `block` examples, whose activations stay in a CPU's cache.
  """

  def score(params, stats, x, labels):
    logits = apply(module, params, stats, x)
    scores = losses.cross_entropy(logits, labels), losses.accuracy(logits, labels)
    return len(x) * jnp.stack(scores)

  def evaluate(params, stats, split):
    whole = len(split[0]) // block * block
    blocks = jax.tree.map(lambda a: a[:whole].reshape(-1, block, *a.shape[1:]), split)
    total = jax.lax.map(lambda b: score(params, stats, *b), blocks).sum(0)
    if whole < len(split[0]):
      total += score(params, stats, *jax.tree.map(lambda a: a[whole:], split))
    loss, accuracy = total / len(split[0])
    return dict(loss=loss, accuracy=accuracy)

  return evaluate


@functools.lru_cache(maxsize=64)
def sgd(loss, tx: optax.GradientTransformation) -> Update:
  """The usual update: one gradient step of `loss` by `tx`, on the weights that masks keep.

  loss: (params, stats, batch, key) -> (value, new stats). The gradient and the new weights are
  masked, which is forward masking exactly (also under global-norm clipping) while dead weights
  stay 0, so whoever reads params reads the pruned net. A step whose loss or gradient is not finite
  changes nothing but state['skipped'], the length of the current run of such steps.
  """

  def update(state, batch, key):
    (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(
      state['params'], state['stats'], batch, key
    )
    grads = tree.keep(grads, state['masks'])
    updates, opt = tx.update(grads, state['opt'], state['params'])
    params = tree.keep(optax.apply_updates(state['params'], updates), state['masks'])
    fine = jnp.isfinite(value) & tree.finite(_telling(grads))
    old = {k: state[k] for k in ('params', 'stats', 'opt')}
    new = tree.select(fine, dict(params=params, stats=stats, opt=opt), old)
    skipped = jnp.where(fine, 0, state['skipped'] + 1)
    return {**state, **new, 'skipped': skipped}, dict(loss=jnp.where(fine, value, 0.0), fine=fine)

  return update


def _telling(grads):
  """The vectors among grads: a bias's gradient sums what flows back, so it shows a NaN at no cost.

  Looking at the matrices too would cost 15 % of a LeNet step on a CPU.
  """
  vectors = [g for g in tree.leaves(grads) if g.ndim < 2]
  return vectors or grads


def start(params, stats, masks, tx) -> State:
  """The state [R] that `sgd` trains from: masked weights and an optimizer that has seen nothing."""
  params = tree.keep(params, masks)
  replicas = tree.leaves(params)[0].shape[0]
  skipped = jnp.zeros(replicas, jnp.int32)
  return dict(
    params=params, stats=stats, masks=masks, opt=over_replicas(tx.init)(params), skipped=skipped
  )


def order(key, examples: int, batch: int, first: int, count: int) -> np.ndarray:
  """Indices [count, batch] of the steps first, first + 1...: a fresh shuffle each epoch.

  A function of key and step alone, so that resuming, rewinding and a control see the same data.
  The examples that do not fill a batch at the end of an epoch are left out of that epoch.
  """
  per_epoch = examples // batch
  require(per_epoch > 0, f'{batch=} is larger than the {examples} training examples')
  epochs = range(first // per_epoch, (first + count - 1) // per_epoch + 1)
  shuffled = [_shuffle(jax.random.fold_in(key, e), examples)[: per_epoch * batch] for e in epochs]
  at = first - epochs[0] * per_epoch
  return np.concatenate(shuffled).reshape(-1, batch)[at : at + count]


def _shuffle(key, examples):
  # sorting random words on the host: 30 times faster than XLA's sort on a CPU, the same everywhere
  return np.argsort(np.asarray(jax.random.bits(key, (examples,))), kind='stable').astype(np.int32)


@functools.lru_cache(maxsize=64)
def _chunk(update: Update, evaluate, evaluations: int, every: int):
  """`evaluations` times `every` updates and an evaluation, as one program for one replicate."""

  def chunk(carry, key, indices, first, data, watched, watching):
    x, labels = data

    def step(state, at):
      number, chosen = at
      batch = x[chosen], labels[chosen]
      return update(state, batch, jax.random.fold_in(key, number))

    def evaluation(carry, at):
      state, best = carry
      state, metrics = jax.lax.scan(step, state, at)
      row = dict(loss=metrics['loss'].sum() / jnp.maximum(metrics['fine'].sum(), 1))
      for name, split in watched.items():
        scores = functools.partial(evaluate, state['params'], state['stats'], split)
        # the splits that choose nothing cost time: only where asked
        wanted = scores() if name == 'validation' else _where(watching, scores)
        row |= {f'{name}_{metric}': value for metric, value in wanted.items()}
      now = Best(row['validation_loss'], at[0][-1] + 1, state['params'], state['stats'])
      return (state, tree.select(now.loss < best.loss, now, best)), row

    steps = first + jnp.arange(evaluations * every, dtype=jnp.int32).reshape(evaluations, every)
    return jax.lax.scan(evaluation, carry, (steps, indices))

  return chunk


ALWAYS = ('loss', 'validation_loss', 'validation_accuracy')  # the columns of every curve


def _where(condition, scores):
  """scores() where the traced condition holds, else NaN at no cost."""
  shapes = jax.eval_shape(scores)
  nothing = lambda: jax.tree.map(lambda s: jnp.full(s.shape, jnp.nan, s.dtype), shapes)
  return jax.lax.cond(condition, scores, nothing)


def check_schedule(*, steps: int, batch: int, every: int, first: int = 0):
  """Raises UsageError unless `every` divides what is left of `steps`, all of them positive."""
  for name, value in dict(steps=steps, batch=batch, every=every).items():
    require(value > 0, f'{name}={value} must be above 0')
  left = steps - first
  require(left > 0 and left % every == 0, f'{every=} must divide the {left} steps to train')


def train(
  update: Update,
  evaluate,
  state: State,
  data: tuple[jax.Array, jax.Array],
  watched: dict,
  run,
  *,
  steps: int,
  batch: int,
  every: int = 100,
  first: int = 0,
  watching: bool = False,
  most_skipped: int = 10,
  name: str = 'train',
) -> tuple[State, Best]:
  """Trains state [R] from step `first` to `steps`; returns the last state and the best.

  data: (x, labels), on the device. watched: splits that `evaluate` scores every `every` steps;
  'validation' chooses the best, the others only where `watching`. Which examples a step sees
  depends on seed and step alone, so `first` continues a data order. Raises DataError after more
  than `most_skipped` steps in a row without a finite loss.
  """
  check_schedule(steps=steps, batch=batch, every=every, first=first)
  rows = (steps - first) // every
  evaluations = next(n for n in range(min(10, rows), 0, -1) if rows % n == 0)
  span = evaluations * every
  chunk = over_replicas(
    _chunk(update, evaluate, evaluations, every), (0, 0, 0, None, None, None, None)
  )
  orders, keys = run.key('data'), run.key('dropout')
  nothing = jnp.full(len(run.seeds), jnp.inf)
  state = tree.strong(state)
  best = Best(nothing, nothing.astype(jnp.int32), state['params'], state['stats'])

  def step(carry, index, run):
    at = first + index * span
    indices = np.stack([order(key, len(data[1]), batch, at, span) for key in orders])
    indices = indices.reshape(-1, evaluations, every, batch)
    carry, table = chunk(carry, keys, indices, np.int32(at), data, watched, watching)
    shown = {k: np.asarray(v) for k, v in table.items() if watching or k in ALWAYS}
    for i in range(evaluations):
      row = {k: v[:, i] for k, v in shown.items()}
      run.log(kind='curve', step=at + (i + 1) * every, **row)
    _stop_if_lost(carry[0], most_skipped, at + span, run)
    return carry, None

  return run.fold(name, step, (state, best), rows // evaluations)[0]


def _stop_if_lost(state, most: int, step: int, run):
  skipped = np.asarray(state['skipped'])
  sound = np.array([_finite_on_host(state['params'], i) for i in range(len(run.seeds))])
  lost = (skipped > most) | ~sound
  if lost.any():
    seeds = [s for s, is_lost in zip(run.seeds, lost) if is_lost]
    history = [row['loss'] for row in run.rows[-3:]]
    raise DataError(
      f'{run.where}: no finite loss and gradient in the last {skipped.max()} steps before step '
      f'{step} (seeds {seeds}; last losses {history}). Lower the learning rate or look at '
      'the data; the last checkpoint is from before'
    )


def _finite_on_host(params, replica: int) -> bool:
  return all(np.isfinite(np.asarray(w[replica])).all() for w in tree.leaves(params))
