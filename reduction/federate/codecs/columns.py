"""Updates of sub-models: the columns of the units that a client trains (FedDropout)."""

import functools
import math
import re
import zlib

import jax
import jax.numpy as jnp

from reduction.errors import require
from reduction.federate.codecs.codec import FLOAT, Codec, stateless


@functools.lru_cache(maxsize=16)
def columns(*, share: float, layers: str) -> Codec:
  """The part of each tensor that is left without the share of the units of layers, a pattern.

  A client receives as much as it sends, the part of the model that it trains: which units these are
  both draw from one seed (Caldas et al. 2018, 1812.07210, section 4).
  """
  require(0 < share < 1, f'{share=} must lie in (0, 1)')

  def encode(update, state, progress, key):
    del progress, key
    return {name: dict(columns=x) for name, x in update.items()}, state

  def decode(message, like):
    del like
    return {name: parts['columns'] for name, parts in message.items()}

  def count(message):
    found = {}
    for name, parts in message.items():
      *rows, units = parts['columns'].shape or (1,)
      left = dropped(units, share) if re.search(layers, name) else 0
      found[name] = FLOAT * math.prod(rows) * (units - left)
    return found

  def part(like, key):
    return {
      name: kept(name.removeprefix('params/'), x.shape[-1], share, layers, key)
      for name, x in like.items() if x.ndim and name.startswith('params/')
    }  # fmt: skip

  return Codec(stateless, encode, decode, count, part=part)


def kept(name: str, units: int, share: float, layers: str, key) -> jax.Array:
  """bool [units]: which units of a tensor a client trains; all, unless its name has the pattern.

  The same for a kernel and its bias. Caldas et al. 2018, section 4: a fixed number, so that all
  sub-models are of one size.
  """
  if not re.search(layers, name):
    return jnp.ones(units, bool)
  own = jax.random.fold_in(key, zlib.crc32(name.rpartition('/')[0].encode()))
  return jax.random.permutation(own, units) >= dropped(units, share)


def dropped(units: int, share: float) -> int:
  """How many of a layer's units a client does without: the same number for all clients."""
  return round(share * units)
