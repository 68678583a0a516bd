"""Bias correction: a student that never saw some classes prefers the others; one number mends it.

Raising the biases of the absent classes and lowering those of all others are the same change.
Hinton, Vinyals & Dean 2015, section 3.
"""

import jax
import jax.numpy as jnp
import numpy as np


def best(logits, labels, classes: tuple[int, ...]) -> float:
  """What to add to the biases of classes so that the fewest labels are missed.

  logits: [n, all classes]; labels: int [n]. Exact: every threshold at which a prediction changes is
  tried. The middle of the best stretch, of the widest where several are best; a stretch without an
  end counts as one unit long.
  """
  logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
  chosen = np.zeros(logits.shape[1], bool)
  chosen[list(classes)] = True
  inside, outside = (np.where(c, logits, -np.inf) for c in (chosen, ~chosen))
  # an example goes to its best absent class once the shift exceeds the gap
  gaps = outside.max(1) - inside.max(1)
  order = np.argsort(gaps, kind='stable')
  gain = (inside.argmax(1) == labels).astype(int) - (outside.argmax(1) == labels)
  right = np.concatenate([[0], np.cumsum(gain[order])])  # right[k]: the k smallest gaps are passed
  edges = np.concatenate([[gaps.min() - 1], gaps[order], [gaps.max() + 1]])
  width = np.diff(edges)
  right = np.where(width > 0, right, -len(labels) - 1)  # equal gaps are passed together
  k = np.lexsort((width, right))[-1]
  return float(edges[k : k + 2].mean())


def by_prior(logits, classes: tuple[int, ...], frequency: float, steps: int = 60) -> float:
  """What to add to the biases of classes so that their mean probability is `frequency`.

  logits: [n, all classes], of inputs as they come; no labels are used. Bisection: the mean
  probability rises with the shift.
  """
  logits = jnp.asarray(logits, jnp.float32)
  shift = jnp.zeros(logits.shape[1]).at[jnp.array(classes)].set(1.0)

  def halve(bounds, _):
    middle = bounds.mean()
    mass = jax.nn.softmax(logits + middle * shift)[:, jnp.array(classes)].sum(1).mean()
    return jnp.where(mass < frequency, jnp.array([middle, bounds[1]]),
                     jnp.array([bounds[0], middle])), None  # fmt: skip

  bounds, _ = jax.lax.scan(halve, jnp.array([-100.0, 100.0]), length=steps)
  return float(bounds.mean())
