"""The one training loop, `train`, around an `update`; `fit` is it for a classifier."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from reduction import tree
from reduction.errors import DataError, require
from reduction.mesh import batches, check_batch, gather, place, program, unplace, weights, whole
from reduction.net import Net, over_replicas
from reduction.update import State, Update, classification, classified, sgd, start

STEPS = 500  # in one program, or those of one row: what is lost by a crash, or a stop waits for


class Best(NamedTuple):
  """The evaluation with the lowest validation loss so far: that loss, its step, its variables."""

  loss: jax.Array  # [R]
  step: jax.Array  # [R]
  params: Any
  stats: Any


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
def _chunk(update: Update, evaluate, evaluations: int, every: int, augment=None):
  """`evaluations` times `every` updates and an evaluation, as one program for one replicate."""

  def chunk(carry, keys, indices, first, data, given, watched, watching):
    x, labels = data
    by_example, same = given

    def step(state, at):
      number, chosen = at
      key = {stream: jax.random.fold_in(key, number) for stream, key in keys.items()}
      images = augment(key['augment'], x[chosen]) if augment else x[chosen]
      batch = images, labels[chosen]
      if by_example or same:
        batch += (dict(same, **jax.tree.map(lambda t: t[chosen], by_example), step=number),)
      return update(state, batch, key['dropout'])

    def evaluation(carry, at):
      state, best = carry
      state, metrics = jax.lax.scan(step, state, at)
      count = jnp.maximum(metrics.pop('fine').sum(), 1)
      row = {name: values.sum() / count for name, values in metrics.items()}
      for name, split in watched.items():
        scores = functools.partial(evaluate, state['params'], state['stats'], split)
        # the splits that choose nothing cost time: only where asked
        wanted = scores() if name == 'validation' else _where(watching, scores)
        row |= {f'{name}_{metric}': value for metric, value in wanted.items()}
      judged = row.get('validation_loss', -jnp.inf)  # without validation the last is the best
      now = Best(judged, at[0][-1] + 1, state['params'], state['stats'])
      return (state, tree.select((judged < best.loss) | (judged == -jnp.inf), now, best)), row

    steps = first + jnp.arange(evaluations * every, dtype=jnp.int32).reshape(evaluations, every)
    return jax.lax.scan(evaluation, carry, (steps, indices))

  return chunk


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
  augment=None,
  given: tuple[dict, dict] = ({}, {}),
  shuffle: int = 0,
  most_skipped: int = 10,
  name: str = 'train',
) -> tuple[State, Best]:
  """Trains state [R] from step `first` to `steps`; returns the last state and the best.

  data: (x, labels), on the device. watched: splits that `evaluate` scores every `every` steps;
  'validation' chooses the best (the last where there is none), the others only where `watching`.
  Which examples a step sees
  depends on seed and step alone, so `first` continues a data order. augment: (key, x of a batch) ->
  x. given: what a batch (x, labels, given) holds besides, as two dicts of trees [R, ...]: the first
  by example [R, n, ...], of which it gets the chosen ones, such as a teacher's logits, the second
  whole, such as a teacher; 'step' is added. shuffle: another number is another data order,
  augmentation and dropout. Raises DataError after more than `most_skipped` steps in a row without a
  finite loss.
  """
  check_schedule(steps=steps, batch=batch, every=every, first=first)
  rows = (steps - first) // every
  most = max(1, min(10, rows, STEPS // every))
  evaluations = next(n for n in range(most, 0, -1) if rows % n == 0)
  span = evaluations * every
  chunk = _on(run.mesh, _chunk(update, evaluate, evaluations, every, augment), batch)
  salt = (shuffle,) if shuffle else ()
  orders = run.key('data', *salt)
  keys = {stream: run.key(stream, *salt) for stream in ('dropout', 'augment')}
  nothing = jnp.full(len(run.seeds), jnp.inf)
  state = tree.strong(state)
  unseen = tuple(f'{split}_' for split in watched if split != 'validation')
  best = Best(nothing, nothing.astype(jnp.int32), state['params'], state['stats'])

  def step(carry, index, run):
    at = first + index * span
    indices = np.stack([order(key, len(data[1]), batch, at, span) for key in orders])
    indices = indices.reshape(-1, evaluations, every, batch)
    carry, table = chunk(carry, keys, indices, np.int32(at), data, given, watched, watching)
    shown = {k: np.asarray(v) for k, v in table.items() if watching or not k.startswith(unseen)}
    for i in range(evaluations):
      row = {k: v[:, i] for k, v in shown.items()}
      run.log(kind='curve', step=at + (i + 1) * every, **row)
    _stop_if_lost(carry[0], most_skipped, at + span, run)
    return carry, None

  carry, _ = run.fold(name, step, (state, best), rows // evaluations)
  return unplace(carry) if run.mesh else carry


def _on(mesh, chunk, batch: int):
  """chunk for all replicates: on the devices of a mesh, or as `over_replicas` chooses."""
  axes = (0, 0, 0, None, None, 0, None, None)
  if mesh is None:
    return over_replicas(chunk, axes)
  check_batch(mesh, batch)
  compiled = program(chunk, axes, mesh)
  rules = weights, whole, batches, whole, whole, whole, whole, whole
  return lambda *args: compiled(*(place(mesh, a, rule) for a, rule in zip(args, rules)))


def _stop_if_lost(state, most: int, step: int, run):
  skipped = np.asarray(state['skipped'])
  params = gather(state['params'])
  sound = np.array([_finite_on_host(params, i) for i in range(len(run.seeds))])
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


def fit(
  net: Net, run, splits: dict, tx: optax.GradientTransformation, *, loss=None,
  frozen: bool = False, augment=None, watching: bool | None = None, **schedule,
):  # fmt: skip
  """Trains a classifier from where it is, masks kept; (the net after the last step, the best).

  splits: 'train', 'validation' and 'test', on the device. loss: for `sgd`, by default that of
  labels. augment: how training images change, by default as the run's data say. frozen: dead
  weights stay what they are instead of 0. watching: whether curves follow the test split; None
  compiles a program that cannot, in less time. schedule: as for `train`, `given` for a loss too.
  """
  update, evaluate = sgd(loss or classification(net.module), tx), classified(net.module)
  names = ('validation',) if watching is None else ('validation', 'test')
  watched = {name: splits[name] for name in names if len(splits[name][1])}
  first = schedule.get('first', 0)
  state = start(net.params, net.stats, net.masks, tx, first=first, frozen=frozen)
  state, best = train(
    update, evaluate, state, splits['train'], watched, run, augment=augment or run.data.augment,
    watching=bool(watching), **schedule,
  )  # fmt: skip
  return net.replace(params=state['params'], stats=state['stats']), best
