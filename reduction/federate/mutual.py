"""FedKD's adaptive mutual distillation (Wu et al. 2022, Nature Communications 13:2032).

A client has a teacher that never leaves it and a copy of the shared student. With the task losses
L^t_t, L^t_s (cross-entropy) and their sum D, each learns

  L_t = L^t_t + KL(y^s || y^t) / D + [MSE(H^t, W H^s) + MSE(A^t, A^s)] / D
  L_s = L^t_s + KL(y^t || y^s) / D + [MSE(H^t, W H^s) + MSE(A^t, A^s)] / D

where softmaxes y have no temperature, H are hidden states, A attention heatmaps and W is learned by
the client: what either says is taken as it is where the other learns from it, and D is a number.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from reduction import losses
from reduction.errors import UsageError, did_you_mean, require
from reduction.federate.clients import Method
from reduction.federate.methods import difference, state_of, trainable
from reduction.models.layers import glorot
from reduction.net import all_kept, apply
from reduction.update import sgd

KINDS = 'hidden', 'attention'


class Pair(NamedTuple):
  """A student's and a teacher's layer by path, and how they are compared, one of KINDS."""

  student: str
  teacher: str
  kind: str = 'hidden'

  @property
  def name(self) -> str:
    """What its loss is called in rows, and its W in a client's projections."""
    return f'{self.kind} {self.student}'


class Lesson(NamedTuple):
  """How the two learn from each other; see `lesson`."""

  pairs: tuple[Pair, ...]
  weight: float
  adaptive: bool
  epsilon: float
  authors_code: bool


def lesson(
  *, pairs: tuple[dict, ...] = (), weight: float = 1.0, adaptive: bool = True,
  epsilon: float = 1e-2, authors_code: bool = False,
) -> Lesson:  # fmt: skip
  """A Lesson, checked.

  pairs: dict(student=, teacher=, kind='hidden' or 'attention') each. weight: of all that one learns
  from the other; 0 is training side by side. adaptive: False leaves D out. epsilon: added to D,
  which both papers' code let vanish as the task is learned. authors_code: the joint loss of
  github.com/wuch15/FedKD, where gradients go through targets and D, a KL is a mean over classes too
  and layers are compared as they are, without W.
  """
  read = []
  for i, given in enumerate(pairs):
    for key in given:
      require(
        key in Pair._fields, f'pairs[{i}] has no {key!r}.{did_you_mean(key, Pair._fields)}'
      )
    require({'student', 'teacher'} <= set(given), f'pairs[{i}] must name student and teacher')
    read.append(Pair(**given))
    require(read[-1].kind in KINDS, f'{read[-1].kind!r} must be one of {", ".join(KINDS)}')
  names = [pair.name for pair in read]
  require(len(set(names)) == len(names), f'pairs name a layer twice: {", ".join(names)}')
  require(weight >= 0, f'{weight=} must not be negative')
  require(epsilon >= 0, f'{epsilon=} must not be negative')
  return Lesson(tuple(read), float(weight), adaptive, float(epsilon), authors_code)


@functools.lru_cache(maxsize=64)
def loss(teacher, student, how: Lesson, look):
  """The loss of both modules, a function for `update.sgd`; look: `distill.matching.capture`.

  params: dict(teacher=, student=, projections=); stats: dict(teacher=, student=). Told: task losses
  and divergences of both, and each pair's, before they are divided by D.
  """
  modules = dict(teacher=teacher, student=student)
  paths = {n: [getattr(pair, n) for pair in how.pairs] for n in modules}

  def both(params, stats, batch, key):
    x, labels = batch[:2]
    keys = dict(zip(modules, jax.random.split(key)))
    logits, new, seen = {}, {}, {}
    for n, module in modules.items():
      args = module, params[n], stats[n], x
      settings = dict(train=True, rngs={'dropout': keys[n]})
      if how.pairs:
        (logits[n], new[n]), seen[n] = look(*args, paths[n], **settings)
      else:
        logits[n], new[n] = apply(*args, **settings)
    value, told = learned(logits, labels, seen, params['projections'], how)
    return value, (new, told)

  return both


