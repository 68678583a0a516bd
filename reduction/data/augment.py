"""Random changes of training images, inside the compiled step."""

import jax
import jax.numpy as jnp

PAD = 4  # pixels


def flip_and_crop(key, x) -> jax.Array:
  """Each image flipped left to right half of the time, and moved by up to PAD pixels each way.

  x: [n, h, w, channels]; what moves in is 0. He et al. 2016, section 4.2.
  """
  n, h, w, c = x.shape
  flips, moves = jax.random.split(key)
  x = jnp.where(jax.random.bernoulli(flips, shape=(n, 1, 1, 1)), x[:, :, ::-1], x)
  padded = jnp.pad(x, ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)))
  corners = jax.random.randint(moves, (n, 2), 0, 2 * PAD + 1)
  crop = lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), (h, w, c))
  return jax.vmap(crop)(padded, corners)
