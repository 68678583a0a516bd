"""Updates in few bits, rounded at random so that their mean stays."""

import functools
import zlib

import jax
import jax.numpy as jnp

from reduction.errors import require
from reduction.federate.codecs.codec import FLOAT, Codec, stateless

ADDITIVE = 'every sender has scales of its own, so that integers of two senders do not add up'


@functools.lru_cache(maxsize=16)
def quantized(*, bits: int = 8) -> Codec:
  """Integers -(2^(bits-1) - 1) .. 2^(bits-1) - 1 and one scale a tensor, by stochastic rounding.

  E[decode(encode(x))] = x, and no entry is off by a scale or more. Alistarh et al. 2017, QSGD,
  section 3.1, with the largest entry for the norm. Tensors of no entry are left out.
  """
  require(2 <= bits <= 8, f'{bits=} must be from 2 to 8')
  levels = 2 ** (bits - 1) - 1

  def encode(update, state, progress, key):
    del progress
    message = {}
    for name, x in update.items():
      own = jax.random.fold_in(key, zlib.crc32(name.encode()))
      scale = jnp.abs(x).max() / levels
      steps = x / jnp.where(scale > 0, scale, 1.0) + jax.random.uniform(own, x.shape)
      message[name] = dict(
        integers=jnp.clip(jnp.floor(steps), -levels, levels).astype(jnp.int8), scale=scale
      )
    return message, state

  def decode(message, like):
    del like
    return {
      name: parts['integers'].astype(jnp.float32) * parts['scale']
      for name, parts in message.items()
    }

  def count(message):
    return {
      name: -(-parts['integers'].size * bits // 8) + FLOAT for name, parts in message.items()
    }

  return Codec(stateless, encode, decode, count, ADDITIVE, bits=bits)
