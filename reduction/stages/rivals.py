"""One way to prune against others, level by level: at equal bytes, and at equal accuracy."""

from typing import NamedTuple

import numpy as np

from reduction.errors import require
from reduction.net import Net
from reduction.run import Run, Stage
from reduction.stages.pruning import unpacked

TOGETHER = 256  # resamples at a time: one of 10,000 examples is 80 KB


class Levels(NamedTuple):
  """The nets of one `filterlet` stage: share [L] of weights, right [L, R, n], nbytes [L, R]."""

  share: tuple[float, ...]
  right: np.ndarray
  nbytes: np.ndarray


def rivals(
  *, of: str, bases: tuple[str, ...], slack: float = 0.02, resamples: int = 2_000
) -> Stage:
  """Compares the levels of a `filterlet` stage with those of others; returns the net that comes.

  of, bases: names of earlier stages that prune the same net; 'tickets/reinit' is the control of
  'tickets', and 'weight:csr' is 'weight' with csr_bytes for conv_bytes. Rows: a 'rival' for each
  level of each base, with accuracy_gain, that of the largest level of `of` with at most a share
  `slack` more bytes, and bytes_change, the bytes at which `of` is as accurate over those of the
  base, less 1. Between its levels accuracy is taken to follow the logarithm of bytes; where already
  its smallest is as accurate, that one's count, and where none is, the change is infinite (None in
  rows). Each has the 95 % interval (_low, _high) of `resamples` bootstraps, in which seeds and test
  examples are drawn anew for both alike. accuracy_gain is None where `of` has no such level.
  """
  require(slack >= 0, f'{slack=} must not be negative')
  require(resamples > 99, f'{resamples=} must be at least 100')
  require(bases and of not in bases, f'{of!r} compared with {bases}: name others')

  def stage(net: Net, run: Run) -> Net:
    mine, others = _levels(of, run), [_levels(base, run) for base in bases]
    for name, rows in zip(bases, others):
      theirs = _stacked([row for row in rows if row['level'] >= 0])
      found = compared(_stacked(mine), theirs, slack, resamples, run.seeds[0])
      for share, row in zip(theirs.share, found):
        run.log(kind='rival', summary=True, seeds=run.seeds, net=of, base=name, share=share, **row)
    return net

  return stage


def _levels(name: str, run: Run) -> list[dict]:
  """What the stage logged: its unpruned net, but for a control, and its levels, with nbytes."""
  name, _, form = name.partition(':')
  stage, _, start = name.partition('/')
  at = '/'.join((*run.path[:-1], stage, ''))
  rows = [row for row in run.rows if row['kind'] == 'right' and f'{row["at"]}/'.startswith(at)]
  rows = [row for row in rows if row['start'] == (start or rows[0]['start'])]
  require(rows, f'{name!r} is no earlier stage that prunes: it logged no level')
  count = len(run.data.test.y)
  key = f'{form or "conv"}_bytes'
  known = [key for key in rows[0] if key.endswith('_bytes')]
  require(key in known, f'{name!r} does not count {key}, only {", ".join(known)}')
  return [dict(row, right=unpacked(row['right'], count), nbytes=row[key]) for row in rows]


def _stacked(rows) -> Levels:
  get = lambda key: np.stack([row[key] for row in rows])
  return Levels(tuple(row['share'] for row in rows), get('right'), get('nbytes'))


def compared(mine: Levels, base: Levels, slack: float, resamples: int, seed: int) -> list[dict]:
  """A row for each level of base: accuracy_gain and bytes_change, each with _low and _high."""
  accuracy, nbytes = _drawn(mine, resamples, seed)  # [1 + resamples, L]
  theirs, their_bytes = _drawn(base, resamples, seed)
  rows = []
  for i in range(len(base.share)):
    found = np.array([_reached(b, a, t) for b, a, t in zip(nbytes, accuracy, theirs[:, i])])
    row = _interval('bytes_change', found / their_bytes[:, i] - 1)
    whole = nbytes[0] <= (1 + slack) * their_bytes[0, i]
    if whole.any():
      level = int(np.argmax(np.where(whole, nbytes[0], -1)))
      row |= _interval('accuracy_gain', accuracy[:, level] - theirs[:, i])
      row['level_bytes'] = float(nbytes[0, level])
    else:
      row |= dict.fromkeys(('accuracy_gain', 'accuracy_gain_low', 'accuracy_gain_high'))
    rows.append(dict(row, base_bytes=float(their_bytes[0, i])))
  return rows


def _drawn(levels: Levels, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """(accuracy, bytes) [1 + resamples, L] of all, and of seeds and examples drawn anew each time."""
  rng, (count, replicas, n) = np.random.default_rng(seed), levels.right.shape
  flat = levels.right.reshape(-1, n).astype(np.float32).T
  accuracy, nbytes = [levels.right.mean((1, 2))[None]], [levels.nbytes.mean(1)[None]]
  for at in range(0, resamples, TOGETHER):
    many = min(TOGETHER, resamples - at)
    seeds = rng.multinomial(replicas, np.full(replicas, 1 / replicas), many) / replicas
    examples = rng.multinomial(n, np.full(n, 1 / n), many).astype(np.float32)
    found = (examples @ flat / n).reshape(many, count, replicas)
    accuracy.append(np.einsum('blr,br->bl', found, seeds))
    nbytes.append(seeds @ levels.nbytes.T)
  return np.concatenate(accuracy), np.concatenate(nbytes)


def _reached(nbytes, accuracy, target: float) -> float:
  """The bytes at which accuracy is target. nbytes, accuracy: [L] of the levels, in any order."""
  order = np.argsort(nbytes, kind='stable')
  size, best = nbytes[order], np.maximum.accumulate(accuracy[order])
  at = int(np.searchsorted(best, target - 1e-9))  # the first that is as good
  if at == len(size):
    return np.inf
  if at == 0 or best[at] <= target:
    return float(size[at])
  part = (target - best[at - 1]) / (best[at] - best[at - 1])
  return float(np.exp(np.log(size[at - 1]) * (1 - part) + np.log(size[at]) * part))


def _interval(name: str, values) -> dict:
  """Of values [1 + resamples], the first of which is the whole: name, and its _low and _high."""
  ends = np.percentile(values[1:], (2.5, 97.5), method='nearest')  # which may be infinite
  return {
    name + end: float(f'{x:.5g}') for end, x in zip(('', '_low', '_high'), (values[0], *ends))
  }
