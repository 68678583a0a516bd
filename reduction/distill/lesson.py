"""What a student is taught and by whom, made ready for the training loop."""

import functools
import pathlib
from typing import NamedTuple

import jax.numpy as jnp

from reduction.distill import ensembles, matching
from reduction.distill.student import METHODS, distilled, matched
from reduction.distill.teachers import MEMBERS, check, find, kept_logits, kept_top, live
from reduction.errors import did_you_mean, require
from reduction.predict import scores


class Lesson(NamedTuple):
  """Settings of `stages.distill`. numbers: name -> number or schedule. change: (key, x) -> x.

  matches: as `matching.read` returns them.
  """

  teachers: tuple[str, ...]
  members: str
  mean: str
  top: int
  cache: str | None
  numbers: dict
  change: object
  matches: tuple[matching.Match, ...] = ()
  method: str = 'soft'

  def check(self):
    """Raises UsageError for a setting out of its range, and for two that exclude each other."""
    for name, value in self.numbers.items():
      good = callable(value) or value > 0 or (value == 0 and name != 'temperature')
      bound = 'above 0' if name == 'temperature' else 'at least 0'
      require(good, f'{name}={value} must be {bound}')
    mix = self.numbers['label_mix']
    require(callable(mix) or mix <= 1, f'label_mix={mix} must be at most 1')
    for name, known in ('members', MEMBERS), ('mean', ensembles.MEANS), ('method', METHODS):
      value = getattr(self, name)
      require(value in known, f'{name}={value!r} is unknown.{did_you_mean(value, known)}')
    soft = self.numbers['soft']
    require(
      self.teachers or not (callable(soft) or soft),
      f'soft={soft} needs teachers; without any, give soft=0 and hard=1',
    )
    require(self.top >= 0, f'top={self.top} must not be negative')
    require(
      not (self.top and (self.change or callable(self.numbers['temperature']))),
      f'top={self.top} keeps logits for one temperature and unchanged inputs: no schedule of the '
      'temperature, no augment',
    )
    self._check_method(mix)

  def _check_method(self, mix):
    require(self.method == 'soft' or self.teachers, f'method={self.method!r} needs teachers')
    require(
      self.method == 'soft' or not (callable(mix) or mix),
      f'label_mix={mix} mixes labels into soft targets: with method={self.method!r} leave it 0',
    )
    for method, why in dict(dkd='looks at the label', standardized='at all logits').items():
      require(
        not (self.top and self.method == method),
        f'top={self.top} hides classes, but {method=} {why}: leave top 0',
      )
    if self.matches:
      require(
        len(self.teachers) == 1 and self.members == 'own',
        f'matches look into one teacher net of each student: name one instead of {self.teachers}, '
        f"with members='own' instead of {self.members!r}",
      )
      require(not self.top, f'top={self.top} keeps logits, but matches need a live teacher')

  def prepare(self, net, x, test, run) -> tuple:
    """(loss, given, projections) to `train` the students net on the examples x; logs the teachers.

    projections: of `matching`, None where nothing is matched.
    """
    module = net.module
    replicas, change = len(run.seeds), self.change or run.data.augment
    require(not (self.top and change), f'top={self.top} keeps logits, but the data are augmented')
    by_step = tuple((n, value) for n, value in self.numbers.items() if callable(value))
    same = {n: jnp.full(replicas, v) for n, v in self.numbers.items() if not callable(v)}
    nets = [find(name, run.nets) for name in self.teachers]
    if not nets:
      return distilled(module, schedules=by_step, method=self.method), ({}, same), None
    check(nets, replicas, self.members)
    how = dict(members=self.members, mean=self.mean)
    said = kept_logits(nets, test.x, replicas, temperature=1.0, **how)
    self._log(said[:, :, 0], test.y, run)
    if self.matches:
      return self._matched(net, nets[0], x, same, by_step, run)
    taught = functools.partial(
      distilled, module, mean=self.mean, schedules=by_step, method=self.method
    )
    if change:
      same['live'] = live(nets, replicas, self.members)
      return taught(teachers=tuple(net.module for net in nets)), ({}, same), None
    folder = pathlib.Path(self.cache) if self.cache else run.workdir and run.workdir / 'teachers'
    how.update(temperature=self.numbers['temperature'], folder=folder)
    if self.top:
      bins, indices = kept_top(nets, x, replicas, self.top, **how)
      by_example = dict(top=jnp.asarray(bins), indices=jnp.asarray(indices))
      return taught(), (by_example, same), None
    logits = kept_logits(nets, x, replicas, **how)
    return taught(), (dict(teacher=jnp.asarray(logits)), same), None

  def _matched(self, net, teacher, x, same, schedules, run):
    """What `prepare` returns where layers are matched: the teacher is live, its logits too."""
    replicas = len(run.seeds)
    # other keys than those of the student's first weights
    fresh = matching.projections(self.matches, net, teacher, x[:2], run.key('init', 1))
    same['live'] = live([teacher], replicas, self.members)
    by_step = lambda match: callable(match.weight)
    same['weights'] = {m.name: jnp.full(replicas, m.weight) for m in self.matches if not by_step(m)}
    if kept := matching.memories(self.matches, teacher, x, run.key('noise', 1)):
      same['memory'] = kept
    pairs = tuple(
      m._replace(weight=m.weight if by_step(m) else None, project=None) for m in self.matches
    )
    loss = matched(net.module, teacher.module, pairs, schedules=schedules, method=self.method)
    return loss, ({}, same), fresh

  def _log(self, logits, labels, run):
    """How good the teachers are, or all of them as one."""
    alone = self.members == 'own'
    found = scores(logits if alone else logits[:1], labels)
    found = found if alone else {name: float(value[0]) for name, value in found.items()}
    run.log(kind='teacher', summary=True, seeds=run.seeds, **found)
