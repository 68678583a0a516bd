"""Updates as they are."""

import functools

from reduction.federate.codecs.codec import FLOAT, Codec, stateless


@functools.lru_cache(maxsize=4)
def dense() -> Codec:
  """Every tensor whole, four bytes an entry."""

  def encode(update, state, progress, key):
    del progress, key
    return {name: dict(dense=x) for name, x in update.items()}, state

  def decode(message, like):
    del like
    return {name: parts['dense'] for name, parts in message.items()}

  def count(message):
    return {name: FLOAT * parts['dense'].size for name, parts in message.items()}

  return Codec(stateless, encode, decode, count)
