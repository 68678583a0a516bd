"""Whether one stage's net is better than another's: a paired bootstrap over seeds and examples."""

import functools
from typing import NamedTuple

import numpy as np

from reduction import ranking, tree
from reduction.distill.teachers import find
from reduction.errors import require
from reduction.net import Net
from reduction.predict import logits
from reduction.run import Run, Stage


class Said(NamedTuple):
  """What a net says of the test examples, [R, n]."""

  classes: np.ndarray
  margins: np.ndarray | None = None  # of two classes: how much more the second
  tuned: np.ndarray | None = None  # bool: they reach the threshold of the validation examples


def versus(
  *, of: str | tuple[str, ...], base: str | tuple[str, ...], resamples: int = 2_000
) -> Stage:
  """Compares two nets on the test examples; returns the net that comes.

  of, base: earlier stages, or workdirs of runs with as many seeds, 'runs/wide', with ':stage' for
  another than the last; several are one net of all their seeds, in this order. Rows: a 'versus'
  with accuracy_gain, of - base, and, where there are two classes, of the class 1: f1_gain,
  tuned_f1_gain, from the threshold on that gives each net its best F on the validation examples,
  and auc_gain. Each has its 95 % interval (_low, _high) over `resamples` bootstraps. Seeds and
  examples are drawn anew in each, both for the two nets alike, so that what is hard for both, or a
  lucky start of both, does not widen the interval. Thresholds are not chosen anew.
  """
  require(resamples > 99, f'{resamples=} must be at least 100')
  require(of != base, f'{of!r} compared with itself')

  def stage(net: Net, run: Run) -> Net:
    ours, theirs = (together(names, run.nets) for names in (of, base))
    names = (name if isinstance(name, str) else ' '.join(name) for name in (of, base))
    log_compared(run, ours, theirs, **dict(zip(('net', 'base'), names)), resamples=resamples)
    return net

  return stage


def together(names: str | tuple[str, ...], nets: dict[str, Net]) -> Net:
  """The net of that name, or those of several names as one of all their seeds. UsageError."""
  found = [find(name, nets) for name in ((names,) if isinstance(names, str) else names)]
  require(found, 'no net is named')
  if len(found) == 1:
    return found[0]
  kinds = {(one.module, one.masks is None) for one in found}
  require(len(kinds) == 1, f'{" and ".join(names)} are nets of other kinds')
  parts = zip(*((one.params, one.stats, one.masks or {}) for one in found))
  params, stats, masks = (tree.map(lambda *x: np.concatenate(x), *part) for part in parts)
  return Net(found[0].module, params, stats, masks or None)


def log_compared(run: Run, ours: Net, theirs: Net, *, net: str, base: str, resamples: int = 2_000):
  """Logs the 'versus' of two nets on the test examples. net, base: what they are called."""
  said = [answers(one, run.data) for one in (ours, theirs)]
  mine, other = (len(one.classes) for one in said)
  require(mine == other, f'{net!r} has {mine} seeds and {base!r} {other}: a pair each')
  row = gains(*said, np.asarray(run.data.test.y), resamples, run.seeds[0])
  run.log(kind='versus', summary=True, seeds=run.seeds, net=net, base=base, **row)


def answers(net: Net, data) -> Said:
  """What it says of the test examples of data."""
  found = logits(net, data.test.x)
  if data.classes != 2:
    return Said(found.argmax(-1))
  margins = found[..., 1] - found[..., 0]
  if not len(data.validation.x):
    return Said(found.argmax(-1), margins)
  known = logits(net, data.validation.x)
  lowest = [ranking.threshold(data.validation.y, one[:, 1] - one[:, 0]) for one in known]
  return Said(found.argmax(-1), margins, margins >= np.array(lowest)[:, None])


def gains(ours: Said, theirs: Said, labels, resamples: int, seed: int) -> dict:
  """accuracy_gain and, of two classes, those of the class 1, each with _low and _high.

  labels: int [n].
  """
  rng, (replicas, count) = np.random.default_rng(seed), ours.classes.shape
  mine, other = (measures(said, labels) for said in (ours, theirs))
  gain = lambda *often: {name: float(mine[name](*often) - other[name](*often)) for name in mine}
  drawn = lambda n: rng.multinomial(n, np.full(n, 1 / n))
  whole = gain(np.ones(replicas), np.ones(count))
  again = [gain(drawn(replicas), drawn(count)) for _ in range(resamples)]
  row = {}
  for name, value in whole.items():
    ends = np.nanpercentile([one[name] for one in again], (2.5, 97.5))
    for end, x in zip(('', '_low', '_high'), (value, *ends)):
      row[f'{name}_gain{end}'] = float(f'{x:.5g}')
  return row


def measures(said: Said, labels) -> dict:
  """Name -> the measure where seeds and examples are there so often, [R] and [n]."""
  right, so = said.classes == labels, labels == 1

  def accuracy(seeds, examples):
    return seeds @ right @ examples / (seeds.sum() * examples.sum())

  def f1(positive, seeds, examples):
    both, found = (seeds @ part @ examples for part in (positive & so, positive))
    return 2 * both / max(found + seeds.sum() * (so @ examples), 1)

  def auc(seeds, examples):
    areas = [ranking.auc(labels, margins, examples) for margins in said.margins]
    return seeds @ areas / seeds.sum()

  if said.margins is None:
    return dict(accuracy=accuracy)
  whole = dict(accuracy=accuracy, f1=functools.partial(f1, said.classes == 1), auc=auc)
  return whole if said.tuned is None else whole | dict(tuned_f1=functools.partial(f1, said.tuned))
