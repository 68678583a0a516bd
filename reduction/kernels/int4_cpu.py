"""Products with packed weights on a CPU, in C++: see cpu/packed.h for layout and sums."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from reduction.kernels import native
from reduction.qtensor import QTensor, Scheme, unpack

UNIT = 64  # rows that are packed together: a group has a multiple
MOST = {3: 32_768, 4: 32_768, 8: 2_048}  # bits -> rows of a group: their sums have 32 bits
SCALES = 'float16', 'float32'  # as they are kept; others become float32


class CpuWeight(struct.PyTreeNode):
  """A packed weight [rows, columns] as the kernel reads it, columns first: of a table, its words.

  data: uint8 [columns, groups * size * bits / 8], 64 rows in the order of cpu/packed.h. scale: of
  SCALES [columns, groups]; zero: uint8 like it. eight: whether x is rounded to 8 bits in each group
  of rows (A8), or to 16, which is finer than bfloat16 (A16).
  """

  data: jax.Array
  scale: jax.Array
  zero: jax.Array
  scheme: Scheme = struct.field(pytree_node=False)
  rows: int = struct.field(pytree_node=False)
  eight: bool = struct.field(pytree_node=False, default=False)

  @property
  def shape(self) -> tuple[int, int]:
    """That of the weight."""
    return self.rows, len(self.data)


def takes(kernel: QTensor) -> bool:
  """Whether there is a kernel for such a weight."""
  scheme = kernel.scheme
  good = scheme.bits in MOST and scheme.group != 'tensor' and kernel.data.ndim == 2
  size = scheme.size(kernel.rows)
  return good and size % UNIT == 0 and size <= MOST[scheme.bits]


def prepacked(kernel: QTensor) -> CpuWeight:
  """The weight in the order of the kernel; rows that fill up its last group stand for 0."""
  scheme, rows = dataclasses.replace(kernel.scheme, axis=-2), kernel.rows
  turned = (lambda part: part.T) if kernel.scheme.axis == -1 else (lambda part: part)
  data, scale = turned(kernel.data), turned(kernel.scale)
  size, groups, columns = scheme.size(rows), scheme.groups(rows), data.shape[1]
  middle = kernel.zero is None
  zero = jnp.full(scale.shape, scheme.middle, jnp.uint8) if middle else turned(kernel.zero)
  codes = unpack(data, scheme.bits, rows)
  filled = jnp.broadcast_to(zero[-1], (groups * size - rows, columns))
  codes = jnp.concatenate([codes, filled]).reshape(-1, UNIT, columns)  # [units, 64, columns]
  if scheme.bits == 8:
    data = codes
  elif scheme.bits == 4:
    data = codes[:, :32] | codes[:, 32:] << 4
  else:
    data = jnp.concatenate([_packed(codes & 3, 2, apart=16), _packed(codes >> 2, 1, apart=1)], 1)
  data = data.transpose(2, 0, 1).reshape(columns, -1)
  scale = scale if str(scale.dtype) in SCALES else scale.astype(jnp.float32)
  return CpuWeight(data, scale.T, zero.T, scheme, rows)


def matmul(x, weight: CpuWeight) -> jax.Array:
  """x [..., rows] times the weight, of x's type; sums in float32."""
  flat = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
  like = jax.ShapeDtypeStruct((len(flat), len(weight.data)), jnp.float32)
  how = dict(bits=weight.scheme.bits, size=weight.scheme.size(weight.rows), eight=weight.eight)
  call = jax.ffi.ffi_call('reduction_packed_product', like)
  y = call(flat, weight.data, weight.scale, weight.zero, threads=native.threads(), **how)
  return y.reshape(*x.shape[:-1], -1).astype(x.dtype)


def looked_up(weight: CpuWeight, words) -> jax.Array:
  """Columns of the weight, float32 [*words.shape, rows]: the words of a table."""
  flat = words.reshape(-1)
  data, scale, zero = (part[flat] for part in (weight.data, weight.scale, weight.zero))
  some = weight.replace(data=data, scale=scale, zero=zero)
  return dequantized(some).T.reshape(*words.shape, -1)


def dequantized(weight: CpuWeight, dtype=jnp.float32) -> jax.Array:
  """The weight [rows, columns] in floats."""
  columns, groups = weight.scale.shape
  bits = weight.scheme.bits
  data = weight.data.reshape(columns, -1, UNIT * bits // 8).transpose(1, 2, 0)
  if bits == 8:
    codes = data
  elif bits == 4:
    codes = jnp.concatenate([data & 15, data >> 4], 1)
  else:
    codes = _codes(data[:, :16], 2, apart=16) | _codes(data[:, 16:], 1, apart=1) << 2
  by_row = lambda values: values.T[:, None].astype(jnp.float32)
  codes = codes.reshape(groups, -1, columns).astype(jnp.float32)
  w = (codes - by_row(weight.zero)) * by_row(weight.scale)
  return w.reshape(-1, columns)[: weight.rows].astype(dtype)


def _packed(codes, bits, apart):
  """Codes [units, 64, columns] in bytes, lowest first, those of a byte so many rows apart."""
  units, _, columns = codes.shape
  many = 8 // bits
  parts = codes.reshape(units, -1, many, apart, columns)
  shifts = bits * jnp.arange(many, dtype=jnp.uint8)[:, None, None]
  return (parts << shifts).sum(2, dtype=jnp.uint8).reshape(units, -1, columns)


def _codes(data, bits, apart):
  """The codes that `_packed` packed."""
  units, _, columns = data.shape
  many = 8 // bits
  shifts = bits * jnp.arange(many, dtype=jnp.uint8)[:, None, None]
  parts = data.reshape(units, -1, 1, apart, columns) >> shifts & (2**bits - 1)
  return parts.reshape(units, UNIT, columns)
