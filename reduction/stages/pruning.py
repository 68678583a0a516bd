"""What stages that prune convolutions share: a net opened, judged, trained, taught if asked."""

import base64
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from reduction import prune, tree
from reduction.distill.lesson import Lesson
from reduction.errors import UsageError, did_you_mean, require
from reduction.mcu import latency
from reduction.mcu.from_flax import convert
from reduction.mcu.plan import plan
from reduction.mcu.sparse import footprint
from reduction.net import Net, over_replicas
from reduction.predict import logits
from reduction.prune import channels
from reduction.prune.importance import importance
from reduction.run import Run
from reduction.schedule import schedule
from reduction.train import fit, train
from reduction.update import classified, sgd, start

NUMBERS = dict(temperature=1.0, soft=1.0, hard=0.0, label_mix=0.0)
FORMS = {'filterlet': ('fwcs', 'bitmap', 'paired'), 'paired': ('fwcs', 'bitmap', 'paired'),
         'filter': ()}  # fmt: skip
SETTINGS = ('of', 'members', 'method', *NUMBERS)


class Pruning(NamedTuple):
  """net: with masks. found: its structure. train: (net, run) -> the best net of a training.

  accuracy: of a net, by seed, [R], on the validation split, which must not be empty.
  """

  net: Net
  found: channels.Structure
  train: Callable[[Net, Run], Net]
  accuracy: Callable[[Net], np.ndarray]


def opened(net: Net, run: Run, tx, timing: dict, lesson: Lesson | None, what: str) -> Pruning:
  """What a stage named `what` prunes. timing: steps, batch and every of each training."""
  require(len(run.data.validation.y), f'{what} chooses by the validation split: give it one')
  splits = jax.device_put(run.data.splits())
  example = run.data.train.x[:1]
  one = tree.map(lambda w: w[0], net)
  found = channels.structure(net.module, one.params, one.stats, example)
  require(found.convs, f'{type(net.module).__name__} has no convolution to prune')
  net = net.replace(masks=prune.all_kept(net.params)) if net.masks is None else net
  judge = over_replicas(classified(net.module), (0, 0, None))
  seen = splits['validation']
  accuracy = lambda net: np.asarray(judge(net.params, net.stats, seen)['accuracy'])
  alone = lambda net, run: fit(net, run, splits, tx, **timing)[1]
  fitted = _taught(lesson, net, run, splits, tx, timing) if lesson else alone

  def trained(net: Net, run: Run) -> Net:
    best = fitted(net, run)
    return net.replace(params=best.params, stats=best.stats)

  return Pruning(net, found, trained, accuracy)


def told(teacher: dict | None) -> Lesson | None:
  """The lesson of a setting dict(of='train', temperature=4.0, hard=0.5); None for None.

  of: an earlier stage, or several, or workdirs; temperature, soft, hard, label_mix: numbers or
  schedules; members, method: all as in `stages.distill`. Raises UsageError for others.
  """
  if teacher is None:
    return None
  for key in teacher:
    require(key in SETTINGS, f'teacher has no {key!r}.{did_you_mean(key, SETTINGS)}')
  of = teacher.get('of', ())
  names = (of,) if isinstance(of, str) else tuple(of)
  require(names, f'{teacher=} must say whose net teaches: of=')
  numbers = {key: schedule(teacher.get(key, value), key) for key, value in NUMBERS.items()}
  how = teacher.get('members', 'own'), 'arithmetic', 0, None
  lesson = Lesson(names, *how, numbers, None, (), teacher.get('method', 'soft'))
  lesson.check()
  return lesson


def _taught(lesson: Lesson, net: Net, run: Run, splits, tx, timing: dict):
  """(net, run) -> the `Best` of a training by the lesson; every net is of one module."""
  loss, given, _ = lesson.prepare(net, run.data.train.x, run.data.test, run)
  evaluate, update = classified(net.module), sgd(loss, tx)
  watched = dict(validation=splits['validation'])

  def fitted(net: Net, run: Run):
    first = start(net.params, net.stats, net.masks, tx)
    return train(update, evaluate, first, splits['train'], watched, run, given=given,
                 augment=run.data.augment, **timing)[1]  # fmt: skip

  return fitted


def scored(kind: str, examples: int, net: Net, run: Run):
  """Importance of every weight, [R, ...], of a kind of `prune.importance`, on training examples."""
  size = min(examples, len(run.data.train.y)) // 64 * 64 or len(run.data.train.y)
  x, y = (values[:size].reshape(-1, min(64, size), *values.shape[1:]) for values in run.data.train)
  return over_replicas(importance(net.module, kind), (0, 0, None, None))(
    tree.keep(net.params, net.masks), net.stats, x, y
  )


def costs(structure: str, net: Net, found: channels.Structure, run: Run) -> dict:
  """What net costs without the filters that are gone, by seed, {name: [R]}.

  conv_bytes: int8 bytes of all convolutions' weights, each in the least form of its structure.
  csr_bytes: where single weights go, as conv_bytes in CSR alone, or dense where that is less.
  instructions: of a Cortex-M4 by `latency.predicted`, each convolution in its fastest form, and
  ram: bytes of that arena; without these where `mcu` cannot run the net.
  """
  small = channels.shrunk(net, found)
  masks = dict(tree.named(small.masks))
  forms = FORMS.get(structure, ('csr', 'element_bitmap', 'patterns'))
  kernels = [np.moveaxis(np.asarray(masks[n.removeprefix('params/')]), -1, 1) for n in found.convs]
  seeds = range(len(kernels[0]))
  kept = [[kernel[r].astype(np.int8) for kernel in kernels] for r in seeds]
  size = lambda *forms: [sum(footprint(kernel, forms) for kernel in one) for one in kept]
  cost = dict(conv_bytes=size(*forms))
  if 'csr' in forms:
    cost['csr_bytes'] = size('csr')
  table = latency.read()
  try:
    graphs = [convert(small, run.data.train.x[:64], replica=r) for r in seeds]
  except UsageError:
    return cost
  graphs = [latency.fastest(graph, table) for graph in graphs]
  count = [round(latency.predicted(graph, table)) for graph in graphs]
  return dict(cost, instructions=count, ram=[plan(graph).peak for graph in graphs])


def right(net: Net, run: Run) -> np.ndarray:
  """Which test examples net gets right, bool [R, n]."""
  return logits(net, run.data.test.x).argmax(-1) == np.asarray(run.data.test.y)


def packed(bits) -> list[str]:
  """Rows of bools as text for a row of `Run.log`, eight to a byte, base64: [R, n] -> R strings."""
  return [base64.b64encode(np.packbits(row).tobytes()).decode() for row in np.asarray(bits)]


def unpacked(texts: list[str], count: int) -> np.ndarray:
  """The bools [R, count] again."""
  read = lambda text: np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=count)
  return np.stack([read(text) for text in texts]).astype(bool)
