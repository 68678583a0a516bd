"""Scores: a tree like params, larger is more worth keeping."""

import jax.numpy as jnp

from reduction import tree


def magnitude(params):
  """|w|, the score of Han et al. 2015 and of the lottery ticket papers."""
  return tree.map(jnp.abs, params)
