"""Hidden layers of a student and a teacher that a loss brings together, named by path.

A path is the names of modules joined by '/', such as 'head/fc1', and means the output of that
module, before a relu that is none; or what a module sows in 'intermediates', such as
'layer1/attention/scores'. Nothing here knows a model.
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from reduction import tree
from reduction.distill.features import LOSSES
from reduction.errors import UsageError, did_you_mean, require
from reduction.models.layers import glorot
from reduction.net import all_kept, over_replicas
from reduction.schedule import schedule


class Match(NamedTuple):
  """Paths in student and teacher, a name of `features.LOSSES`, its weight in the whole loss.

  weight: a number, or a schedule of the step. project: whether the student's layer goes through a
  learned linear map of its last axis to the teacher's width; None where the loss needs it and
  widths differ. memory: so many training examples of which the loss keeps what the teacher says,
  where it takes a memory.
  """

  student: str
  teacher: str
  loss: str
  weight: float | Callable | None = None
  project: bool | None = None
  memory: int = 0

  @property
  def name(self) -> str:
    """What its loss is called in rows, and its projection in params."""
    return f'{self.loss} {self.student}'


def read(matches) -> tuple[Match, ...]:
  """dict(student=, teacher=, loss=, ...) each as a Match; the weight by default that of LOSSES.

  A weight may be the settings of a schedule. Raises UsageError for unknown keys and losses, a
  negative weight, and a layer matched twice by the same loss.
  """
  found = tuple(_read(given, f'matches[{i}]') for i, given in enumerate(matches))
  names = [match.name for match in found]
  for name in names:
    require(names.count(name) == 1, f'matches name {name!r} twice; a loss takes a layer once')
  return found


def _read(given, where: str) -> Match:
  require(isinstance(given, dict), f'{where}={given!r} must be a dict(student=, teacher=, loss=)')
  for key in given:
    fields = Match._fields
    require(key in fields, f'{where} has no {key!r}.{did_you_mean(key, fields)}')
  for key in ('student', 'teacher', 'loss'):
    value = given.get(key)
    require(isinstance(value, str), f'{where} needs a name for {key!r}, not {value!r}')
  match = Match(**given)
  loss = match.loss
  require(loss in LOSSES, f'{where}.loss={loss!r} is unknown.{did_you_mean(loss, LOSSES)}')
  weight = LOSSES[loss].weight if match.weight is None else match.weight
  weight = schedule(weight, f'{where}.weight')
  good = callable(weight) or (math.isfinite(weight) and weight >= 0)
  require(good, f'{where}.weight={weight!r} must be a number of at least 0')
  good = match.project in (None, True, False)
  require(good, f'{where}.project={match.project!r} must be True, False or None')
  require(
    LOSSES[loss].fitted or not match.project,
    f'{where}.project=True: a projection would learn {loss} in place of the student; leave it out',
  )
  good = type(match.memory) is int and match.memory >= 0
  require(good, f'{where}.memory={match.memory!r} must be a number of examples')
  taken = 'memory' in inspect.signature(LOSSES[loss].function).parameters
  require(taken or not match.memory, f'{where}.memory={match.memory}: {loss} keeps nothing')
  return match._replace(weight=weight)


def capture(module, params, stats, x, paths=None, *, train: bool = False, rngs=None):
  """(what `net.apply` returns, {path: array}) for the paths, or all that there are.

  A path is there where its module is called once and returns an array.
  """

  def wanted(part, method):
    return method == '__call__' and (paths is None or '/'.join(part.path) in paths)

  variables = {'params': params, **({'batch_stats': stats} if stats else {})}
  output, new = module.apply(
    variables, x, train=train, rngs=rngs, capture_intermediates=wanted,
    mutable=['intermediates', *(['batch_stats'] if train else [])],
  )  # fmt: skip
  called = _called(new.get('intermediates', {}))
  seen = {name: calls[0] for name, calls in called if len(calls) == 1}
  seen = {name: x for name, x in seen.items() if hasattr(x, 'shape') and x.ndim > 1}
  return ((output, new.get('batch_stats', {})) if train else output), seen


def _called(nested, path=()):
  """Pairs (path, outputs of its calls), but for the module as a whole."""
  for name, inner in nested.items():
    here = path if name == '__call__' else (*path, name)
    if isinstance(inner, tuple):
      yield from [('/'.join(here), inner)] if here else []
    else:
      yield from _called(inner, here)


def projections(matches, student, teacher, x, keys) -> dict:
  """{match.name: weights [R, student's width, teacher's]} of the matches that take one, fresh.

  student, teacher: nets [R, ...]; x: any batch of inputs; keys: [R]. Raises UsageError for a path
  that is not there, with the nearest that is, and for layers that a loss cannot compare.
  """
  shapes, made = [_shapes(net, x) for net in (student, teacher)], {}
  for i, match in enumerate(matches):
    one, other = (_at(s, match, who) for s, who in zip(shapes, ('student', 'teacher')))
    differ = LOSSES[match.loss].fitted and one.shape[-1] != other.shape[-1]
    if match.project or (differ and match.project is None):
      widths = one.shape[-1], other.shape[-1]
      made[match.name] = over_replicas(_initializer(widths), (0, None))(keys, i)
      one = jax.ShapeDtypeStruct((*one.shape[:-1], widths[1]), one.dtype)
    elif differ:
      raise UsageError(
        f'{match.name!r} compares widths {one.shape[-1]} and {other.shape[-1]}; leave '
        'project=False out to learn a projection'
      )
    try:
      jax.eval_shape(LOSSES[match.loss].function, one, other)
    except UsageError as error:
      raise UsageError(f'{match.name!r} with {match.teacher!r}: {error}') from error
  return made


@functools.lru_cache(maxsize=64)
def _initializer(widths):
  return lambda key, index: glorot(jax.random.fold_in(key, index), widths)


def _shapes(net, x):
  one = lambda w: jax.ShapeDtypeStruct(w.shape[1:], w.dtype)
  seen = lambda params, stats: capture(net.module, params, stats, x)[1]
  return jax.eval_shape(seen, *tree.map(one, (net.params, net.stats)))


def _at(shapes, match, who: str):
  path = getattr(match, who)
  require(
    path in shapes,
    f'{match.name!r}: the {who} has no layer {path!r}, called once, that returns an array.'
    f'{did_you_mean(path, shapes)}',
  )
  return shapes[path]


def memories(matches, teacher, x, keys) -> dict:
  """{match.name: [R, memory, ...]}: the teacher's layer on random examples of x, for each seed.

  teacher: a net [R, ...] or [1, ...]; keys: [R]. Raises UsageError where x has fewer examples.
  """
  made, replicas = {}, len(keys)
  for i, match in enumerate(matches):
    if not match.memory:
      continue
    require(
      match.memory <= len(x), f'{match.name!r} has memory={match.memory} of {len(x)} examples'
    )
    chosen = np.stack([
      np.argsort(np.asarray(jax.random.bits(jax.random.fold_in(key, i), (len(x),))))[: match.memory]
      for key in keys
    ])  # fmt: skip
    spread = lambda w: jnp.broadcast_to(w, (replicas, *w.shape[1:]))
    variables = tree.map(spread, (tree.keep(teacher.params, teacher.masks), teacher.stats))
    made[match.name] = over_replicas(_layer(teacher.module, match.teacher))(*variables, x[chosen])
  return made


@functools.lru_cache(maxsize=64)
def _layer(module, path: str):
  return lambda params, stats, x: capture(module, params, stats, x, [path])[1][path]


def weigh(matches, weights, student, teacher, projections, memory=None) -> tuple[jax.Array, dict]:
  """(sum of weights times losses, {match.name: loss}). student, teacher: arrays by path.

  memory: of `memories`.
  """
  memory = memory or {}
  told = {}
  for match in matches:
    layer = student[match.student].astype(jnp.float32)
    if match.name in projections:
      layer = layer @ projections[match.name]
    more = dict(memory=memory[match.name]) if match.name in memory else {}
    told[match.name] = LOSSES[match.loss].function(layer, teacher[match.teacher], **more)
  return sum(weight * value for weight, value in zip(weights, told.values())), told


def joined(projections: dict, params, masks, tx, evaluate) -> tuple:
  """params, masks, tx and evaluate of a student for the tree {'student':, 'projections':}.

  No projection is ever masked.
  """
  return (
    dict(student=params, projections=projections),
    dict(student=masks, projections=all_kept(projections)),
    apart(student=tx, projections=tx), one_of(evaluate, 'student'),
  )  # fmt: skip


@functools.lru_cache(maxsize=64)
def one_of(evaluate, name: str):
  """evaluate for the part of that name of {name: params}; stats may be parted likewise."""

  def of_one(params, stats, split):
    return evaluate(params[name], stats.get(name, stats), split)

  return of_one


@functools.lru_cache(maxsize=64)
def apart(**optimizers: optax.GradientTransformation) -> optax.GradientTransformation:
  """An optimizer of {name: params}, which treats each as its own does alone; made once.

  So a norm is that of one net, and a rule by a layer's name, as `max_norm` has one, finds it.
  """

  def init(params):
    return {name: tx.init(params[name]) for name, tx in optimizers.items()}

  def update(updates, state, params, **extra):
    new = {
      name: tx.update(updates[name], state[name], params[name], **extra)
      for name, tx in optimizers.items()
    }
    return {n: u for n, (u, _) in new.items()}, {n: s for n, (_, s) in new.items()}

  return optax.GradientTransformationExtraArgs(init, update)
