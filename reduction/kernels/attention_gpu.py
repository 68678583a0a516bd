"""One token's attention to its memory on NVIDIA's Hopper, in Pallas (Mosaic GPU).

A block of threads has one head of keys, whose heads of query are rows of wgmma, and every so many
blocks of places: it goes over those that are filled, copies ahead, and leaves a softmax in parts
that are joined at the end. What was checked where: `stated.py`.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from reduction.kernels.accelerator import UNSEEN
from reduction.kernels.int4_gpu import hopper, swizzled

BLOCK = 64  # places at a time
ROWS = 64  # of wgmma, of which heads of query are the first
TILE = 8  # rows of a copy
SIZES = 64, 128  # units of a head
STAGES = 2  # blocks of places in shared memory, one on its way
BUSY = 2 * 132  # blocks of threads wanted
PARTS = 32  # of the places at most


def takes(heads: int, size: int, wide: int, stored: str) -> bool:
  """Whether there is a kernel for a memory of keys `wide` units wide, in heads of `size`."""
  few = heads // (wide // size) <= ROWS
  return hopper() and few and size in SIZES and stored in ('bfloat16', 'float16', 'int8')


# Kernel


def _kernel(
  place_hbm,  # [1] int32, of the token
  query_hbm,  # [n, kv_heads, rows, size], the heads of query at a head of keys
  key_hbm,  # [n, places, kv_heads * size]
  value_hbm,  # [n, places, kv_heads * size]
  *refs,  # of int8: scales [2 n kv_heads, places], keys' before values'. tops and totals [parts, n,
  # kv_heads, ROWS], sums [parts, n, kv_heads, rows, size], float32. In shared memory: query and
  # sums [ROWS, size], tops and totals [ROWS]; of int8 key and value [BLOCK, size] of query's type;
  # where interpreted weights [ROWS, BLOCK]; a barrier
  size,
  parts,
  scaled,
  staged,  # whether weights go through shared memory: the emulator takes them from there alone
):
  scales_hbm, refs = refs[:scaled], refs[scaled:]
  tops_hbm, totals_hbm, sums_hbm, query_smem, sums_smem, tops_smem, totals_smem, *refs = refs
  raw, refs = refs[: 2 * scaled], refs[2 * scaled :]
  *weights_smem, barrier = refs
  i, head, part = (lax.axis_index(name) for name in ('text', 'head', 'part'))
  place, rows = place_hbm[0], query_hbm.shape[2]
  plgpu.copy_gmem_to_smem(query_hbm.at[i, head], query_smem.at[pl.ds(0, rows)], barrier)
  plgpu.barrier_wait(barrier)
  down = lambda x, shape: lax.broadcast_in_dim(x, shape, (0,))
  across = lambda x, shape: lax.broadcast_in_dim(x, shape, (1,))

  def floats(ref, at):
    if not scaled:
      return ref
    raw[at][...] = ref[...].astype(query_hbm.dtype)
    plgpu.commit_smem()
    return raw[at]

  def product(total, a, b):
    plgpu.wgmma(total, a, b)
    return total[...]

  def times(shape, a, b):
    body = functools.partial(product, a=a, b=b)
    return pl.run_scoped(body, plgpu.ACC(shape, jnp.float32))

  def one(indices, key_smem, value_smem, *refs):
    *by, (top, total, sums) = refs
    shape = ROWS, BLOCK
    key = floats(key_smem, 0)
    scores = times(shape, query_smem, plgpu.transpose_ref(key, (1, 0))) * size**-0.5
    if scaled:
      scores = scores * across(by[0][0], shape)
    (step,) = indices
    begins = (part + step * parts) * BLOCK
    later = plgpu.broadcasted_iota(jnp.int32, shape, 1, layout=plgpu.Layout.WGMMA) > place - begins
    scores = jnp.where(later, UNSEEN, scores)
    new = jnp.maximum(top, scores.max(1))
    weights, before = jnp.exp(scores - down(new, shape)), jnp.exp(top - new)
    total = total * before + weights.sum(1)
    if scaled:
      weights = weights * across(by[1][0], shape)
    weights = weights.astype(query_hbm.dtype)
    if staged:
      weights_smem[0][...] = weights
      plgpu.commit_smem()
      weights = weights_smem[0]
    seen = times(sums.shape, weights, floats(value_smem, 1))
    return new, total, sums * down(before, sums.shape) + seen

  first = lambda shape, x, layout: plgpu.layout_cast(jnp.full(shape, x, jnp.float32), layout)
  blocks, row = place // BLOCK + 1, plgpu.Layout.WGMMA.reduce(1)
  at = lambda step: part + step * parts
  spec = plgpu.BlockSpec(
    (None, BLOCK, size), lambda k: (i, at(k), head),
    transforms=swizzled(key_hbm.dtype.itemsize * 8, size),
  )  # fmt: skip
  row_of = lambda which: (which * pl.num_programs(0) + i) * pl.num_programs(1) + head
  of_scales = [
    plgpu.BlockSpec((1, BLOCK), lambda k, which=which: (row_of(which), at(k)))
    for which in range(2 * scaled)
  ]
  pipeline = plgpu.emit_pipeline(
    one, grid=((blocks - part + parts - 1) // parts,), max_concurrent_steps=STAGES,
    init_carry=(
      first((ROWS,), UNSEEN, row), first((ROWS,), 0.0, row),
      first((ROWS, size), 0.0, plgpu.Layout.WGMMA),
    ),
    in_specs=[spec, spec, *of_scales],
  )  # fmt: skip
  top, total, sums = pipeline(key_hbm, value_hbm, *scales_hbm * 2)
  tops_smem[...], totals_smem[...], sums_smem[...] = top, total, sums
  plgpu.commit_smem()
  of_rows = pl.ds(0, rows)
  plgpu.copy_smem_to_gmem(sums_smem.at[of_rows], sums_hbm.at[part, i, head])
  for smem, hbm in (tops_smem, tops_hbm), (totals_smem, totals_hbm):
    plgpu.copy_smem_to_gmem(smem, hbm.at[part, i, head])
  plgpu.wait_smem_to_gmem(0)


# Wrapper


@functools.partial(jax.jit, static_argnames='interpret')  # traced once for layers of one size
def read(query, key, value, scales, place, *, interpret=None) -> jax.Array:
  """What a token at `place` reads of its memory, float32 [n, heads * size].

  query: [n, heads, size]. key, value: [n, places, kv_heads * size], bfloat16, float16, or int8 with
  scales float32 [2, n, kv_heads, places]. Products are of the memory's floats, of int8 in bfloat16.
  interpret: of `plgpu.kernel`.
  """
  (n, heads, size), (_, places, wide) = query.shape, key.shape
  kv_heads, scaled = wide // size, scales is not None
  kind, each = jnp.bfloat16 if scaled else key.dtype, heads // kv_heads
  query = query.reshape(n, kv_heads, each, size).astype(kind)
  query = jnp.pad(query, ((0, 0), (0, 0), (0, -each % TILE), (0, 0)))
  parts = split(n * kv_heads, places)
  tile = dict(transforms=swizzled(16, size))
  small = jax.ShapeDtypeStruct((parts, n, kv_heads, ROWS), jnp.float32)
  body = functools.partial(_kernel, size=size, parts=parts, scaled=scaled, staged=bool(interpret))
  call = plgpu.kernel(
    body,
    out_type=(small, small, jax.ShapeDtypeStruct((parts, *query.shape), jnp.float32)),
    grid=(n, kv_heads, parts),
    grid_names=('text', 'head', 'part'),
    interpret=interpret,
    compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup),
    scratch_types=[
      plgpu.SMEM((ROWS, size), kind, **tile),
      plgpu.SMEM((ROWS, size), jnp.float32),
      *[plgpu.SMEM((ROWS,), jnp.float32)] * 2,
      *[plgpu.SMEM((BLOCK, size), kind, **tile)] * (2 * scaled),
      *[plgpu.SMEM((ROWS, BLOCK), kind, transforms=swizzled(16, BLOCK))] * bool(interpret),
      plgpu.Barrier(),
    ],
  )
  by = [scales.reshape(-1, places)] if scaled else []
  tops, totals, sums = call(jnp.full(1, place, jnp.int32), query, key, value, *by)
  share = jnp.exp(tops - tops.max(0))[..., :each]
  total = (share * totals[..., :each]).sum(0)
  read = (share[..., None] * sums[..., :each, :]).sum(0) / total[..., None]
  return read.reshape(n, heads * size)


# Tuning


def split(heads: int, places: int) -> int:
  """Parts that the places of a head are shared out in, so that all multiprocessors are busy."""
  return max(1, min(PARTS, places // BLOCK, -(-BUSY // heads)))
