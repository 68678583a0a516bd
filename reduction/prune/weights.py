"""Other first weights for a mask: what a ticket is compared with."""

import jax
import jax.numpy as jnp

from reduction import tree


def noisy(key, params, sigmas):
  """params with Gaussian noise of `sigmas` times each leaf's own standard deviation.

  Frankle & Carbin 2019, appendix F.7.
  """
  keys = iter(jax.random.split(key, len(tree.leaves(params))))
  add = lambda w: w + sigmas * w.std() * jax.random.normal(next(keys), w.shape, w.dtype)
  return tree.map(add, params)


def signed_constant(params):
  """Each weight's sign times its leaf's standard deviation. Zhou et al. 2019, section 3."""
  return tree.map(lambda w: jnp.sign(w) * w.std(), params)


def with_signs(params, like):
  """params with the signs of `like`: what is left of a ticket if only signs are kept."""
  return tree.map(lambda w, s: jnp.abs(w) * jnp.sign(s), params, like)
