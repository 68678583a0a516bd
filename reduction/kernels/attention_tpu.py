"""One token's attention to its memory on a TPU, in Pallas.

All heads meet a block of places in one product: a head's query stands at the units of its own key
head, zeros elsewhere, so that a block is multiplied as it lies. Blocks that are not filled are
neither read nor multiplied. What was checked where: `stated.py`.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from reduction.kernels.accelerator import LANES, UNSEEN

PLACES = 512, 256, 128  # at a time, where they divide all
BYTES = 2**20  # of keys at a time: in VMEM twice, as often as values
ROWS = 16  # of a tile of bfloat16


def takes(heads: int, size: int, wide: int, stored: str) -> bool:
  """Whether there is a kernel for a memory of keys `wide` units wide: of whole tiles, since the
  compiler lays out others in another order, and copies them."""
  del heads, size
  return wide % LANES == 0 and stored in ('bfloat16', 'float32', 'int8')


# Kernel


def _kernel(
  place_ref,  # [2] int32, of the token and of its block
  query_ref,  # [rows, size], a head a row
  key_ref,  # [block, wide]
  value_ref,  # [block, wide]
  *refs,  # of int8: scales [2, kv_heads, block]. y [rows, size] float32. queries [rows, wide], each
  # at its own units; so far: top and total [rows, 1], sums [rows, wide], of which own units count
  each,  # heads of query to a head of keys
):
  *scaled, y_ref, apart_ref, top_ref, total_ref, sums_ref = refs
  step, (rows, size), (block, wide) = pl.program_id(1), query_ref.shape, key_ref.shape
  row = lax.broadcasted_iota(jnp.int32, (rows, 1), 0)
  own = [(head * each <= row) & (row < (head + 1) * each) for head in range(wide // size)]
  units = [slice(head * size, (head + 1) * size) for head in range(wide // size)]
  chosen = lambda parts: sum(jnp.where(mine, part, 0.0) for mine, part in zip(own, parts))

  @pl.when(step == 0)
  def _():
    for mine, at in zip(own, units):
      apart_ref[:, at] = jnp.where(mine, query_ref[...], 0)
    top_ref[...] = jnp.full_like(top_ref, UNSEEN)
    total_ref[...] = jnp.zeros_like(total_ref)
    sums_ref[...] = jnp.zeros_like(sums_ref)

  @pl.when(step <= place_ref[1])
  def _():
    query = apart_ref[...]
    precision = lax.Precision.HIGHEST if query.dtype == jnp.float32 else None
    product = functools.partial(
      lax.dot_general, precision=precision, preferred_element_type=jnp.float32
    )
    by = 1.0, 1.0
    for scales_ref in scaled:  # those of each head of query, from those of keys
      by = [chosen([scales_ref[i, head : head + 1] for head in range(len(own))]) for i in range(2)]
    scores = product(query, key_ref[...].astype(query.dtype), (((1,), (1,)), ((), ())))
    later = step * block + lax.broadcasted_iota(jnp.int32, scores.shape, 1) > place_ref[0]
    scores = jnp.where(later, UNSEEN, scores * size**-0.5 * by[0])
    top = jnp.maximum(top_ref[...], scores.max(1, keepdims=True))
    weights, before = jnp.exp(scores - top), jnp.exp(top_ref[...] - top)
    total_ref[...] = total_ref[...] * before + weights.sum(1, keepdims=True)
    weights = (weights * by[1]).astype(query.dtype)
    seen = product(weights, value_ref[...].astype(query.dtype), (((1,), (0,)), ((), ())))
    sums_ref[...] = sums_ref[...] * before + seen
    top_ref[...] = top

  @pl.when(step == pl.num_programs(1) - 1)
  def _():
    y_ref[...] = chosen([sums_ref[:, at] for at in units]) / total_ref[...]


# Wrapper


def read(query, key, value, scales, place, *, interpret=False) -> jax.Array:
  """What a token at `place` reads of its memory, float32 [n, heads * size].

  query: [n, heads, size]. key, value: [n, places, kv_heads * size], bfloat16, float32, or int8 with
  scales float32 [2, n, kv_heads, places]. Products are of bfloat16 unless the memory is float32.
  interpret: of `pallas_call`.
  """
  (n, heads, size), (_, places, wide) = query.shape, key.shape
  kv_heads, block = wide // size, at_once(places, wide * key.dtype.itemsize)
  rows, kind = -(-heads // ROWS) * ROWS, jnp.float32 if key.dtype == jnp.float32 else jnp.bfloat16
  query = jnp.pad(query, ((0, 0), (0, rows - heads), (0, 0))).astype(kind)
  filled = lambda k, place: jnp.minimum(k, place[1])  # no other is fetched
  of_heads = pl.BlockSpec((None, rows, size), lambda i, k, place: (i, 0, 0))
  spec = pl.BlockSpec((None, block, wide), lambda i, k, place: (i, filled(k, place), 0))
  of_scales = pl.BlockSpec(
    (2, None, kv_heads, block), lambda i, k, place: (0, i, 0, filled(k, place))
  )
  call = pl.pallas_call(
    functools.partial(_kernel, each=heads // kv_heads),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1,
      grid=(n, places // block),
      in_specs=[of_heads, spec, spec, *[of_scales] * (scales is not None)],
      out_specs=of_heads,
      scratch_shapes=[pltpu.VMEM((rows, wide), kind)]
      + [pltpu.VMEM((rows, columns), jnp.float32) for columns in (1, 1, wide)],
    ),
    out_shape=jax.ShapeDtypeStruct((n, rows, size), jnp.float32),
    compiler_params=pltpu.CompilerParams(dimension_semantics=('parallel', 'arbitrary')),
    interpret=interpret,
    name='remembered',
  )
  given = [] if scales is None else [scales]
  y = call(jnp.stack([place, place // block]).astype(jnp.int32), query, key, value, *given)
  return y[:, :heads].reshape(n, heads * size)


# Tuning


def at_once(places: int, wide: int) -> int:
  """Places of a block; wide: bytes of the keys of one."""
  return next(b for b in PLACES if places % b == 0 and (b * wide <= BYTES or b == PLACES[-1]))
