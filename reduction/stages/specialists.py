"""Specialists: for groups of classes that a generalist confuses (Hinton, Vinyals & Dean, 2015)."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from reduction import tree
from reduction.distill import ensembles
from reduction.distill import specialists as ways
from reduction.distill.student import distilled
from reduction.errors import require
from reduction.models.specialists import Specialists
from reduction.net import Net, all_kept
from reduction.predict import logits, scores
from reduction.run import Run, Stage
from reduction.train import check_schedule, train
from reduction.update import classified, sgd, start
from reduction.update import optimizer as build_optimizer


def specialists(
  *,
  count: int,
  steps: int,
  batch: int,
  optimizer: dict,
  every: int = 100,
  asked: int = 1,
  soft: float = 0.0,
  temperature: float = 1.0,
  cluster_temperature: float = 1.0,
) -> Stage:
  """Trains a specialist for each of `count` groups of classes that the net that comes confuses.

  Each begins as that net, the generalist, and learns its group and a dustbin for all other classes
  from hard labels, on examples half of which are of its group. Returns a net that asks the
  generalist and those specialists that know one of its `asked` first classes, and finds the
  distribution closest to all (eq. 5). soft, temperature: weight and temperature of the generalist's
  own soft targets beside the labels, which keep a specialist from overfitting (section 6.1).
  cluster_temperature: of the predictions whose covariance is clustered. The module needs a field
  `classes` and a last layer 'out'. Rows: 'curve', a 'specialist' each, and one 'specialists'.
  """
  timing = dict(steps=steps, batch=batch, every=every)
  check_schedule(**timing)
  for name, value in dict(temperature=temperature, cluster_temperature=cluster_temperature).items():
    require(value > 0, f'{name}={value} must be above 0')
  require(count > 0 and asked > 0, f'{count=} and {asked=} must be above 0')
  require(soft >= 0, f'{soft=} must not be negative')
  course = Course(count, asked, soft, temperature, cluster_temperature, timing,
                  build_optimizer(**optimizer))  # fmt: skip
  return functools.partial(teach, course)


class Course(NamedTuple):
  """The settings of `specialists`, checked."""

  count: int
  asked: int
  soft: float
  temperature: float
  cluster_temperature: float
  timing: dict
  tx: object


def teach(course: Course, net: Net, run: Run) -> Net:
  """The stage: groups of classes, a specialist each, all of them as one net."""
  require(hasattr(net.module, 'classes'), f'{net.module} has no field `classes` to set')
  splits = run.data.splits()
  general = logits(net, splits['train'].x)
  matrix = ways.covariance(general, course.cluster_temperature)
  sets = ways.clusters(matrix, course.count, seed=run.seeds[0])
  require(sets, f'count={course.count} leaves no group of two classes; take fewer')
  trained = [
    specialist(course, net, members, general, run.child(f'specialist{i + 1}'))
    for i, members in enumerate(sets)
  ]
  whole = together(net, [one for one, _ in trained], sets, [c for _, c in trained], course.asked)
  test = splits['test']
  run.log(
    kind='specialists', summary=True, seeds=run.seeds, specialists=len(sets), asked=course.asked,
    generalist_errors=scores(logits(net, test.x), test.y)['test_errors'],
    **scores(logits(whole, test.x), test.y),
  )  # fmt: skip
  return whole


def specialist(course: Course, net: Net, members, general, run: Run) -> tuple[Net, float]:
  """The trained specialist of one group and its dustbin's correction. general: [R, n, classes]."""
  splits = run.data.splits()
  x, y = splits['train']
  chosen, correction = ways.examples(y, members, seed=run.seeds[0])
  data = dict(train=(x[chosen], ways.mapped(y[chosen], members)))
  if len(splits['validation'].y):
    seen, labels = splits['validation']
    data['validation'] = seen, ways.mapped(labels, members)
  data = jax.device_put(data)
  module = net.module.clone(classes=len(members) + 1)
  begin = lambda values: tree.map_named(lambda n, w: ways.beginning(w, members, n), values)
  params = begin(net.params)
  masks = all_kept(params)
  if net.masks is not None:  # a dustbin is made anew: nothing of it was pruned
    masks = tree.map(lambda m: m > 0, begin(tree.map(lambda m: m * 1.0, net.masks)))
  numbers = dict(temperature=course.temperature, soft=course.soft, hard=1.0, label_mix=0.0)
  same, by_example = {n: jnp.full(len(run.seeds), v) for n, v in numbers.items()}, {}
  if course.soft:
    here = jnp.asarray(general[:, chosen])
    own = jnp.broadcast_to(jnp.array(members), (*here.shape[:2], len(members)))
    by_example['teacher'] = ensembles.at(here, own, course.temperature)[:, :, None]
  state, _ = train(
    sgd(distilled(module), course.tx), classified(module),
    start(params, net.stats, masks, course.tx), data.pop('train'), data, run,
    given=(by_example, same), augment=run.data.augment, **course.timing,
  )  # fmt: skip
  found = Net(module, state['params'], state['stats'], None if net.masks is None else masks)
  run.log(
    kind='specialist', summary=True, seeds=run.seeds, classes=' '.join(map(str, members)),
    examples=len(chosen), correction=round(correction, 4),
    **scores(logits(found, splits['test'].x), ways.mapped(splits['test'].y, members)),
  )  # fmt: skip
  return found, correction


def together(net, nets, sets, corrections, asked) -> Net:
  """The generalist and its specialists as one net."""
  named = dict(generalist=net, **{f'specialists_{i}': one for i, one in enumerate(nets)})
  module = Specialists(
    net.module, tuple(one.module for one in nets), sets, tuple(corrections), asked
  )
  part = lambda what: {name: getattr(one, what) for name, one in named.items()}
  masks = None if net.masks is None else part('masks')
  return Net(module, part('params'), part('stats') if net.stats else {}, masks)
