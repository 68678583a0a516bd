"""Which classes a specialist learns, from what examples, beginning where.

Hinton, Vinyals & Dean 2015, section 5.
"""

import jax
import jax.numpy as jnp
import numpy as np

from reduction.errors import require


def covariance(logits, temperature: float = 1.0) -> np.ndarray:
  """Covariance [classes, classes] of predictions: which classes are expected together.

  logits: [..., n, classes]; leading axes, such as seeds, are averaged over. No labels are needed.
  temperature: of the predictions; a net that is sure of everything shows more at a higher one.
  """
  p = np.asarray(jax.nn.softmax(jnp.asarray(logits, jnp.float32) / temperature), np.float64)
  p = p - p.mean(-2, keepdims=True)
  each = np.swapaxes(p, -1, -2) @ p / p.shape[-2]
  return each.reshape(-1, *each.shape[-2:]).mean(0)


def clusters(matrix, count: int, seed: int, passes: int = 50) -> tuple[tuple[int, ...], ...]:
  """The classes in `count` groups, by online k-means on the columns of a covariance matrix.

  The first centers are columns far from each other; then each column in turn, in random order,
  pulls its nearest center towards itself by one over the number it has seen. Groups of one class,
  which leave nothing to tell apart, are dropped. Raises UsageError unless 0 < count < classes.
  """
  columns, rng = np.asarray(matrix, np.float64).T, np.random.default_rng(seed)
  classes = len(columns)
  require(0 < count < classes, f'{count=} of {classes} classes must be from 1 to {classes - 1}')
  chosen = [int(rng.integers(classes))]
  distance = lambda centers: ((columns[:, None] - centers) ** 2).sum(-1)
  while len(chosen) < count:
    chosen.append(int(distance(columns[chosen]).min(1).argmax()))
  centers, seen = columns[chosen].copy(), np.ones(count)
  for _ in range(passes):
    for c in rng.permutation(classes):
      nearest = ((centers - columns[c]) ** 2).sum(1).argmin()
      seen[nearest] += 1
      centers[nearest] += (columns[c] - centers[nearest]) / seen[nearest]
  nearest = distance(centers).argmin(1)
  groups = [tuple(map(int, np.flatnonzero(nearest == k))) for k in range(count)]
  return tuple(sorted(group for group in groups if len(group) > 1))


def examples(labels, members: tuple[int, ...], seed: int) -> tuple[np.ndarray, float]:
  """(indices of the examples, correction of the dustbin) of one specialist.

  Half of the examples are all those of members, half drawn from the rest without repeats, or all
  the rest where it is smaller. The correction, the log of how many times oftener a member's example
  is seen than another's, is what the dustbin's logit lacks after training.
  """
  labels = np.asarray(labels)
  inside = np.isin(labels, members)
  own, rest = np.flatnonzero(inside), np.flatnonzero(~inside)
  require(len(own) and len(rest), f'{members=} must be some of the classes, not all')
  drawn = np.random.default_rng(seed).permutation(rest)[: len(own)]
  return np.sort(np.concatenate([own, drawn])), float(np.log(len(rest) / len(drawn)))


def mapped(labels, members: tuple[int, ...]) -> np.ndarray:
  """Labels as a specialist has them: the place in members, or len(members), the dustbin."""
  places = {c: i for i, c in enumerate(members)}
  return np.array([places.get(int(y), len(members)) for y in labels], np.int32)


def beginning(weights, members: tuple[int, ...], name: str):
  """A generalist's weight as its specialist's first one; name: 'out/kernel', 'out/bias', others.

  weights: [..., classes] of the output layer: members keep theirs; the dustbin begins as the mean
  of the others, its bias higher by the log of how many they are. Other layers stay.
  """
  if not name.startswith('out/'):
    return weights
  others = np.setdiff1d(np.arange(weights.shape[-1]), members)
  dustbin = weights[..., others].mean(-1, keepdims=True)
  dustbin += np.log(len(others)) if name == 'out/bias' else 0.0
  return jnp.concatenate([weights[..., np.array(members)], dustbin], -1)
