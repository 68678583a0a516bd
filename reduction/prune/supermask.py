"""Masks that are learned by gradient while weights stay: straight-through estimators."""

import jax
import jax.numpy as jnp

BISECTIONS = 24  # halve the range of scores to 6e-8 of it: exact but for ties


def bernoulli(key, scores) -> jax.Array:
  """Draws a mask, 1 with probability sigmoid(scores); its gradient is the probability's.

  Zhou et al. 2019, section 4.
  """
  share = jax.nn.sigmoid(scores)
  drawn = jax.random.bernoulli(key, share).astype(scores.dtype)
  return share + jax.lax.stop_gradient(drawn - share)


def threshold(scores, fraction) -> jax.Array:
  """The score above which `fraction` of scores lie, without sorting them."""
  wanted = fraction * scores.size

  def halve(_, ends):
    low, high = ends
    middle = (low + high) / 2
    many = (scores > middle).sum() > wanted
    return jnp.where(many, middle, low), jnp.where(many, high, middle)

  ends = scores.min(), scores.max()
  return jax.lax.fori_loop(0, BISECTIONS, halve, ends)[1]


def top(scores, fraction) -> jax.Array:
  """The mask of the `fraction` of scores largest in magnitude; its gradient is the magnitude's.

  Edge-popup: Ramanujan et al. 2020, section 3.
  """
  size = jnp.abs(scores)
  at = threshold(jax.lax.stop_gradient(size), fraction)
  mask = (size > at).astype(scores.dtype)
  return size + jax.lax.stop_gradient(mask - size)
