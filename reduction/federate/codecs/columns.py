"""Updates of sub-models: the rows and columns of the units that a client trains (FedDropout)."""

import functools
import math
import re
import zlib

import jax
import jax.numpy as jnp

from reduction.errors import require
from reduction.federate.codecs.codec import FLOAT, Codec, stateless


@functools.lru_cache(maxsize=16)
def columns(*, share: float, layers: str, feeds: tuple[tuple[str, str], ...] = ()) -> Codec:
  """The part of each tensor that is left without the share of the units of layers, a pattern.

  feeds: pairs (layer, the one that takes its units), whose kernel's rows of those units stay away
  too. A client receives as much as it sends, the part of the model that it trains: which units
  these are both draw from one seed (Caldas et al. 2018, 1812.07210, section 4).
  """
  require(0 < share < 1, f'{share=} must lie in (0, 1)')

  def encode(update, state, progress, key):
    del progress, key
    return {name: dict(columns=x) for name, x in update.items()}, state

  def decode(message, like):
    del like
    return {name: parts['columns'] for name, parts in message.items()}

  def count(message):
    values = {name: parts['columns'] for name, parts in message.items()}
    found = {name: FLOAT * math.prod(x.shape) for name, x in values.items()}
    for name, of in axes(weights(values), layers, feeds).items():
      lead = values[f'params/{name}'].shape[: -len(of)]
      left = [(n - dropped(n, share) if layer else n) * times for layer, n, times in of]
      found[f'params/{name}'] = FLOAT * math.prod((*lead, *left))
    return found

  def part(like, key):
    found = kept(weights(like), share, layers, feeds, key)
    return {f'params/{name}': of for name, of in found.items()}

  return Codec(stateless, encode, decode, count, part=part)


def weights(values: dict) -> dict:
  """Those of an update's tensors that are weights and no scalars, by name."""
  return {n.removeprefix('params/'): x for n, x in values.items() if n[:7] == 'params/' and x.ndim}


def kept(like: dict, share: float, layers: str, feeds, key) -> dict:
  """{name: (bool [rows], bool [columns]), of a vector (bool [entries],)}: what a client trains.

  like: {name: array or shape}. A unit of a layer that has the pattern is a column of its kernel and
  an entry of its bias, and in the kernel that it feeds a row. Caldas et al. 2018, section 4: a
  fixed number, so that all sub-models are of one size.
  """

  def flags(layer, units, times):
    if not layer:
      return jnp.ones(units, bool)
    own = jax.random.fold_in(key, zlib.crc32(layer.encode()))
    return jnp.tile(jax.random.permutation(own, units) >= dropped(units, share), times)

  return {name: tuple(flags(*one) for one in of) for name, of in axes(like, layers, feeds).items()}


def axes(like: dict, layers: str, feeds) -> dict:
  """{name: ((layer whose units they are, '' for none that is thinned, units, times), ...)} of the
  last two axes of each tensor, of the one of a vector.

  A dense layer after a convolution has each of its channels several times, one a place. Raises
  UsageError for feeds that name a layer that is not there, is not thinned or does not fit.
  """
  before, found = {after: layer for layer, after in feeds}, {}
  for layer, after in feeds:
    there = f'{layer}/kernel' in like and f'{after}/kernel' in like
    require(there, f'feeds=({layer!r}, {after!r}) must both be layers that train')
    units, rows = like[f'{layer}/kernel'].shape[-1], like[f'{after}/kernel'].shape[-2]
    fits = re.search(layers, f'{layer}/kernel') and rows % units == 0
    require(fits, f'{layer!r}, {units} units, must have the pattern {layers!r} and feed '
            f'{after!r}, {rows} rows')  # fmt: skip
  for name, x in like.items():
    layer, *sizes = name.rpartition('/')[0], *x.shape
    found[name] = ((layer if re.search(layers, name) else '', sizes[-1], 1),)
    if len(sizes) > 1:
      feeder = before.get(layer, '')
      units = like[f'{feeder}/kernel'].shape[-1] if feeder else sizes[-2]
      found[name] = ((feeder, units, sizes[-2] // units), *found[name])
  return found


def dropped(units: int, share: float) -> int:
  """How many of a layer's units a client does without: the same number for all clients."""
  return round(share * units)
