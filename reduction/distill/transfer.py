"""Transfer sets: which training examples a student learns from."""

import numpy as np

from reduction.errors import require


def subset(
  labels, *, omit: tuple[int, ...] = (), only: tuple[int, ...] = (), share: float = 1.0
) -> np.ndarray:
  """Indices of the examples to keep, in order. labels: int [n].

  omit, only: classes left out, or alone kept. share: of what is left, the first so many; the order
  of a training split is random. Raises UsageError where nothing is left, or one class.
  """
  labels = np.asarray(labels)
  require(not (omit and only), f'{omit=} and {only=}: name one of them')
  require(0 < share <= 1, f'{share=} must lie in (0, 1]')
  for c in (*omit, *only):
    require((labels == c).any(), f'class {c} is not in the training set')
  kept = np.isin(labels, only) if only else ~np.isin(labels, omit)
  found = np.flatnonzero(kept)
  found = found[: round(share * len(found))]
  require(
    len(np.unique(labels[found])) > 1,
    f'a transfer set of {len(found)} examples of one class or none teaches nothing',
  )
  return found


def absent(labels, chosen) -> tuple[int, ...]:
  """The classes of labels that the chosen examples lack."""
  labels = np.asarray(labels)
  return tuple(int(c) for c in np.setdiff1d(labels, labels[chosen]))
