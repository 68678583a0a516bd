"""Products with packed weights on a CPU, in C++: see cpu/packed.h for layout and sums."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from reduction.kernels import native
from reduction.qtensor import QTensor, Scheme, unpack

UNIT = 64  # rows that are packed together: a group has a multiple, or a half
TILE = 8  # columns that lie together
BITS = 3, 4, 8
SCALES = 'float16', 'float32'  # as they are kept; others become float32


class CpuWeight(struct.PyTreeNode):
  """A packed weight [rows, columns] as the kernel reads it, eight columns together: of a table, its
  words.

  data: uint8 [tiles, units * 64 * bits], in the order of cpu/packed.h. scale: of SCALES [tiles,
  groups, 8]; zero: uint8 like it. fill: columns that the last tile lacks. eight: whether x is
  rounded to 8 bits in each group of rows (A8), or to 16, which is finer than bfloat16 (A16).
  """

  data: jax.Array
  scale: jax.Array
  zero: jax.Array
  scheme: Scheme = struct.field(pytree_node=False)
  rows: int = struct.field(pytree_node=False)
  fill: int = struct.field(pytree_node=False, default=0)
  eight: bool = struct.field(pytree_node=False, default=False)

  @property
  def shape(self) -> tuple[int, int]:
    """That of the weight."""
    return self.rows, len(self.data) * TILE - self.fill

  @property
  def size(self) -> int:
    """Rows of a group, with those that fill up a lone one."""
    return _size(self.scheme, self.rows)

  @property
  def most(self) -> int:
    """Rows of x that the kernel multiplies faster than XLA does with the weight in floats; measured
    with AVX2 and AVX-512 (configs/bench, by_rows), a guess elsewhere."""
    if not native.has('avx2'):
      return 64
    return 2_048 if native.has('avx512bw') else 1_024 if self.eight else 256


def takes(kernel: QTensor) -> bool:
  """Whether there is a kernel for such a weight: of one group of 64 rows or more, or of groups of
  32 or a multiple of 64."""
  scheme = kernel.scheme
  good = scheme.bits in BITS and scheme.group != 'tensor' and kernel.data.ndim == 2
  size, small = _size(scheme, kernel.rows), kernel.rows < UNIT  # which would be filled up to twice
  return good and not small and (size % UNIT == 0 or size == UNIT // 2)


def _size(scheme, rows):
  lone = scheme.groups(rows) == 1
  return -(-rows // UNIT) * UNIT if lone else scheme.size(rows)


def prepacked(kernel: QTensor) -> CpuWeight:
  """The weight in the order of the kernel; rows that fill up its last group stand for 0."""
  scheme, rows = dataclasses.replace(kernel.scheme, axis=-2), kernel.rows
  turned = (lambda part: part.T) if kernel.scheme.axis == -1 else (lambda part: part)
  data, scale = turned(kernel.data), turned(kernel.scale)
  size, groups, columns = _size(scheme, rows), scheme.groups(rows), data.shape[1]
  middle = kernel.zero is None
  zero = jnp.full(scale.shape, scheme.middle, jnp.uint8) if middle else turned(kernel.zero)
  codes = unpack(data, scheme.bits, rows)
  filled = jnp.broadcast_to(zero[-1], (groups * size - rows, columns))
  half = jnp.zeros((-groups * size % UNIT, columns), jnp.uint8)  # of no group
  fill = -columns % TILE
  codes, scale, zero = (
    jnp.pad(part, ((0, 0), (0, fill))).reshape(len(part), -1, TILE)
    for part in (jnp.concatenate([codes, filled, half]), scale, zero)
  )  # [rows or groups, tiles, 8]
  eights = codes.reshape(-1, 8, 8, *codes.shape[1:]).transpose(3, 0, 1, 4, 2)
  data = _vectors(eights, scheme.bits).reshape(codes.shape[1], -1)
  scale = scale if str(scale.dtype) in SCALES else scale.astype(jnp.float32)
  by_tile = lambda part: part.transpose(1, 0, 2)
  return CpuWeight(data, by_tile(scale), by_tile(zero), scheme, rows, fill)


def matmul(x, weight: CpuWeight) -> jax.Array:
  """x [..., rows] times the weight, of x's type; sums in float32."""
  flat = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
  like = jax.ShapeDtypeStruct((len(flat), weight.shape[1]), jnp.float32)
  how = dict(bits=weight.scheme.bits, size=weight.size, eight=weight.eight)
  call = jax.ffi.ffi_call('reduction_packed_product', like, vmap_method='sequential')
  y = call(flat, weight.data, weight.scale, weight.zero, threads=native.threads(), **how)
  return y.reshape(*x.shape[:-1], -1).astype(x.dtype)


def looked_up(weight: CpuWeight, words) -> jax.Array:
  """Columns of the weight, float32 [*words.shape, rows]: the words of a table."""
  flat, bits, size = words.reshape(-1), weight.scheme.bits, weight.size
  tile, place = flat // TILE, flat % TILE
  data = weight.data.reshape(len(weight.data), -1, bits, TILE, 8)[tile, ..., place, :]
  groups = weight.scale.shape[1]
  codes = _eights(data, bits).reshape(len(flat), -1)[:, : groups * size].reshape(
    len(flat), groups, size
  )
  scale, zero = (part[tile, :, place, None] for part in (weight.scale, weight.zero))
  w = (codes.astype(jnp.float32) - zero) * scale.astype(jnp.float32)
  return w.reshape(len(flat), -1)[:, : weight.rows].reshape(*words.shape, -1)


def dequantized(weight: CpuWeight, dtype=jnp.float32) -> jax.Array:
  """The weight [rows, columns] in floats."""
  tiles, groups, _ = weight.scale.shape
  bits = weight.scheme.bits
  codes = _eights(weight.data.reshape(tiles, -1, bits, TILE, 8), bits)  # [tiles, units, 8, 8, 8]
  codes = codes.transpose(1, 2, 4, 0, 3).reshape(-1, tiles * TILE).astype(jnp.float32)
  size = weight.size
  codes = codes[: groups * size].reshape(groups, size, -1)
  by_row = lambda part: part.transpose(1, 0, 2).reshape(groups, 1, -1).astype(jnp.float32)
  w = (codes - by_row(weight.zero)) * by_row(weight.scale)
  rows, columns = weight.shape
  return w.reshape(-1, tiles * TILE)[:rows, :columns].astype(dtype)


def _vectors(eights, bits: int):
  """Codes [n, units, 8, ...], eight rows of a unit after another, as cpu/packed.h packs them."""
  v = [eights[:, :, i] for i in range(8)]
  if bits == 8:
    return eights
  if bits == 4:
    return jnp.stack([low | high << 4 for low, high in zip(v[::2], v[1::2])], 2)
  a, b, c = (low | high << 3 for low, high in zip(v[:6:2], v[1:6:2]))
  high = (v[6] & 4) << 4 | (v[7] & 4) << 5
  return jnp.stack([a | (v[6] & 3) << 6, b | (v[7] & 3) << 6, c | high], 2)


def _eights(vectors, bits: int):
  """The codes [n, units, 8, ...] of `_vectors` [n, units, bits, ...]."""
  v = [vectors[:, :, i] for i in range(bits)]
  if bits == 8:
    return vectors
  if bits == 4:
    return jnp.stack([part for two in v for part in (two & 15, two >> 4)], 2)
  made = [part for two in v for part in (two & 7, two >> 3 & 7)]
  made += [v[0] >> 6 | (v[2] >> 4 & 4), v[1] >> 6 | (v[2] >> 5 & 4)]
  return jnp.stack(made, 2)
