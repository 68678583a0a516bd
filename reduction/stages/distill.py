"""Distillation: a student learns a teacher's soft targets (Hinton, Vinyals & Dean, 2015)."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax

from reduction import models, tree
from reduction.config import call
from reduction.data.images import augmentation
from reduction.distill import matching
from reduction.distill.inheritance import inherit
from reduction.distill.lesson import Lesson
from reduction.distill.teachers import find
from reduction.distill.transfer import absent, subset
from reduction.errors import require
from reduction.models.served import unpacked
from reduction.net import Net, all_kept, create
from reduction.predict import logits, scores
from reduction.run import Run, Stage
from reduction.schedule import schedule
from reduction.train import check_schedule, train
from reduction.update import classified, sgd, start
from reduction.update import optimizer as build_optimizer


def distill(
  *,
  steps: int,
  batch: int,
  optimizer: dict,
  teachers: tuple[str, ...] = (),
  student: dict | None = None,
  inherits: dict | None = None,
  temperature: float | dict = 1.0,
  soft: float | dict = 1.0,
  hard: float | dict = 0.0,
  label_mix: float | dict = 0.0,
  members: str = 'own',
  mean: str = 'arithmetic',
  method: str = 'soft',
  matches: tuple[dict, ...] = (),
  top: int = 0,
  transfer: dict | None = None,
  augment: str | None = None,
  cache: str | None = None,
  every: int = 100,
  best: bool = False,
) -> Stage:
  """Trains a student on soft * T^2 CE(teacher / T, student / T) + hard * CE(labels, student).

  teachers: names of what earlier stages returned ('dense'), or workdirs ('runs/teacher', with
  ':stage' for another than the last); without any, hard labels teach alone. student: a model that
  starts afresh; None trains the net that comes, its masks kept, a packed one from the floats that
  it stands for. inherits: dict(of='tune', layers=,
  fresh=), whose weights it starts from, as in `distill.inheritance`. temperature, soft, hard,
  label_mix: of `losses.distillation`, numbers or schedules, dict(name='linear_schedule', ...).
  members: 'own' gives each seed the teachers' replicate of its place (a lone one to all), 'all'
  makes an ensemble of all replicates of all teachers; mean: 'arithmetic' or 'geometric'. method:
  'soft', or what takes its place: 'dkd', 'reverse', 'jsd', 'standardized'. matches: hidden
  layers drawn to those of one teacher, as in `distill.matching.read`: a dict(student='fc1',
  teacher='fc1', loss='hint', weight=a number or schedule) is logged as 'hint fc1'; its projection
  is dropped in the end. top:
  keep the so many likeliest classes and a bin for the rest. transfer: which training examples,
  settings of `distill.transfer.subset`. augment: how they change, a name of `data.augment`; then,
  and with matches, teachers see each batch too, else their logits are computed once: kept in the
  folder cache, by default in the workdir. every: steps between evaluations. best: return the
  weights of the lowest validation loss instead of the last. Rows: 'curve', a 'teacher', a
  'distill'. Function matching (augment, soft alone) and born-again nets (student: the teacher's
  model) need nothing more.
  """
  timing = dict(steps=steps, batch=batch, every=every)
  check_schedule(**timing)
  given = dict(temperature=temperature, soft=soft, hard=hard, label_mix=label_mix)
  numbers = {name: schedule(value, name) for name, value in given.items()}
  change = augmentation(augment)
  read = matching.read(matches)
  lesson = Lesson(teachers, members, mean, top, cache, numbers, change, read, method)
  lesson.check()
  module = call(models, student, 'student') if student else None
  named = ' '.join(map(str, tree.leaves(student))) if student else 'the net that came'
  tx = build_optimizer(**optimizer)
  course = Course(lesson, module, named, tx, transfer or {}, timing, best, heir(inherits, module))
  return functools.partial(teach, course)


def heir(inherits: dict | None, module):
  """(student, run) -> the student with the first weights that `inherits` names, else as it is."""
  if not inherits:
    return lambda student, run: student
  require(module is not None, f'{inherits=} gives a student its first weights: name a student')
  settings = dict(inherits)
  of = settings.pop('of', None)
  require(isinstance(of, str), f'{inherits=} must say whose weights: of=')
  for key in settings:
    require(key in ('layers', 'fresh'), f'inherits has no {key!r}; it has of, layers and fresh')
  return lambda student, run: inherit(student, find(of, run.nets), **settings)


class Course(NamedTuple):
  """The settings of `distill`, checked."""

  lesson: Lesson
  module: object
  named: str
  tx: object
  transfer: dict
  timing: dict
  best: bool
  first: Callable[[Net, Run], Net]


def teach(course: Course, net: Net, run: Run) -> Net:
  """The stage: a student, made or come, trained as its lesson says."""
  lesson, splits = course.lesson, run.data.splits()
  chosen = subset(splits['train'].y, **course.transfer)
  x, y = (values[chosen] for values in splits['train'])
  fresh = lambda: create(course.module, run.key('init', 0), x[:1])
  pupil = fresh() if course.module else unpacked(net)
  pupil = course.first(pupil, run)
  loss, given, projections = lesson.prepare(pupil, x, splits['test'], run)
  masks = all_kept(pupil.params) if pupil.masks is None else pupil.masks
  trained = pupil.params, masks, course.tx, classified(pupil.module)
  if lesson.matches:
    trained = matching.joined(projections, *trained)
  params, masks, tx, evaluate = trained
  watched = {n: jax.device_put(splits[n]) for n in ('validation',) if len(splits[n].y)}
  last, found = train(
    sgd(loss, tx), evaluate, start(params, pupil.stats, masks, tx),
    jax.device_put((x, y)), watched, run, given=given, **course.timing,
    augment=lesson.change or run.data.augment,
  )  # fmt: skip
  best = course.best
  params, stats = (found.params, found.stats) if best else (last['params'], last['stats'])
  params = params['student'] if lesson.matches else params
  taught = Net(pupil.module, params, stats, pupil.masks)
  told = {name: value for name, value in lesson.numbers.items() if not callable(value)}
  missing = absent(splits['train'].y, chosen)
  held = {}
  if watched:
    seen = splits['validation']
    held = scores(logits(taught, seen.x), seen.y, split='validation')
  run.log(
    kind='distill', summary=True, student=course.named, seeds=run.seeds, **told,
    steps=course.timing['steps'], examples=len(y), early_stop_step=found.step,
    validation_loss=found.loss, **held,
    **scores(logits(taught, splits['test'].x), splits['test'].y, missing),
  )  # fmt: skip
  return taught
