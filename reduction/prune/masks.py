"""Masks: trees like params of bool arrays, True is kept. Exact counts by rank, ties by index."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from reduction import tree
from reduction.errors import require


def all_kept(params):
  """The mask that prunes nothing."""
  return tree.map(lambda w: jnp.ones(w.shape, bool), params)


def by_name(params, rules: tuple[tuple[str, float], ...]):
  """A tree like params: the value of the first rule whose pattern occurs in the leaf's name.

  `(('out/kernel', .1), ('kernel', .2))` -> .1 for the output layer, .2 for other kernels, None
  (never pruned) for biases. Raises UsageError for a rule that no leaf follows.
  """
  names = tree.names(params)
  for pattern, _ in rules:
    used = any(re.search(pattern, name) for name in names)
    require(used, f'no weight is named like {pattern!r}; the names: {", ".join(names)}')
  return tree.map_named(lambda name, _: tree.first_match(rules, name), params)


def survivors(alive: int, fraction: float) -> int:
  """How many of `alive` weights remain after a prune of `fraction`: round half to even."""
  return round(alive * (1 - fraction))


def largest(scores, masks, counts):
  """Keeps in each leaf the counts-th largest scores among the weights still alive.

  scores, masks: trees like params. counts: a tree of ints, which may be traced: one program prunes
  to every sparsity; None keeps the leaf's mask. Equal scores: the earlier index stays.
  """

  def leaf(score, mask, count):
    if count is None:
      return mask
    score = jnp.where(mask, score, -jnp.inf).ravel()
    ranked = jnp.argsort(score, descending=True, stable=True)
    kept = jnp.zeros(score.shape, bool).at[ranked].set(jnp.arange(score.size) < count)
    return kept.reshape(mask.shape) & mask

  return jax.tree.map(leaf, scores, masks, counts, is_leaf=lambda x: x is None)


def smallest(scores, masks, fraction):
  """Drops from each leaf the smallest `fraction` of the weights still alive.

  fraction: a number, or a tree like params with None for leaves that are not pruned; may be
  traced. The count is exact by rank (codes that compare with a threshold drop one weight more,
  and every tie). Raises UsageError for a fraction outside [0, 1).
  """
  if not isinstance(fraction, dict | list | tuple):
    fraction = tree.map(lambda _: fraction, scores)

  def count(mask, f):
    if f is None:
      return None
    if not isinstance(f, jax.core.Tracer):
      require(0 <= float(f) < 1, f'fraction={float(f)} must lie in [0, 1): 1 leaves a dead layer')
    return jnp.round(mask.sum() * (1 - f)).astype(jnp.int32)

  counts = jax.tree.map(count, masks, fraction, is_leaf=lambda x: x is None)
  return largest(scores, masks, counts)


def kept(masks, names: list[str]) -> float:
  """The fraction of the named leaves' weights that masks keep, P_m in the papers."""
  chosen = [np.asarray(mask) for name, mask in tree.named(masks) if name in names]
  return float(sum(m.sum() for m in chosen) / sum(m.size for m in chosen))
