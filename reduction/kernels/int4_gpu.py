"""Products with packed weights on NVIDIA's Hopper, in Pallas (Mosaic GPU): 4 bits, 1 to 64 rows.

64 columns of the weight are the long side of wgmma, in registers, and the rows of x its short one,
so that 8 rows waste nothing. The codes themselves are multiplied, which bfloat16 holds exactly;
scales meet the sums, zero points the group sums of x. What was checked where: `stated.py`.
"""

import functools

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from reduction.kernels import accelerator
from reduction.kernels.accelerator import chunk, pieces, scale_and_zero, words
from reduction.qtensor import QTensor, Scheme, pack, unpack

LEAST = 64  # rows of a group: of fewer int4, a row is too short to lie swizzled
FEW = 64  # rows of x; with more, weights become floats once and are multiplied as such
SIDE = 64  # columns of the weight in one wgmma, of a warpgroup
COLUMNS = 2 * SIDE  # of a block, which has two of these
TILE = 64  # rows of x at a time, each piece of a row for itself
STAGES = 4  # blocks in shared memory, of which all but one are on their way
SPLIT = 24  # with so few rows of x the rows of a weight are shared out among blocks
PARTS = 4  # at most
BLOCKS = 2 * 132  # of two an H100's multiprocessor holds at a time
MANY = 32  # chunks, from which on filling up to PARTS costs little


class GpuWeight(struct.PyTreeNode):
  """A packed weight [rows, columns] as the kernel reads it, columns first, filled up to blocks.

  data: uint8 [columns, rows / 2], codes less 8 as signed nibbles, the low one first.
  scales: int32 [rows / chunk, columns], `accelerator.words`.
  """

  data: jax.Array
  scales: jax.Array
  scheme: Scheme = struct.field(pytree_node=False)
  rows: int = struct.field(pytree_node=False)
  columns: int = struct.field(pytree_node=False)

  @property
  def shape(self) -> tuple[int, int]:
    """That of the weight."""
    return self.rows, self.columns


def takes(kernel: QTensor) -> bool:
  """Whether there is a kernel for such a weight: 4 bits, groups of a multiple of 64 rows or one."""
  good = kernel.scheme.bits == 4 and accelerator.takes(kernel)
  return good and chunk(kernel.scheme, kernel.rows) >= LEAST


def hopper() -> bool:
  """Whether the GPU here is one that the kernel is written for."""
  return str(getattr(jax.devices()[0], 'compute_capability', '')).startswith('9.')


# Reference


