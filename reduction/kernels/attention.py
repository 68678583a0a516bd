"""Attention of new tokens to what a memory holds of earlier ones: the reference and its kernels.

One token at a time is a decoder's longest wait for its memory: TPUs and Hopper GPUs have a kernel
of their own for it, which reads the blocks of places that are filled in one call.
"""

import functools
import logging
import math
from concurrent import futures

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from reduction.errors import require
from reduction.kernels import attention_gpu, attention_tpu
from reduction.kernels.accelerator import UNSEEN, why_not

BLOCK = 128  # places that the reference reads at once; a memory has whole blocks
TRIED = 512  # places of a kernel's block at most: it is tried on a memory of two such blocks
LOG = logging.getLogger(__name__)


def read(query, key, value, scales, start) -> jax.Array:
  """What tokens read of a memory which they are part of, float32 [n, length, heads * size].

  query: [n, length, heads, size] of the tokens from place start on. key, value: [n, places,
  kv_heads * size], each head read by heads // kv_heads neighboring ones of query. scales: float32
  [2, n, kv_heads, places] of int8 keys and values, or None. Raises UsageError for places that are
  no multiple of 128. A kernel, which the default backend's is, has no derivative.
  """
  places = key.shape[1]
  require(places % BLOCK == 0, f'a memory of {places} places: it needs a multiple of {BLOCK}')
  blocks = 2 * math.gcd(places, TRIED)
  own = _own(jax.default_backend(), query.shape[2:], key.shape[-1], key.dtype.name, blocks)
  if query.shape[1] == 1 and own:
    return own.read(query[:, 0], key, value, scales, start)[:, None]
  return reference(query, key, value, scales, start)


@functools.cache
def _own(platform: str, heads: tuple[int, int], wide: int, stored: str, places: int):
  """The file of the kernel for such a memory, None where there is none. Says once why not.

  places: of the one that it is tried on, whose blocks are of the same size.
  """
  own = dict(tpu=attention_tpu, gpu=attention_gpu).get(platform)
  if own is None:
    return None
  why = 'there is none'
  if own.takes(*heads, wide, stored):
    with futures.ThreadPoolExecutor() as apart:  # this one may be tracing a program
      why = apart.submit(why_not, lambda: _right(own, heads, wide, stored, places)).result()
  if why:
    told = 'no kernel on %s for heads of %d units in %s, %s: attention goes block by block'
    LOG.warning(told, platform, heads[1], stored, why)
  return None if why else own


def _right(own, heads, wide, stored, places) -> bool:
  """Whether a kernel gives what the reference gives, of a memory filled in part."""
  place, numbers = places // 2 + 3, np.random.default_rng(0)
  query = jnp.asarray(numbers.standard_normal((1, 1, *heads), np.float32))
  memory = numbers.integers(-100, 101, (2, 1, places, wide))
  scales = numbers.uniform(0.002, 0.02, (2, 1, wide // heads[1], places)).astype(np.float32)
  if stored == 'int8':
    key, value = jnp.asarray(memory, jnp.int8)
    scales = jnp.asarray(scales)
  else:
    (key, value), scales = jnp.asarray(memory / 100, stored), None
  found = jax.jit(own.read)(query[:, 0], key, value, scales, place)
  wanted = reference(query, key, value, scales, place)[:, 0]
  return bool(abs(found - wanted).max() < 0.02 * abs(wanted).max())


def reference(query, key, value, scales, start) -> jax.Array:
  """`read` block after block, with a running softmax (Dao et al. 2022)."""
  n, length, heads, size = query.shape
  kv_heads = key.shape[-1] // size
  query = query.reshape(n, length, kv_heads, -1, size).astype(jnp.float32) * size**-0.5
  own = start + jnp.arange(length)

  def block(b, state):
    top, total, sums = state
    cut = lambda x, axis: lax.dynamic_slice_in_dim(x, b * BLOCK, BLOCK, axis)
    floats = lambda x: cut(x, 1).reshape(n, BLOCK, kv_heads, size).astype(jnp.float32)
    by = None if scales is None else cut(scales, 3)[:, :, :, None, None]
    scores = jnp.einsum('nqgrd,nkgd->ngrqk', query, floats(key))
    scores = scores if by is None else scores * by[0]
    later = b * BLOCK + jnp.arange(BLOCK) > own[:, None]
    scores = jnp.where(later, UNSEEN, scores)
    new = jnp.maximum(top, scores.max(-1))
    weights, before = jnp.exp(scores - new[..., None]), jnp.exp(top - new)
    total = total * before + weights.sum(-1)
    weights = weights if by is None else weights * by[1]
    seen = jnp.einsum('ngrqk,nkgd->ngrqd', weights, floats(value))
    return new, total, sums * before[..., None] + seen

  shape = n, kv_heads, heads // kv_heads, length
  first = jnp.full(shape, UNSEEN), jnp.zeros(shape), jnp.zeros((*shape, size))
  _, total, sums = lax.fori_loop(0, (start + length - 1) // BLOCK + 1, block, first)
  read = (sums / total[..., None]).transpose(0, 3, 1, 2, 4)
  return read.reshape(n, length, -1)
