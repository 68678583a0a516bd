"""The loss of a student: what a teacher's logits tell, kept or live, beside hard labels."""

import functools

import jax
import jax.numpy as jnp

from reduction import losses, tree
from reduction.distill import ensembles, features, matching
from reduction.net import apply

NUMBERS = ('temperature', 'soft', 'hard', 'label_mix')  # each may be a schedule
DIVERGENCES = dict(
  reverse=features.reverse_divergence, jsd=features.jensen_shannon,
  standardized=features.standardized_divergence,
)  # fmt: skip
METHODS = ('soft', 'dkd', *DIVERGENCES)  # what the weight `soft` is of


@functools.lru_cache(maxsize=64)
def distilled(
  module, *, teachers: tuple = (), mean: str = 'arithmetic', schedules: tuple = (),
  method: str = 'soft',
):  # fmt: skip
  """The loss of a student, a function for `update.sgd`; batch: (x, labels, given).

  given holds the NUMBERS, unless schedules, pairs (name, of the step), do, and one of
    teacher  logits [n, members, classes] of all members on these examples
    top      logits [n, k + 1] and `indices` [n, k] of `ensembles.top`
    live     for each of the modules `teachers`, (params, stats) [members, ...]: they see the same x
    none     there are hard labels alone
  method: one of METHODS. Logged: 'kl' and 'hard_loss' of `losses.distillation`, and the method's.
  """

  def loss(params, stats, batch, key):
    x, labels, given = batch
    logits, stats = apply(module, params, stats, x, train=True, rngs={'dropout': key})
    numbers = _numbers(given, schedules)
    t = numbers['temperature']
    if 'top' in given:
      target, bins = given['top'], ensembles.at(logits, given['indices'], t)
    else:
      target, bins = _target(given, teachers, x, t, mean), logits
    if target is None:
      value = losses.cross_entropy(logits, labels)
      return numbers['hard'] * value, (stats, dict(hard_loss=value))
    value, told = _taught(method, logits, target, labels, bins, numbers)
    return value, (stats, told)

  return loss


@functools.lru_cache(maxsize=64)
def matched(module, teacher, matches: tuple, *, schedules: tuple = (), method: str = 'soft'):
  """`distilled` by one live teacher, whose hidden layers the student's are drawn to as well.

  params: {'student':, 'projections':} of `matching`. matches: of `matching.read`; weights that are
  numbers are in given['weights'] by name instead, so that others compile nothing anew;
  given['memory']: of `matching.memories`. Logged besides: each match's loss.
  """

  def loss(params, stats, batch, key):
    x, labels, given = batch
    (logits, stats), layers = matching.capture(
      module, params['student'], stats, x, [match.student for match in matches],
      train=True, rngs={'dropout': key},
    )  # fmt: skip
    lone = tree.map(lambda w: w[0], given['live'][0])
    target, shown = matching.capture(teacher, *lone, x, [match.teacher for match in matches])
    numbers = _numbers(given, schedules)
    value, told = _taught(method, logits, target, labels, logits, numbers)
    weights = [m.weight(given['step']) if m.weight else given['weights'][m.name] for m in matches]
    drawn, each = matching.weigh(
      matches, weights, layers, shown, params['projections'], given.get('memory', {})
    )
    return value + drawn, (stats, told | each)

  return loss


def _numbers(given, schedules):
  by_step = dict(schedules)
  return {n: by_step[n](given['step']) if n in by_step else given[n] for n in NUMBERS}


def _taught(method, logits, target, labels, bins, numbers):
  """(loss, what to log) of logits beside the target; bins: logits in the target's classes."""
  if method == 'soft':
    return losses.distillation(logits, target, labels, bins=bins, **numbers)
  t = numbers['temperature']
  if method == 'dkd':
    value = features.dkd(bins, target, labels, temperature=t)
  else:
    value = DIVERGENCES[method](bins, target, temperature=t)
  kl = losses.soft_divergence(bins, target, temperature=t)
  hard_loss = losses.cross_entropy(logits, labels)
  told = {'kl': kl, 'hard_loss': hard_loss, method: value}
  return numbers['soft'] * value + numbers['hard'] * hard_loss, told


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
