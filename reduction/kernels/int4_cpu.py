"""Products with packed weights on a CPU, in C++: see cpu/packed.cc for layout and sums."""

import jax
import jax.numpy as jnp
from flax import struct

from reduction.qtensor import QTensor, Scheme, pack, unpack

MULTIPLE = 64  # of the rows of a group
BITS = 3, 4


class CpuWeight(struct.PyTreeNode):
  """A packed weight [rows, columns] as the kernel reads it, columns first.

  data: uint8 [columns, groups * size * bits / 8], a group's rows in the order of cpu/packed.cc.
  scale: float32 [columns, groups]; zero: uint8 like it.
  """

  data: jax.Array
  scale: jax.Array
  zero: jax.Array
  scheme: Scheme = struct.field(pytree_node=False)
  rows: int = struct.field(pytree_node=False)

  @property
  def shape(self) -> tuple[int, int]:
    """That of the weight."""
    return self.rows, len(self.data)


def takes(kernel: QTensor) -> bool:
  """Whether there is a kernel for such a weight."""
  scheme = kernel.scheme
  good = scheme.bits in BITS and scheme.axis == -2 and scheme.group != 'tensor'
  return good and kernel.data.ndim == 2 and scheme.size(kernel.rows) % MULTIPLE == 0


def prepacked(kernel: QTensor) -> CpuWeight:
  """The weight in the order of the kernel; rows that fill up its last group stand for 0."""
  scheme, (rows, columns) = kernel.scheme, kernel.shape
  size, groups = scheme.size(rows), scheme.groups(rows)
  zero = kernel.zero
  if zero is None:
    zero = jnp.full(kernel.scale.shape, scheme.middle, jnp.uint8)
  codes = unpack(kernel.data, scheme.bits, rows)
  filled = jnp.broadcast_to(zero[-1], (groups * size - rows, columns))
  codes = jnp.concatenate([codes, filled]).reshape(groups, size, columns)
  planes = [(codes, 4)] if scheme.bits == 4 else [(codes & 3, 2), (codes >> 2, 1)]
  data = jnp.concatenate([_apart(plane, bits) for plane, bits in planes], 1)
  data = data.transpose(2, 0, 1).reshape(columns, -1)
  return CpuWeight(data, kernel.scale.astype(jnp.float32).T, zero.T, scheme, rows)


def matmul(x, weight: CpuWeight) -> jax.Array:
  """x [..., rows] times the weight, of x's type; sums in float32."""
  groups = weight.scale.shape[1]
  size = weight.scheme.size(weight.rows)
  flat = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
  flat = jnp.pad(flat, ((0, 0), (0, groups * size - weight.rows)))
  sums = flat.reshape(len(flat), groups, size).sum(-1)
  like = jax.ShapeDtypeStruct((len(flat), len(weight.data)), jnp.float32)
  call = jax.ffi.ffi_call('reduction_packed_product', like)
  y = call(flat, sums, weight.data, weight.scale, weight.zero, bits=weight.scheme.bits, size=size)
  return y.reshape(*x.shape[:-1], -1).astype(x.dtype)


def dequantized(weight: CpuWeight, dtype=jnp.float32) -> jax.Array:
  """The weight [rows, columns] in floats."""
  columns, groups = weight.scale.shape
  size, bits = weight.scheme.size(weight.rows), weight.scheme.bits
  data = weight.data.reshape(columns, groups, -1).transpose(1, 2, 0)  # [groups, bytes, columns]
  if bits == 4:
    codes = _together(data, 4, size)
  else:
    low = size // 4
    codes = _together(data[:, :low], 2, size) | _together(data[:, low:], 1, size) << 2
  by_row = lambda values: values.T[:, None].astype(jnp.float32)
  w = (codes.astype(jnp.float32) - by_row(weight.zero)) * by_row(weight.scale)
  return w.reshape(groups * size, columns)[: weight.rows].astype(dtype)


def _apart(codes, bits):
  """Codes [groups, size, columns] in bytes: those of a byte are size * bits / 8 rows apart."""
  groups, size, columns = codes.shape
  parts = codes.reshape(groups, 8 // bits, -1, columns).swapaxes(1, 2)
  return pack(parts.reshape(groups, size, columns), bits)


def _together(data, bits, size):
  """The codes that `_apart` packed."""
  groups, _, columns = data.shape
  parts = unpack(data, bits, size).reshape(groups, -1, 8 // bits, columns)
  return parts.swapaxes(1, 2).reshape(groups, size, columns)
