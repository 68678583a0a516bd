"""Scores: a tree like params, larger is more worth keeping; first and last weights as criteria."""

import functools

import jax.numpy as jnp

from reduction import tree


def magnitude(params):
  """|w|, the score of Han et al. 2015 and of the lottery ticket papers."""
  return tree.map(jnp.abs, params)


# The mask criteria of Zhou et al. 2019, figure 3: of a weight's first and last value
CRITERIA = {
  'large_final': lambda first, last: jnp.abs(last),
  'small_final': lambda first, last: -jnp.abs(last),
  'large_init': lambda first, last: jnp.abs(first),
  'small_init': lambda first, last: -jnp.abs(first),
  'large_init_large_final': lambda first, last: jnp.minimum(jnp.abs(first), jnp.abs(last)),
  'small_init_small_final': lambda first, last: -jnp.maximum(jnp.abs(first), jnp.abs(last)),
  'magnitude_increase': lambda first, last: jnp.abs(last) - jnp.abs(first),
  'movement': lambda first, last: jnp.abs(last - first),
  'large_final_same_sign': lambda first, last: last * jnp.sign(first),
  'magnitude_increase_same_sign': lambda first, last: jnp.where(
    first * last > 0, jnp.abs(last) - jnp.abs(first), -jnp.inf
  ),
}


@functools.lru_cache(maxsize=64)
def criterion(name: str):
  """(first, last) -> scores: one of CRITERIA on trees of weights."""
  score = CRITERIA[name]
  return lambda first, last: tree.map(score, first, last)
