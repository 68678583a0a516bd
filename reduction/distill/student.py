"""The loss of a student: soft targets, kept or from live teachers, beside hard labels."""

import functools

import jax
import jax.numpy as jnp

from reduction import losses
from reduction.distill import ensembles
from reduction.net import apply

NUMBERS = ('temperature', 'soft', 'hard', 'label_mix')  # each may be a schedule


@functools.lru_cache(maxsize=64)
def distilled(module, *, teachers: tuple = (), mean: str = 'arithmetic', schedules: tuple = ()):
  """The loss of a student, a function for `update.sgd`; batch: (x, labels, given).

  given holds the NUMBERS, unless schedules, pairs (name, of the step), do, and one of
    teacher  logits [n, members, classes] of all members on these examples
    top      logits [n, k + 1] and `indices` [n, k] of `ensembles.top`
    live     for each of the modules `teachers`, (params, stats) [members, ...]: they see the same x
    none     there are hard labels alone
  Logged: the soft and hard parts of `losses.distillation`.
  """
  by_step = dict(schedules)

  def loss(params, stats, batch, key):
    x, labels, given = batch
    logits, stats = apply(module, params, stats, x, train=True, rngs={'dropout': key})
    numbers = {n: by_step[n](given['step']) if n in by_step else given[n] for n in NUMBERS}
    t = numbers['temperature']
    if 'top' in given:
      target, bins = given['top'], ensembles.at(logits, given['indices'], t)
    else:
      target, bins = _target(given, teachers, x, t, mean), logits
    if target is None:
      value = losses.cross_entropy(logits, labels)
      return numbers['hard'] * value, (stats, dict(hard_loss=value))
    value, told = losses.distillation(
      logits, target, labels, bins=bins, **numbers
    )
    return value, (stats, told)

  return loss


def _target(given, teachers, x, temperature, mean):
  if 'teacher' in given:
    return ensembles.combined(jnp.moveaxis(given['teacher'], 1, 0), temperature, mean=mean)
  if not teachers:
    return None
  members = [
    jax.vmap(lambda p, s, module=module: apply(module, p, s, x))(*variables)
    for module, variables in zip(teachers, given['live'])
  ]
  return ensembles.combined(jax.lax.stop_gradient(jnp.concatenate(members)), temperature, mean=mean)
