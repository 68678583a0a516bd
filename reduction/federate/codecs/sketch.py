"""FetchSGD (Rothchild et al. 2020, 2007.07682): clients send a count sketch of their update."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from reduction.errors import require
from reduction.federate.codecs.codec import Codec, sizes, stateless


@functools.lru_cache(maxsize=16)
def sketch(*, rows: int = 5, columns: int, top: int, momentum: float = 0.9) -> Codec:
  """A sketch [rows, columns] of all entries goes up, the `top` largest of the result come down.

  The server keeps momentum S_u = momentum S_u + S and error S_e += S_u as sketches, takes the top
  entries that S_e estimates for the update and their sketch off S_e. Algorithm 1. Bytes: rows x
  columns numbers up, a number and an index for each of the top down.
  """
  for name, value in dict(rows=rows, columns=columns, top=top).items():
    require(value > 0, f'{name}={value} must be above 0')
  require(0 <= momentum < 1, f'{momentum=} must lie in [0, 1)')

  def serve(like):
    del like
    return dict(momentum=jnp.zeros((rows, columns)), error=jnp.zeros((rows, columns)))

  def encode(update, state, progress, key):
    del progress, key
    flat = jnp.concatenate([x.reshape(-1) for x in update.values()])
    return dict(sketch=dict(table=sketched(flat, rows, columns))), state

  def largest(mean, wire, like):
    count = sum(math.prod(x.shape) for x in like.values())
    speed = momentum * wire['momentum'] + mean['sketch']['table']
    error = wire['error'] + speed
    found = estimated(error, count)
    _, at = jax.lax.top_k(jnp.abs(found), min(top, count))
    update = jnp.zeros(count).at[at].set(found[at])
    wire = dict(momentum=speed, error=error - sketched(update, rows, columns))
    return dict(top=dict(at=at, values=found[at])), wire

  def decode(heard, like):
    counts = [math.prod(x.shape) for x in like.values()]
    at, values = heard['top']['at'], heard['top']['values']
    parts = jnp.split(jnp.zeros(sum(counts)).at[at].set(values), np.cumsum(counts)[:-1])
    return {n: part.reshape(x.shape) for (n, x), part in zip(like.items(), parts)}

  return Codec(stateless, encode, decode, sizes, answers=(largest,), serve=serve)


def sketched(x, rows: int, columns: int) -> jax.Array:
  """The count sketch [rows, columns] of a vector: linear in it."""
  buckets, signs = places(len(x), rows, columns)
  add = lambda bucket, sign: jnp.zeros(columns).at[bucket].add(sign * x)
  return jnp.stack([add(buckets[i], signs[i]) for i in range(rows)])


def estimated(table, count: int) -> jax.Array:
  """The vector of `count` entries that a sketch [rows, columns] is of: medians over rows."""
  buckets, signs = places(count, *table.shape)
  return jnp.median(jnp.take_along_axis(table, buckets, 1) * signs, axis=0)


def places(count: int, rows: int, columns: int) -> tuple[jax.Array, jax.Array]:
  """(bucket, sign) [rows, count] of each entry in each row: a hash of both, the same everywhere."""
  at = jnp.arange(count, dtype=jnp.uint32)[None] + jnp.uint32(1)
  row = (jnp.arange(rows, dtype=jnp.uint32)[:, None] + jnp.uint32(1)) * jnp.uint32(0x9E3779B9)
  h = at * jnp.uint32(0x85EBCA6B) ^ row
  for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):  # the finalizer 'lowbias32'
    h = (h ^ (h >> shift)) * jnp.uint32(factor)
  h ^= h >> 16
  sign = jnp.where(h & 1, 1.0, -1.0)
  return ((h >> 1) % jnp.uint32(columns)).astype(jnp.int32), sign
