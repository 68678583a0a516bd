"""Random changes of training images, inside the compiled step."""

import jax
import jax.numpy as jnp

PAD = 4  # pixels
JITTER = 2  # pixels


def flip_and_crop(key, x) -> jax.Array:
  """Each image flipped left to right half of the time, and moved by up to PAD pixels each way.

  x: [n, h, w, channels]; what moves in is 0. He et al. 2016, section 4.2.
  """
  flips, moves = jax.random.split(key)
  x = jnp.where(jax.random.bernoulli(flips, shape=(len(x), 1, 1, 1)), x[:, :, ::-1], x)
  return _moved(moves, x, PAD)


def jitter(key, x) -> jax.Array:
  """Each image moved by up to JITTER pixels each way. Hinton, Vinyals & Dean 2015, section 3."""
  return _moved(key, x, JITTER)


def _moved(key, x, most: int):
  n, h, w, c = x.shape
  padded = jnp.pad(x, ((0, 0), (most, most), (most, most), (0, 0)))
  corners = jax.random.randint(key, (n, 2), 0, 2 * most + 1)
  crop = lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), (h, w, c))
  return jax.vmap(crop)(padded, corners)
