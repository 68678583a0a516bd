"""Products with packed weights on a TPU, in Pallas: 4 and 3 bits, 1 to 64 rows of x.

The MXU multiplies by the codes themselves, which bfloat16 holds exactly: 128 rows of the weight at
a time become nibbles by masks of whole words, then bfloat16 by one reinterpretation as int4. Scales
meet the sums, zero points the group sums of x. What was checked where: `stated.py`.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from reduction.kernels.accelerator import (
  LANES,
  Ordered,
  chunk,
  pieces,
  scale_and_zero,
  takes,
  words,
)
from reduction.qtensor import QTensor, unpack

__all__ = ['TpuWeight', 'dequantized', 'filled', 'matmul', 'prepacked', 'takes', 'tiles']
FEW = 64  # rows of x; with more, weights become floats once and are multiplied as such
TILE = 128  # rows of x at a time, each piece of a row for itself, or fewer, whose block takes
BLOCK = 2**22  # bytes at most: it is in VMEM twice, beside the weight's, in v5e's 16 MiB
DEEP = 4096, 2048, 1024  # rows of the weight at a time, where they divide all
WIDE = 512, 256  # columns of it, and where all rows are taken at once
WHOLE = 12288  # up to so many rows are taken at once where they do not


class TpuWeight(Ordered):
  """A packed weight [rows, columns] as the kernel reads it, filled up to blocks with code 0.

  planes: int32 words. 4 bits: [rows / 8, columns], whose nibble i in word r is code 8r + i less 8,
    a signed one. 3 bits: the low two of each code [rows / 16, columns], the high one [rows / 32,
    columns]; of row 256p + 128h + 64t + 8r + i at bit 4i + 2t of word 16p + 8h + r, and at bit
    4i + 2h + t of word 8p + r.
  scales: int32 [rows / chunk, columns], `accelerator.words`.
  """

  most = FEW


# Reference


def dequantized(weight: TpuWeight, dtype=jnp.float32) -> jax.Array:
  """The weight [rows, columns] in floats."""
  columns = weight.scales.shape[1]
  if weight.scheme.bits == 4:
    codes = (weight.planes[0][:, None] >> 4 * _axis(8, 1, 3) & 15) ^ 8
  else:
    low = weight.planes[0].reshape(-1, 2, 1, 8, 1, columns)  # p, h, t, r, i
    high = weight.planes[1].reshape(-1, 1, 1, 8, 1, columns)
    h, t, i = _hti()
    codes = low >> 4 * i + 2 * t & 3 | (high >> 4 * i + 2 * h + t & 1) << 2
  codes = codes.reshape(-1, columns)
  scale, zero = scale_and_zero(weight.scales)
  by_row = lambda values: jnp.repeat(values, len(codes) // len(values), 0)
  w = (codes.astype(jnp.float32) - by_row(zero)) * by_row(scale)
  return w[: weight.rows, : weight.columns].astype(dtype)


def _axis(size, at, axes):
  """0 .. size - 1 along one of so many axes."""
  return jnp.arange(size, dtype=jnp.int32).reshape([size if i == at else 1 for i in range(axes)])


def _hti():
  return _axis(2, 1, 6), _axis(2, 2, 6), _axis(8, 4, 6)


# Kernel


def _codes(planes, g, bits):
  """Rows 128g .. 128g + 127 of a block, bfloat16 [128, block_n]; those of 4 bits less 8."""
  if bits == 4:
    return pltpu.bitcast(planes[0][16 * g : 16 * g + 16, :], jnp.int4).astype(jnp.bfloat16)
  low = planes[0][8 * g : 8 * g + 8, :]
  high = planes[1][g // 2 * 8 : g // 2 * 8 + 8, :]
  halves = []
  for t in range(2):
    top = (high >> (2 * (g % 2) + t)) & 0x11111111
    halves.append(pltpu.bitcast(((low >> (2 * t)) & 0x33333333) | (top << 2), jnp.int4))
  return jnp.concatenate(halves, 0).astype(jnp.bfloat16)


def _kernel(
  x_ref,  # [block_k / 128, parts * block_m, 128] bfloat16, x of one chunk a part, zeros beside it
  sums_ref,  # [block_m, block_k / chunk] float32, of x over chunks
  *refs,  # planes, block_n wide; scales [block_k / chunk, block_n]; y and its sums so far, both
  # [block_m, block_n] float32
  bits,
):
  *planes, scales_ref, y_ref, total_ref = refs
  rows, products = len(sums_ref), len(x_ref)
  parts = x_ref.shape[1] // rows

  @pl.when(pl.program_id(2) == 0)
  def _():
    total_ref[...] = jnp.zeros_like(total_ref)

  total = total_ref[...]
  scale, zero = scale_and_zero(scales_ref[...], pltpu.bitcast)
  for g in range(products):  # unrolled: rows of scales are read at static places only
    product = jnp.dot(x_ref[g], _codes(planes, g, bits), preferred_element_type=jnp.float32)
    for j in range(parts):
      at = g * parts + j
      total += scale[at : at + 1] * product[j * rows : (j + 1) * rows]
  shift = (zero - (8 if bits == 4 else 0)) * scale
  total -= jnp.dot(
    sums_ref[...], shift, preferred_element_type=jnp.float32, precision=lax.Precision.HIGHEST
  )
  total_ref[...] = total

  @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
  def _():
    y_ref[...] = total


# Wrapper


def prepacked(kernel: QTensor) -> TpuWeight:
  """The weight in the order of the kernel."""
  scheme, (rows, columns), bits = kernel.scheme, kernel.shape, kernel.scheme.bits
  deep, wide = filled(rows, columns, bits)
  codes = unpack(kernel.data, bits, rows).astype(jnp.int32)
  codes = jnp.pad(codes, ((0, deep - rows), (0, wide - columns)))
  if bits == 4:
    planes = (_sum((codes ^ 8).reshape(-1, 8, wide) << 4 * _axis(8, 1, 3), (1,)),)
  else:
    codes = codes.reshape(-1, 2, 2, 8, 8, wide)  # p, h, t, r, i
    h, t, i = _hti()
    low = _sum((codes & 3) << 4 * i + 2 * t, (2, 4))
    high = _sum(codes >> 2 << 4 * i + 2 * h + t, (1, 2, 4))
    planes = low.reshape(-1, wide), high.reshape(-1, wide)
  return TpuWeight(planes, words(kernel, deep, wide), scheme, rows, columns)


def _sum(parts, axes):
  """Of words that share no bit."""
  return parts.sum(axes, dtype=jnp.int32)


def matmul(x, weight: TpuWeight, *, interpret=False) -> jax.Array:
  """x [..., rows] times the weight, of x's type; sums in float32.

  A float32 x is three bfloat16 of which it is the sum, a float16 two: more rows, nothing lost.
  interpret: of `pallas_call`.
  """
  scheme, (deep, wide) = weight.scheme, filled(*weight.shape, weight.scheme.bits)
  step, flat = chunk(scheme, weight.rows), x.reshape(-1, x.shape[-1])
  stacked = jnp.concatenate(exact := pieces(flat))
  count, (block_k, block_n) = len(stacked), tiles(deep, wide)
  blocks = -(-count // most_rows(block_k, step))
  block_m = -(-count // (8 * blocks)) * 8
  stacked = jnp.pad(stacked, ((0, blocks * block_m - count), (0, deep - weight.rows)))
  by_step = stacked.astype(jnp.float32).reshape(len(stacked), deep // block_k, -1, step)
  own = _axis(LANES, 1, 2) // step == _axis(LANES // step, 0, 2)  # [parts, lanes]
  parts = stacked.reshape(blocks, 1, block_m, -1, LANES)
  parts = jnp.where(own[:, None, None], parts, 0).transpose(3, 0, 1, 2, 4)
  columns = lambda i, j, k: (k, j)
  call = pl.pallas_call(
    functools.partial(_kernel, bits=scheme.bits),
    grid=(blocks, wide // block_n, deep // block_k),
    in_specs=[
      pl.BlockSpec((block_k // LANES, block_m * len(own), LANES), lambda i, j, k: (k, i, 0)),
      pl.BlockSpec((None, block_m, block_k // step), lambda i, j, k: (k, i, 0)),
      *(pl.BlockSpec((len(p) * block_k // deep, block_n), columns) for p in weight.planes),
      pl.BlockSpec((block_k // step, block_n), columns),
    ],
    out_specs=pl.BlockSpec((block_m, block_n), lambda i, j, k: (i, j)),
    out_shape=jax.ShapeDtypeStruct((len(stacked), wide), jnp.float32),
    scratch_shapes=[pltpu.VMEM((block_m, block_n), jnp.float32)],
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('parallel', 'parallel', 'arbitrary')
    ),
    interpret=interpret,
    name='packed_product',
  )
  y = call(
    parts.reshape(deep // LANES, -1, LANES), by_step.sum(-1).swapaxes(0, 1), *weight.planes,
    weight.scales,
  )[:count, : weight.columns]  # fmt: skip
  y = y.reshape(len(exact), len(flat), -1).sum(0)
  return y.reshape(*x.shape[:-1], -1).astype(x.dtype)


# Tuning


def filled(rows: int, columns: int, bits: int) -> tuple[int, int]:
  """Rows and columns of whole blocks."""
  up = lambda size, to: -(-size // to) * to
  deep = up(rows, LANES if bits == 4 else 2 * LANES)  # a word of high bits holds two products'
  return deep if deep <= WHOLE else up(rows, DEEP[-1]), up(columns, LANES)


def most_rows(block_k: int, step: int) -> int:
  """Rows of x at a time, each beside zeros as often as a product holds chunks of `step` rows."""
  fits = BLOCK // (2 * block_k * (LANES // step))
  return max(8, min(TILE, fits // 8 * 8))


def tiles(deep: int, wide: int) -> tuple[int, int]:
  """Rows and columns of the weight at a time: what is at hand in VMEM while the next is read."""
  block_k = next((b for b in DEEP if deep % b == 0), deep)
  most = WIDE[0] if block_k <= DEEP[0] else WIDE[1]
  return block_k, max(b for b in range(LANES, most + 1, LANES) if wide % b == 0)
