"""FedKD: federated learning by mutual distillation and low-rank updates (Wu et al. 2022).

A client has a large teacher, which never leaves it, and a small student, which all share. Both
learn the client's data and from each other; only the student's update travels, up and down, as
factors of the least rank that keeps its energy. Nature Communications 13:2032; 2108.13323.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from reduction import models, tree
from reduction.config import call
from reduction.distill.matching import apart, capture
from reduction.distill.teachers import find
from reduction.federate import mutual, rounds, setting
from reduction.federate.clients import take
from reduction.federate.scoring import tested, together
from reduction.net import Net, create, over_replicas
from reduction.run import Run, Stage
from reduction.stages.distill import heir
from reduction.stages.fedavg import begin, finished, report
from reduction.update import optimizer as build_optimizer

FACTORS = dict(name='low_rank', start=0.95, end=0.98)


class Course(NamedTuple):
  """The settings of `fedkd`, checked."""

  plan: setting.Plan
  teachers: tuple
  student: object
  first: Callable
  tx: object
  lesson: mutual.Lesson
  frozen: str
  fresh: bool
  begins: str
  learn: Callable


def fedkd(
  *, federation: dict, optimizer: dict, teachers: tuple[dict, ...] = (), begins: str = '',
  teacher_optimizer: dict | None = None, student: dict | None = None, inherits: dict | None = None,
  lesson: dict | None = None, frozen: str = '', fresh: bool = False, learn=rounds.learn,
) -> Stage:  # fmt: skip
  """Trains a student that clients share, each with a teacher of its own; returns the student.

  federation: of `federate.setting.plan`; its codec is by default FedKD's, low_rank from T = 0.95 to
  0.98. teachers: models; client i has teachers[i % len(teachers)]; without any, that of the net
  which teachers start from. All of a kind start alike: begins names an earlier stage or a workdir,
  as in `distill`, by default the net that comes, whose weights teachers of its module start with.
  optimizer: of students, and of teachers unless teacher_optimizer is given; both go on from round
  to round, or where fresh, begin anew each round, as FedAvg's do. student: a model that starts
  afresh, or from what inherits names, as in `distill`; None takes the net that comes, its masks
  kept. lesson: of `federate.mutual.lesson`, what the two learn from each other. frozen: weights of
  these names, in both, are neither trained nor sent (the authors freeze 'embeddings'). learn: the
  rounds, simulated here or of `federate.network`, where teachers stay with their clients. Rows: a
  'round' each, and a 'federated' with the scores of the teachers that are here, which the paper
  uses, beside the student's.
  """
  tx = build_optimizer(**optimizer)
  ahead = build_optimizer(**teacher_optimizer) if teacher_optimizer else tx
  module = call(models, student, 'student') if student else None
  return functools.partial(teach, Course(
    setting.read(dict(dict(codec=FACTORS), **federation)),
    tuple(call(models, teacher, f'teachers[{i}]') for i, teacher in enumerate(teachers)),
    module, heir(inherits, module),
    apart(teacher=ahead, student=tx, projections=tx), mutual.lesson(**(lesson or {})), frozen,
    fresh, begins, learn,
  ))  # fmt: skip


def teach(course: Course, net: Net, run: Run) -> Net:
  """The stage: a fold over rounds, and what students and teachers know after them."""
  plan, x = course.plan, run.data.train.x[:1]
  known, student = find(course.begins, run.nets) if course.begins else net, net
  if course.student:
    student = course.first(create(course.student, run.key('init', 0), x), run)
  shared, clients = begin(student, run), np.arange(plan.clients)
  cohorts, taught = [], []
  modules = course.teachers or (known.module,)
  for i, module in enumerate(modules):
    teacher = known if module == known.module else create(module, run.key('init', 1, i), x)
    how = mutual.method(
      module, student.module, course.tx, course.lesson, capture, frozen=course.frozen,
      fresh=course.fresh,
    )
    ids = clients[clients % len(modules) == i]
    cohorts.append(rounds.Cohort(how, ids, own_state(course, teacher, student, x, run)))
    taught.append(teacher)
  carry, kept = course.learn(plan, cohorts, student.module, shared, run)
  student = finished(student, carry)
  knows = [
    judged(teacher, cohort, own, row, run)
    for teacher, cohort, (ids, own) in zip(taught, cohorts, kept) for row in range(len(ids))
  ]  # those that are here
  report(run, plan, carry, student, **{f'teacher_{n}': x for n, x in together(knows).items()})
  return student


def own_state(course: Course, teacher: Net, student: Net, x, run: Run) -> dict:
  """What a client keeps at the start, [R, ...]: its teacher, projections W and the optimizers."""

  def first(params, stats, student_params, student_stats, key):
    w = mutual.projections(
      course.lesson, (teacher.module, params, stats),
      (student.module, student_params, student_stats), x, key, capture,
    )  # fmt: skip
    trained = dict(teacher=params, student=student_params, projections=w)
    opt = {} if course.fresh else course.tx.init(trained)
    return dict(teacher=dict(params=params, stats=stats), projections=w, opt=opt)

  return over_replicas(first)(
    tree.keep(teacher.params, teacher.masks), teacher.stats, student.params, student.stats,
    run.key('init', 2),
  )  # fmt: skip


def judged(teacher: Net, cohort, own, row: int, run: Run) -> dict:
  """What the teacher of a cohort's client scores, [R] each."""
  ids = np.full((len(run.seeds), 1), row)
  found = tree.map(lambda w: jax.numpy.asarray(w[:, 0]), take(own, cohort.first, ids, run.seeds))
  variables = found['teacher']
  return tested(teacher.replace(params=variables['params'], stats=variables['stats']), run)


