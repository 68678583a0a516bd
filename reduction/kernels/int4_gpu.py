"""Products with packed weights on NVIDIA's Hopper, in Pallas (Mosaic GPU): 1 to 64 rows.

64 columns of the weight are the long side of wgmma, in registers, and the rows of x its short one,
so that 8 rows waste nothing. The codes themselves are multiplied, which bfloat16 holds exactly;
scales meet the sums, zero points the group sums of x. A block is one warpgroup that waits for its
own copies and products: with few registers each, a multiprocessor holds several, and while one
waits the others work. What was checked where: `stated.py`.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from reduction.kernels.accelerator import Ordered, chunk, pieces, scale_and_zero, takes, words
from reduction.qtensor import QTensor, pack, unpack

VIEWED = 64  # rows of a chunk: of fewer, a row of int4 is too short to lie swizzled
WORDS, PIECES = 16, 8  # of a row in shared memory, of which each piece takes one code a word
STEP = {3: 2 * PIECES * WORDS, 4: PIECES // 2 * WORDS}  # rows in words at a time
__all__ = ['GpuWeight', 'dequantized', 'hopper', 'matmul', 'prepacked', 'takes']
FEW = 64  # rows of x; with more, weights become floats once and are multiplied as such
SIDE = 64  # columns of the weight in one wgmma, which are those of a block
TILE = 64  # rows of x at a time, each piece of a row for itself
STAGES = 2  # in shared memory, one on its way: more leave room for fewer blocks
SPLIT = 24  # with so few rows of x the rows of a weight are shared out among most blocks
PARTS = 8  # at most; with more rows two
BLOCKS = 16 * 132  # wanted: of those of few rows an H100's multiprocessor holds eight at a time
MANY, EVEN = 32, 4  # so many steps are filled up to a multiple, which costs little
ALIGNED = 32  # floats: a copy into shared memory begins at a multiple of 128 bytes


class GpuWeight(Ordered):
  """A packed weight [rows, columns] as the kernel reads it, columns first, filled up to blocks.

  planes: 4 bits: (uint8 [columns, rows / 2],), codes less 8 as signed nibbles, the low one first;
    of chunks of 32: (uint16 [columns, rows / 4],), row 64s + 16i + j at bit 4i of word 16s + j.
    3 bits: uint16, the low two of each code [columns, rows / 8], the high one [columns, rows / 16];
    of row 256s + 128h + 16i + j at bit 2i of word 32s + 16h + j, and at bit 8h + i of word 16s + j.
  scales: int32 [rows / chunk, columns], `accelerator.words`.
  """

  most = FEW


def hopper() -> bool:
  """Whether the GPU here is one that the kernel is written for."""
  return str(getattr(jax.devices()[0], 'compute_capability', '')).startswith('9.')


# Reference


def dequantized(weight: GpuWeight, dtype=jnp.float32) -> jax.Array:
  """The weight [rows, columns] in floats."""
  columns, (h, i) = len(weight.planes[0]), _hi()
  if is_viewed(weight.scheme, weight.rows):
    codes = (unpack(weight.planes[0], 4, 2 * weight.planes[0].shape[1], axis=-1) ^ 8).T
  elif weight.scheme.bits == 4:
    codes = weight.planes[0].reshape(columns, -1, 1, WORDS) >> 4 * i[:4] & 15
    codes = codes.reshape(columns, -1).T
  else:
    low = weight.planes[0].reshape(columns, -1, 2, 1, WORDS)  # s, h, i, j
    high = weight.planes[1].reshape(columns, -1, 1, 1, WORDS)
    codes = (low >> 2 * i & 3 | (high >> 8 * h + i & 1) << 2).reshape(columns, -1).T
  scale, zero = scale_and_zero(weight.scales)
  by_row = lambda values: jnp.repeat(values, len(codes) // len(values), 0)
  w = (codes.astype(jnp.float32) - by_row(zero)) * by_row(scale)
  return w[: weight.rows, : weight.columns].astype(dtype)


def _hi():
  return jnp.arange(2, dtype=jnp.uint16)[:, None, None], jnp.arange(8, dtype=jnp.uint16)[:, None]


# Kernel


def _piece(planes, at):
  """Piece at of 16 codes less 128, which is 0 in a bfloat16 whose last bits they are, [64, 16].

  planes: words of one piece's rows, uint16 [64, 16]: of codes, or of their low and high bits.
  """
  word = jnp.uint16
  if len(planes) == 1:
    codes = (planes[0] >> word(4 * at)) & word(15)
  else:
    low, high = planes
    codes = (low >> word(2 * (at % PIECES))) & word(3) | ((high >> word(at)) & word(1)) << word(2)
  return lax.bitcast_convert_type(codes | word(0x4300), jnp.bfloat16) - jnp.bfloat16(128)


def _kernel(
  x_hbm,  # [rows of x, rows] bfloat16
  *refs,  # planes, columns first; scales [rows / chunk, columns]; float32 sums of x over chunks
  # [rows / chunk, `aligned` rows of x]; y [parts, columns, rows of x] float32; y [64, block_m] in
  # shared memory, and there bfloat16 [pieces, 64, width] where interpreted
  bits,
  viewed,  # whether codes come as int4
  size,
  step,
  steps,
  block_m,
):
  planes, (scales_hbm, sums_hbm, y_hbm, y_smem, *staged) = refs[: 5 - bits], refs[5 - bits :]
  i, j, part = (lax.axis_index(name) for name in ('rows', 'columns', 'part'))
  across = lambda column: lax.broadcast_in_dim(column, (SIDE, block_m), (0,))
  chunks, width = step // size, step if viewed else WORDS

  def codes_of(planes, at):
    if viewed:
      return planes[0][...].astype(jnp.bfloat16)
    rows = planes if bits == 4 else (planes[at // PIECES], planes[2])
    return _piece([plane[...] for plane in rows], at)

  def product(total, planes, x_smem, pieces):
    for at in pieces:
      codes = codes_of(planes, at)
      if staged:  # the emulator takes this operand from shared memory alone
        staged[0][at] = codes
        plgpu.commit_smem()
        codes = staged[0].at[at]
      of_x = x_smem.at[:, pl.ds(at * width, width)]
      plgpu.wgmma(total, codes, of_x.T)
    return total[...]  # once all are done

  def one(_, x_smem, *refs):
    *planes, scales_smem, sums_smem, y = refs
    for at in range(chunks):
      # read after the product, the emulator finds the copies of a later step in their way
      scale, zero = scale_and_zero(scales_smem[at])
      of_x = lax.broadcast_in_dim(sums_smem[at, pl.ds(0, block_m)], (SIDE, block_m), (1,))
      pieces = range(at * size // width, (at + 1) * size // width)
      sums = pl.run_scoped(
        functools.partial(product, planes=planes, x_smem=x_smem, pieces=pieces),
        plgpu.ACC((SIDE, block_m), jnp.float32),
      )
      y = y + across(scale) * (sums - across(zero - (8.0 if viewed else 0.0)) * of_x)
    return y

  at = lambda k: part * steps + k
  spec = lambda shape, index, swizzle: plgpu.BlockSpec(shape, index, transforms=swizzled(*swizzle))
  x_spec = spec((block_m, step), lambda k: (i, at(k)), (16, 64 if viewed else WORDS))
  if viewed:
    specs = [spec((SIDE, step), lambda k: (j, at(k)), (4, step))]
  elif bits == 4:
    specs = [spec((SIDE, WORDS), lambda k: (j, at(k)), (16, WORDS))]
  else:  # rows of low bits come as two halves, each as wide as the high ones
    planes = planes[0], *planes
    places = lambda k: (j, 2 * at(k)), lambda k: (j, 2 * at(k) + 1), lambda k: (j, at(k))
    specs = [spec((SIDE, WORDS), place, (16, WORDS)) for place in places]
  pipeline = plgpu.emit_pipeline(
    one, grid=(steps,), max_concurrent_steps=min(STAGES, steps),
    init_carry=plgpu.layout_cast(jnp.zeros((SIDE, block_m), jnp.float32), plgpu.Layout.WGMMA),
    in_specs=[
      x_spec,
      *specs,
      plgpu.BlockSpec((chunks, SIDE), lambda k: (at(k), j)),
      plgpu.BlockSpec((chunks, aligned(block_m)), lambda k: (at(k), i)),
    ],
  )  # fmt: skip
  y_smem[...] = pipeline(x_hbm, *planes, scales_hbm, sums_hbm)
  plgpu.commit_smem()
  place = y_hbm.at[part, pl.ds(j * SIDE, SIDE), pl.ds(i * block_m, block_m)]
  plgpu.copy_smem_to_gmem(y_smem, place)
  plgpu.wait_smem_to_gmem(0)


def swizzled(bits, width):
  """How rows of so many values lie in shared memory, without conflicts of its banks."""
  swizzle = plgpu.find_swizzle(width * bits)
  return plgpu.TilingTransform((8, swizzle * 8 // bits)), plgpu.SwizzleTransform(swizzle)


# Wrapper


def prepacked(kernel: QTensor) -> GpuWeight:
  """The weight in the order of the kernel."""
  scheme, (rows, columns) = kernel.scheme, kernel.shape
  deep, wide = filled(rows, columns, step_of(scheme, rows))
  codes = unpack(kernel.data, scheme.bits, rows)
  codes, (h, i) = jnp.pad(codes, ((0, deep - rows), (0, wide - columns))).T, _hi()
  if is_viewed(scheme, rows):
    planes = (pack(codes ^ 8, 4, axis=-1),)
  elif scheme.bits == 4:
    codes = codes.astype(jnp.uint16).reshape(wide, -1, 4, WORDS)  # s, i, j
    planes = ((codes << 4 * i[:4]).sum(2, dtype=jnp.uint16).reshape(wide, -1),)
  else:
    codes = codes.astype(jnp.uint16).reshape(wide, -1, 2, PIECES, WORDS)  # s, h, i, j
    low = ((codes & 3) << 2 * i).sum(3, dtype=jnp.uint16)
    high = (codes >> 2 << 8 * h + i).sum((2, 3), dtype=jnp.uint16)
    planes = low.reshape(wide, -1), high.reshape(wide, -1)
  return GpuWeight(planes, words(kernel, deep, wide), scheme, rows, columns)


def is_viewed(scheme, rows):
  """Whether codes are seen as int4, or else unpacked from words."""
  return scheme.bits == 4 and chunk(scheme, rows) >= VIEWED


def step_of(scheme, rows):
  """Rows of a weight in a block."""
  return chunk(scheme, rows) if is_viewed(scheme, rows) else STEP[scheme.bits]


@functools.partial(jax.jit, static_argnames='interpret')  # traced once for layers of one size
def matmul(x, weight: GpuWeight, *, interpret=None) -> jax.Array:
  """x [..., rows] times the weight, of x's type; sums in float32.

  A float32 x is three bfloat16 of which it is the sum, a float16 two: more rows, nothing lost.
  interpret: of `plgpu.kernel`.
  """
  size, step = chunk(weight.scheme, weight.rows), step_of(weight.scheme, weight.rows)
  flat = x.reshape(-1, x.shape[-1])
  stacked = jnp.concatenate(exact := pieces(flat))
  count, (deep, wide) = len(stacked), filled(*weight.shape, step)
  block_m = min(-(-count // 8) * 8, most_rows(weight.scheme.bits, size))
  stacked = jnp.pad(stacked, ((0, -count % block_m), (0, deep - weight.rows)))
  sums = stacked.astype(jnp.float32).reshape(-1, block_m, deep // size, size).sum(-1)
  sums = jnp.pad(sums, ((0, 0), (0, aligned(block_m) - block_m), (0, 0)))
  sums = sums.reshape(-1, deep // size).T
  parts = split(count, deep // step, wide)
  planes, width = weight.planes, WORDS
  if viewed := is_viewed(weight.scheme, weight.rows):
    planes, width = (lax.bitcast_convert_type(planes[0], jnp.int4).reshape(wide, deep),), step
  body = functools.partial(
    _kernel, bits=weight.scheme.bits, viewed=viewed, size=size, step=step,
    steps=deep // step // parts, block_m=block_m,
  )  # fmt: skip
  call = plgpu.kernel(
    body,
    out_type=jax.ShapeDtypeStruct((parts, wide, len(stacked)), jnp.float32),
    grid=(len(stacked) // block_m, wide // SIDE, parts),
    grid_names=('rows', 'columns', 'part'),
    interpret=interpret,
    compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup),
    scratch_types=[plgpu.SMEM((SIDE, block_m), jnp.float32)]
    + [plgpu.SMEM((step // width, SIDE, width), jnp.bfloat16)] * bool(interpret),
  )
  y = call(stacked, *planes, weight.scales, sums).sum(0).T[:count, : weight.columns]
  y = y.reshape(len(exact), len(flat), -1).sum(0)
  return y.reshape(*x.shape[:-1], -1).astype(x.dtype)


# Tuning


def filled(rows: int, columns: int, step: int) -> tuple[int, int]:
  """Rows and columns of whole blocks."""
  steps = -(-rows // step)
  if steps >= MANY:
    steps = -(-steps // EVEN) * EVEN
  return steps * step, -(-columns // SIDE) * SIDE


def most_rows(bits: int, size: int) -> int:
  """Rows of x at a time: with more, codes of three words and many scales spill registers."""
  return TILE if bits == 4 or size > 32 else TILE // 2


def aligned(count: int) -> int:
  """Floats of a row in shared memory, of which count are used."""
  return -(-count // ALIGNED) * ALIGNED


def split(count: int, steps: int, wide: int) -> int:
  """Parts of a weight's rows, so that few rows of x keep all multiprocessors busy."""
  most = PARTS if count <= SPLIT else 2
  wanted = min(most, -(-BLOCKS * SIDE // wide))
  return max(parts for parts in range(1, wanted + 1) if steps % parts == 0)
