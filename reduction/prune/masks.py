"""Masks: trees like params of bool arrays, True is kept. Exact counts by rank, ties by index."""

import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from reduction import tree
from reduction.errors import require


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
  leaf = lambda s, m, count: m if count is None else largest_together([s], [m], count)[0]
  return jax.tree.map(leaf, scores, masks, counts, is_leaf=lambda x: x is None)


def largest_together(scores, masks, count):
  """Keeps the `count` largest scores among the weights alive in all leaves, ranked as one layer.

  As `largest`, which ranks each leaf by itself; equal scores: the earlier leaf, then index, stays.
  """
  flat = lambda t: jnp.concatenate([x.ravel() for x in tree.leaves(t)])
  score = jnp.where(flat(masks), flat(scores), -jnp.inf)
  ranked = jnp.argsort(score, descending=True, stable=True)
  kept = jnp.zeros(score.shape, bool).at[ranked].set(jnp.arange(score.size) < count)
  ends = np.cumsum([m.size for m in tree.leaves(masks)])[:-1]
  parts = [p.reshape(m.shape) & m for p, m in zip(jnp.split(kept, ends), tree.leaves(masks))]
  return tree.unflatten(masks, parts)


class Group(NamedTuple):
  """Leaves whose weights are ranked together. rate: the fraction of them that a prune drops."""

  names: tuple[str, ...]
  rate: float


def groups(params, rates: tuple[tuple[str, float], ...], *, together: bool) -> tuple[Group, ...]:
  """The leaves that rates name (the first pattern found in a name), each by itself or by rule.

  together: all leaves of a rule make one group ('global' pruning), else each is one.
  """
  by_name(params, rates)  # refuses a rule that no leaf follows
  rule = lambda name: tree.first_match(tuple((pattern, (pattern, r)) for pattern, r in rates), name)
  members = {}
  for name in tree.names(params):
    if rule(name) is not None:
      members.setdefault(rule(name) if together else (name, rule(name)[1]), []).append(name)
  return tuple(Group(tuple(names), rate) for (_, rate), names in members.items())


def counts(masks, groups: tuple[Group, ...], rounds: int) -> np.ndarray:
  """[rounds + 1, groups]: weights left in each group before the first prune and after every one.

  Raises UsageError where none would be left.
  """
  named = dict(tree.named(masks))
  left = [[sum(int(named[name].sum()) for name in group.names) for group in groups]]
  for _ in range(rounds):
    left.append([survivors(count, group.rate) for count, group in zip(left[-1], groups)])
  for count, (names, rate) in zip(left[-1], groups):
    where = ', '.join(names)
    require(count > 0, f'{rounds=} leave no weight in {where}; lower them or its rate {rate}')
  return np.array(left, np.int32)


def largest_in_groups(scores, masks, groups: tuple[Group, ...], counts):
  """Keeps the counts[i] largest scores of each group; leaves of no group keep their mask."""
  scores, kept = dict(tree.named(scores)), dict(tree.named(masks))
  for i, group in enumerate(groups):
    part = [kept[name] for name in group.names]
    part = largest_together([scores[name] for name in group.names], part, counts[i])
    kept |= dict(zip(group.names, part))
  return tree.unflatten(masks, list(kept.values()))


@functools.lru_cache(maxsize=64)
def cutter(groups: tuple[Group, ...]):
  """`largest_in_groups` of these groups: the same function, hence one program, for equal ones."""
  return lambda scores, masks, counts: largest_in_groups(scores, masks, groups, counts)


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


def shuffled(key, masks):
  """Masks that keep as many weights of each leaf, at random places: the random-sparsity control."""
  return _permuted(key, masks, lambda key, m: jax.random.permutation(key, m.ravel()))


def shuffled_survivors(key, params, masks):
  """params whose surviving weights have changed places, each within its leaf.

  The weights then come from the ticket's own first distribution: Frankle & Carbin 2019, appendix
  F.3; Zhou et al. 2019 call it reshuffling.
  """

  def leaf(key, w, m):
    order = jnp.argsort(~m.ravel(), stable=True)  # the survivors' places, then the dead ones'
    rank = jnp.where(jnp.arange(m.size) < m.sum(), jax.random.uniform(key, (m.size,)), 2.0)
    values = w.ravel()[order][jnp.argsort(rank, stable=True)]
    return w.ravel().at[order].set(values)

  return _permuted(key, params, leaf, masks)


def _permuted(key, first, leaf, *rest):
  keys = iter(jax.random.split(key, len(tree.leaves(first))))
  return tree.map(lambda x, *more: leaf(next(keys), x, *more).reshape(x.shape), first, *rest)


def kept(masks, names: list[str]) -> float:
  """The fraction of the named leaves' weights that masks keep, P_m in the papers."""
  chosen = [np.asarray(mask) for name, mask in tree.named(masks) if name in names]
  return float(sum(m.sum() for m in chosen) / sum(m.size for m in chosen))
