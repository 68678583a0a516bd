"""Whether one stage's net is better than another's: a paired bootstrap over seeds and examples."""

import numpy as np

from reduction import tree
from reduction.distill.teachers import find
from reduction.errors import require
from reduction.net import Net
from reduction.predict import logits
from reduction.run import Run, Stage


def versus(
  *, of: str | tuple[str, ...], base: str | tuple[str, ...], resamples: int = 2_000
) -> Stage:
  """Compares two nets on the test examples; returns the net that comes.

  of, base: earlier stages, or workdirs of runs with as many seeds, 'runs/wide', with ':stage' for
  another than the last; several are one net of all their seeds, in this order. Rows: a 'versus'
  with accuracy_gain, of - base, and where there are two classes f1_gain, that of the class 1, each
  with its 95 % interval (_low, _high) over `resamples` bootstraps. Seeds and examples are drawn
  anew in each, both for the two nets alike, so that what is hard for both, or a lucky start of
  both, does not widen the interval.
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
  test = run.data.test
  said = [logits(one, test.x).argmax(-1) for one in (ours, theirs)]
  mine, other = map(len, said)
  require(mine == other, f'{net!r} has {mine} seeds and {base!r} {other}: a pair each')
  row = gains(*said, np.asarray(test.y), run.data.classes, resamples, run.seeds[0])
  run.log(kind='versus', summary=True, seeds=run.seeds, net=net, base=base, **row)


def gains(ours, theirs, labels, classes: int, resamples: int, seed: int) -> dict:
  """accuracy_gain and, of two classes, f1_gain, each with _low and _high.

  ours, theirs: classes said, int [R, n]; labels: int [n].
  """
  rng, (replicas, count) = np.random.default_rng(seed), ours.shape
  counts = [np.stack(tally(said, labels)) for said in (ours, theirs)]  # [4, R, n]
  whole = measured(counts, np.ones(replicas), np.ones(count), classes)
  again = [
    measured(
      counts, rng.multinomial(replicas, np.full(replicas, 1 / replicas)),
      rng.multinomial(count, np.full(count, 1 / count)), classes,
    )
    for _ in range(resamples)
  ]  # fmt: skip
  row = {}
  for name, value in whole.items():
    ends = np.percentile([one[name] for one in again], (2.5, 97.5))
    for end, x in zip(('', '_low', '_high'), (value, *ends)):
      row[name + end] = float(f'{x:.5g}')
  return row


def tally(said, labels) -> tuple:
  """bool [R, n] each: right; class 1 said and so; class 1 said; class 1 is so."""
  so = np.broadcast_to(labels == 1, said.shape)
  return said == labels, (said == 1) & so, said == 1, so


def measured(counts, of_seeds, of_examples, classes: int) -> dict:
  """The gains where seeds and examples are drawn so often."""
  scores = []
  for one in counts:
    right, both, said, so = (of_seeds @ part @ of_examples for part in one)
    total = of_seeds.sum() * of_examples.sum()
    scores.append((float(right / total), float(2 * both / np.maximum(said + so, 1))))
  (ours, our_f1), (theirs, their_f1) = scores
  return dict(accuracy_gain=ours - theirs) | (
    dict(f1_gain=our_f1 - their_f1) if classes == 2 else {}
  )
