"""Pytrees of arrays: names, counts, digests, and the few maps that JAX lacks."""

import re
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import xxhash

map = jax.tree.map
leaves = jax.tree.leaves
structure = jax.tree.structure


def names(tree) -> list[str]:
  """The path of every leaf, keys joined by '/': `{'fc1': {'kernel': w}}` -> ['fc1/kernel']."""
  return [name for name, _ in named(tree)]


def named(tree, is_leaf=None) -> Iterator[tuple[str, jax.Array]]:
  """Pairs (name, leaf) in the order of `leaves`. is_leaf: as in `jax.tree.map`."""
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree, is_leaf)[0]:
    yield jax.tree_util.keystr(path, simple=True, separator='/'), leaf


def map_named(f: Callable, tree, *rest):
  """`jax.tree.map` whose f takes the leaf's name first."""
  return jax.tree.unflatten(
    structure(tree),
    [f(name, *leaf) for name, *leaf in zip(names(tree), *[leaves(t) for t in (tree, *rest)])],
  )


def first_match(rules: tuple[tuple[str, object], ...], name: str, default=None):
  """The value of the first (pattern, value) whose pattern occurs in name (`re.search`)."""
  return next((value for pattern, value in rules if re.search(pattern, name)), default)


def keep(tree, masks):
  """tree with zeros where masks are False, also for NaN; masks None keeps all."""
  if masks is None:
    return tree
  return map(lambda x, m: jnp.where(m, x, jnp.zeros((), x.dtype)), tree, masks)


def select(condition, new, old):
  """new where the scalar condition holds, else old, leaf by leaf."""
  return map(lambda a, b: jnp.where(condition, a, b), new, old)


def strong(tree):
  """tree without weak types: a leaf made from a Python number would compile a program again."""
  return map(lambda x: jax.lax.convert_element_type(x, jnp.result_type(x)), tree)


def finite(tree) -> jax.Array:
  """Whether every floating-point entry of tree is finite: a scalar bool."""
  floats = [x for x in leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
  return jnp.all(jnp.stack([jnp.isfinite(x).all() for x in floats])) if floats else jnp.array(True)


def size(tree) -> int:
  """Number of entries in all leaves."""
  return sum(int(np.prod(np.shape(x))) for x in leaves(tree))


def unflatten(like, flat: list):
  """A tree like `like` with the leaves of flat, in the order of `leaves`."""
  return jax.tree.unflatten(structure(like), flat)


def nest(flat: dict) -> dict:
  """Nested dicts from names: `{'fc1/kernel': w}` -> `{'fc1': {'kernel': w}}`."""
  nested = {}
  for name, leaf in flat.items():
    *parents, last = name.split('/')
    at = nested
    for parent in parents:
      at = at.setdefault(parent, {})
    at[last] = leaf
  return nested


def is_key(leaf) -> bool:
  """Whether leaf is an array of typed PRNG keys."""
  return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def wrap_key(words, like) -> jax.Array:
  """Typed keys of the same kind as like, from their uint32 words."""
  return jax.random.wrap_key_data(jnp.asarray(words), impl=jax.random.key_impl(like))


def to_host(leaf) -> np.ndarray:
  """A numpy array of leaf; typed PRNG keys become their uint32 words."""
  return np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)


def digest(leaf) -> str:
  """xxh3 of one array's dtype, shape and bytes, in hex."""
  leaf = np.ascontiguousarray(to_host(leaf))
  hashed = xxhash.xxh3_64(f'{leaf.dtype}{leaf.shape}'.encode())
  hashed.update(leaf.view(np.uint8).reshape(-1).data)
  return hashed.hexdigest()


def digests(tree) -> dict[str, str]:
  """Name -> digest of every leaf."""
  return {name: digest(leaf) for name, leaf in named(tree)}


def digest_of(strings: dict[str, str]) -> str:
  """One digest of named digests, such as those of a tree and what else it depends on."""
  return xxhash.xxh3_64(repr(sorted(strings.items())).encode()).hexdigest()
