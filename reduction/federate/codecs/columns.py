"""Updates of sub-models: the columns that changed (FedDropout, Caldas et al. 2018, 1812.07210)."""

import functools

import jax.numpy as jnp

from reduction.federate.codecs.codec import FLOAT, Codec, stateless


@functools.lru_cache(maxsize=4)
def columns() -> Codec:
  """A tensor's columns, along its last axis, that are not all zero, and a bit for each column.

  A client that trains a part of the units receives as much as it sends: the server sends it that
  part of the model, whose units both draw from one seed.
  """

  def encode(update, state, progress, key):
    del progress, key
    message = {}
    for name, x in update.items():
      kept = (x != 0).any(tuple(range(x.ndim - 1)))
      message[name] = dict(columns=x, kept=kept)
    return message, state

  def decode(message, like):
    del like
    return {name: parts['columns'] for name, parts in message.items()}

  def count(message):
    found = {}
    for name, parts in message.items():
      x, kept = parts['columns'], parts['kept']
      rows = x.size // max(kept.size, 1)
      found[name] = FLOAT * rows * jnp.sum(kept) + -(-kept.size // 8)
    return found

  return Codec(stateless, encode, decode, count, mirrored=True)