def dequantized(weight: GpuWeight, dtype=jnp.float32) -> jax.Array:
  """The weight [rows, columns] in floats."""
  codes = unpack(weight.data, 4, 2 * weight.data.shape[1], axis=-1).T ^ 8
  scale, zero = scale_and_zero(weight.scales)
  by_row = lambda values: jnp.repeat(values, len(codes) // len(values), 0)
  w = (codes.astype(jnp.float32) - by_row(zero)) * by_row(scale)
  return w[: weight.rows, : weight.columns].astype(dtype)


# Kernel


def _kernel(
  x_hbm,  # [rows of x, rows] bfloat16
  codes_hbm,  # [columns, rows] int4, less 8
  scales_hbm,  # [rows / step, columns] int32
  sums_hbm,  # [rows / step, rows of x] float32, of x over chunks
  y_hbm,  # [parts, columns, rows of x] float32
  y_smem,  # [2, 64, block_m] float32
  *staged,  # [2, 64, step] bfloat16 where interpreted
  step,
  chunks,
  block_m,
):
  i, j, part = (lax.axis_index(name) for name in ('rows', 'columns', 'part'))
  group = lax.axis_index('group')
  mine = pl.ds(group * SIDE, SIDE)
  across = lambda column: lax.broadcast_in_dim(column, (SIDE, block_m), (0,))

  def product(total, codes, x_smem):
    if staged:  # the emulator takes this operand from shared memory alone
      staged[0][group] = codes
      plgpu.commit_smem()
      codes = staged[0].at[group]
    plgpu.wgmma(total, codes, x_smem.T)
    return total[...]  # once it is done

  def one(_, x_smem, codes_smem, scales_smem, sums_smem, y):
    scale, zero = scale_and_zero(scales_smem[0, mine])
    of_x = lax.broadcast_in_dim(sums_smem[0], (SIDE, block_m), (1,))
    codes = codes_smem[mine].astype(jnp.bfloat16)
    sums = pl.run_scoped(
      lambda total: product(total, codes, x_smem), plgpu.ACC((SIDE, block_m), jnp.float32)
    )
    return y + across(scale) * (sums - across(zero - 8.0) * of_x)

  def context(run):
    zeros = jnp.zeros((SIDE, block_m), jnp.float32)
    y_smem[group] = run(plgpu.layout_cast(zeros, plgpu.Layout.WGMMA))
    plgpu.commit_smem()
    columns = pl.ds(j * COLUMNS + group * SIDE, SIDE)
    place = y_hbm.at[part, columns, pl.ds(i * block_m, block_m)]
    plgpu.copy_smem_to_gmem(y_smem.at[group], place)
    plgpu.wait_smem_to_gmem(0)

  at = lambda k: part * chunks + k
  of_x, of_codes = _swizzled(16, 64), _swizzled(4, step)
  pipeline = plgpu.emit_pipeline_warp_specialized(
    one, grid=(chunks,), wg_axis='group', num_compute_wgs=2, memory_registers=40,
    max_concurrent_steps=min(STAGES, chunks), compute_context=context,
    in_specs=[
      plgpu.BlockSpec((block_m, step), lambda k: (i, at(k)), transforms=of_x),
      plgpu.BlockSpec((COLUMNS, step), lambda k: (j, at(k)), transforms=of_codes),
      plgpu.BlockSpec((1, COLUMNS), lambda k: (at(k), j)),
      plgpu.BlockSpec((1, block_m), lambda k: (at(k), i)),
    ],
  )  # fmt: skip
  pipeline(x_hbm, codes_hbm, scales_hbm, sums_hbm)


def _swizzled(bits, width):
  """How rows of so many values lie in shared memory, without conflicts of its banks."""
  swizzle = plgpu.find_swizzle(width * bits)
  return plgpu.TilingTransform((8, swizzle * 8 // bits)), plgpu.SwizzleTransform(swizzle)


# Wrapper


def prepacked(kernel: QTensor) -> GpuWeight:
  """The weight in the order of the kernel."""
  scheme, (rows, columns) = kernel.scheme, kernel.shape
  deep, wide = filled(rows, columns, chunk(scheme, rows))
  codes = unpack(kernel.data, 4, rows) ^ 8
  codes = jnp.pad(codes, ((0, deep - rows), (0, wide - columns)))
  data = pack(codes.T, 4, axis=-1)
  return GpuWeight(data, words(kernel, deep, wide), scheme, rows, columns)


def matmul(x, weight: GpuWeight, *, interpret=None) -> jax.Array:
  """x [..., rows] times the weight, of x's type; sums in float32.

  A float32 x is three bfloat16 of which it is the sum, a float16 two: more rows, nothing lost.
  interpret: of `plgpu.kernel`.
  """
  step, flat = chunk(weight.scheme, weight.rows), x.reshape(-1, x.shape[-1])
  stacked = jnp.concatenate(exact := pieces(flat))
  count, (deep, wide) = len(stacked), filled(*weight.shape, step)
  block_m = min(-(-count // 8) * 8, TILE)
  stacked = jnp.pad(stacked, ((0, -count % block_m), (0, deep - weight.rows)))
  sums = stacked.astype(jnp.float32).reshape(len(stacked), -1, step).sum(-1).T
  parts = split(count, deep // step, wide)
  codes = lax.bitcast_convert_type(weight.data, jnp.int4).reshape(wide, deep)
  body = functools.partial(_kernel, step=step, chunks=deep // step // parts, block_m=block_m)
  call = plgpu.kernel(
    body,
    out_type=jax.ShapeDtypeStruct((parts, wide, len(stacked)), jnp.float32),
    grid=(len(stacked) // block_m, wide // COLUMNS, parts),
    grid_names=('rows', 'columns', 'part'),
    num_threads=3,
    thread_name='group',
    interpret=interpret,
    compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup),
    scratch_types=[plgpu.SMEM((2, SIDE, block_m), jnp.float32)]
    + [plgpu.SMEM((2, SIDE, step), jnp.bfloat16)] * bool(interpret),
  )
  y = call(stacked, codes, weight.scales, sums).sum(0).T[:count, : weight.columns]
  y = y.reshape(len(exact), len(flat), -1).sum(0)
  return y.reshape(*x.shape[:-1], -1).astype(x.dtype)


# Tuning


def filled(rows: int, columns: int, step: int) -> tuple[int, int]:
  """Rows and columns of whole blocks."""
  chunks = -(-rows // step)
  if chunks >= MANY:
    chunks = -(-chunks // PARTS) * PARTS
  return chunks * step, -(-columns // COLUMNS) * COLUMNS


def split(count: int, chunks: int, wide: int) -> int:
  """Parts of a weight's rows, so that few rows of x keep all multiprocessors busy."""
  most = PARTS if count <= SPLIT else 1
  wanted = min(most, -(-BLOCKS * COLUMNS // wide))
  return max(parts for parts in range(1, wanted + 1) if chunks % parts == 0)