def learned(logits, labels, seen, projections, how: Lesson) -> tuple[jax.Array, dict]:
  """(L_t + L_s, what to log). logits: of teacher and student [n, classes]; seen: layers by path.

  The sum has the gradients of L_t for the teacher and of L_s for the student.
  """
  stop = (lambda x: x) if how.authors_code else jax.lax.stop_gradient
  tasks = {n: losses.cross_entropy(logits[n], labels) for n in logits}
  divisor = stop(sum(tasks.values())) + how.epsilon if how.adaptive else 1.0
  told, value = {}, sum(tasks.values())
  per_class = logits['student'].shape[-1] if how.authors_code else 1
  for own, other in ('teacher', 'student'), ('student', 'teacher'):
    kl = losses.soft_divergence(logits[own], logits[other], stop=not how.authors_code) / per_class
    value += how.weight * kl / divisor
    told |= {f'{own}_task_loss': tasks[own], f'{own}_kl': kl}
  for pair in how.pairs:
    theirs = _heatmap(seen['teacher'][pair.teacher], pair)
    ours = _heatmap(seen['student'][pair.student], pair)
    if pair.name in projections:
      ours = ours @ projections[pair.name]
    require(
      ours.shape == theirs.shape,
      f'{pair.name!r} {ours.shape} and {pair.teacher!r} {theirs.shape} differ; '
      'authors_code compares layers of one shape, attention needs as many heads',
    )
    apart = _squares(theirs, stop(ours)) + _squares(stop(theirs), ours)
    value += how.weight * apart / divisor
    told[pair.name] = apart / 2
  return value, told


def _squares(a, b):
  return jnp.mean((a - b) ** 2)


def _heatmap(layer, pair):
  """The layer in float32; scores of attention as the shares that they stand for."""
  layer = layer.astype(jnp.float32)
  scores = pair.kind == 'attention' and pair.teacher.endswith('scores')
  return jax.nn.softmax(layer) if scores else layer


def projections(how: Lesson, teacher, student, x, key, look) -> dict:
  """{pair.name: W [student's width, teacher's]} of hidden layers.

  The identity where widths are equal, as the authors' code compares, else random. teacher, student:
  (module, params, stats) of one replicate. Raises UsageError for a path that is not there.
  """
  if how.authors_code:
    return {}
  shapes = {}
  for who, (module, *variables) in dict(teacher=teacher, student=student).items():
    shapes[who] = jax.eval_shape(lambda p, s, m=module: look(m, p, s, x)[1], *variables)
  made = {}
  for i, pair in enumerate(how.pairs):
    for who in shapes:
      path = getattr(pair, who)
      if path not in shapes[who]:
        raise UsageError(f'the {who} has no layer {path!r}.{did_you_mean(path, shapes[who])}')
    if pair.kind == 'hidden':
      widths = shapes['student'][pair.student].shape[-1], shapes['teacher'][pair.teacher].shape[-1]
      same = widths[0] == widths[1]  # a random W would pull a pretrained teacher to a random place
      made[pair.name] = jnp.eye(widths[0]) if same else glorot(jax.random.fold_in(key, i), widths)
  return made


@functools.lru_cache(maxsize=64)
def method(
  teacher, student, tx, how: Lesson, look, *, frozen: str = '', fresh: bool = False
) -> Method:
  """FedKD's client. tx: an optimizer of dict(teacher=, student=, projections=), each apart.

  A client keeps own: dict(teacher=dict(params=, stats=), projections=, opt=); its student's
  optimizer goes on from round to round beside the teacher's, or where fresh, all begin anew each
  round, as FedAvg's do, and opt is {}. All of it is the client's alone and goes on where an update
  was lost or refused too: what its teacher learned of its data it knows. frozen: weights of these
  names, in both models, are neither trained nor sent.
  """

  def begin(shared, own, key):
    del key
    params = dict(
      teacher=own['teacher']['params'], student=shared['params'], projections=own['projections']
    )
    masks = dict(all_kept(params), student=shared['masks'])
    masks = {n: trainable(m, frozen) for n, m in masks.items()}
    stats = dict(teacher=own['teacher']['stats'], student=shared['stats'])
    opt = tx.init(params) if fresh else own['opt']
    return state_of(params, stats, masks, opt, shared['step']), {}

  def end(shared, own, state, steps):
    del steps
    opt = {} if fresh else state['opt']
    params, stats = state['params'], state['stats']
    update = difference(shared, params['student'], stats['student'], frozen)
    teacher = dict(params=params['teacher'], stats=stats['teacher'])
    return update, dict(teacher=teacher, projections=params['projections'], opt=opt)

  return Method(begin, sgd(loss(teacher, student, how, look), tx), end)
