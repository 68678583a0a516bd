"""`QTensor`, a weight in 2, 3, 4 or 8 bits, and how codes are packed.

Rows [1, 2, 3, 4] of a column pack, low bits first,
  4 bits  as [0x21, 0x43]
  2 bits  as [0b00_11_10_01] for rows [1, 2, 3, 0]
  3 bits  as the 2-bit pack of their low two bits, [0b00_11_10_01], then eight high bits a byte,
          [0b1000]: 0.375 bytes a weight and no code across a byte
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from flax import struct

from reduction.errors import require

BITS = 2, 3, 4, 8
WHOLE = 'channel', 'tensor'


@dataclasses.dataclass(frozen=True)
class Scheme:
  """How a weight is quantized.

  bits: 2, 3, 4 or 8. group: so many neighboring rows of a column share a scale, in the end perhaps
  fewer; or 'channel', whole columns, or 'tensor', all weights. symmetric: code c stands for
  (c - 2^(bits - 1)) * scale; otherwise each group has a zero point too. axis: where the rows are,
  -2 in kernels [in, out], -1 in tables [words, width].
  Raises UsageError for other values.
  """

  bits: int
  group: int | str = 128
  symmetric: bool = False
  axis: int = -2

  def __post_init__(self):
    require(self.bits in BITS, f'bits={self.bits} must be one of {BITS}')
    good = self.group in WHOLE or (type(self.group) is int and self.group > 0)
    require(good, f'group={self.group!r} must be a number of rows, {" or ".join(map(repr, WHOLE))}')
    require(self.axis in (-2, -1), f'axis={self.axis} must be -2 or -1')

  @property
  def middle(self) -> int:
    """The code of 0 where symmetric."""
    return 2 ** (self.bits - 1)

  def size(self, rows: int) -> int:
    """Rows of a group."""
    return rows if self.group in WHOLE else min(self.group, rows)

  def groups(self, rows: int) -> int:
    """Groups of a column."""
    return -(-rows // self.size(rows))


class QTensor(struct.PyTreeNode):
  """A packed weight [..., rows, columns]; the last two axes swapped where scheme.axis is -1.

  data: uint8, `packed` bytes along the rows. scale: floats [..., groups, columns], both 1 for a
  'tensor'. zero: uint8 of the same shape, None where symmetric. rows: of the weight, which the
  packed bytes only bound. Raises UsageError where these do not fit.
  """

  data: jax.Array
  scale: jax.Array
  zero: jax.Array | None
  scheme: Scheme = struct.field(pytree_node=False)
  rows: int = struct.field(pytree_node=False)

  def __post_init__(self):
    if not all(hasattr(x, 'shape') for x in (self.data, self.scale)):
      return  # JAX also builds trees of placeholders
    scheme, axis = self.scheme, self.scheme.axis
    for what, array, wanted in (
      (f'bytes of {scheme.bits} bits', self.data, packed(scheme.bits, self.rows)),
      (f'groups of {scheme.group}', self.scale, scheme.groups(self.rows)),
    ):
      found = array.shape[axis]
      require(found == wanted, f'{self.rows} rows are {wanted} {what}, not {found}')
    require(
      (self.zero is None) == scheme.symmetric,
      f'a zero point {"is not for" if scheme.symmetric else "is needed by"} {scheme}',
    )
    shape = self.scale.shape if self.zero is None else getattr(self.zero, 'shape', self.scale.shape)
    require(shape == self.scale.shape, f'zero points {shape} for scales {self.scale.shape}')

  @property
  def shape(self) -> tuple[int, ...]:
    """That of the weight."""
    shape = list(self.data.shape)
    shape[self.scheme.axis] = self.rows
    return tuple(shape)

  @property
  def nbytes(self) -> int:
    """Bytes of data, scales and zero points."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(self))


def is_packed(leaf) -> bool:
  """Whether leaf is a QTensor; for `is_leaf` of tree functions."""
  return isinstance(leaf, QTensor)


@functools.partial(jax.jit, static_argnames='dtype')
def dequantize(q: QTensor, dtype=jnp.float32) -> jax.Array:
  """The weight that q stands for, computed in float32."""
  scheme, rows = q.scheme, q.rows
  codes = unpack(q.data, scheme.bits, rows, axis=scheme.axis).astype(jnp.float32)
  zero = scheme.middle if q.zero is None else spread(q.zero, scheme, rows).astype(jnp.float32)
  return ((codes - zero) * spread(q.scale, scheme, rows).astype(jnp.float32)).astype(dtype)


def spread(by_group, scheme: Scheme, rows: int) -> jax.Array:
  """Values [..., groups, columns] as [..., rows, columns]: to each row that of its group."""
  if by_group.shape[scheme.axis] == 1:
    return by_group  # which broadcasts
  repeated = jnp.repeat(by_group, scheme.size(rows), scheme.axis)
  return jax.lax.slice_in_dim(repeated, 0, rows, axis=scheme.axis % repeated.ndim)


def packed(bits: int, rows: int) -> int:
  """Bytes that so many codes of a column take."""
  planes = (2, 1) if bits == 3 else (bits,)
  return sum(math.ceil(rows * plane / 8) for plane in planes)


@functools.partial(jax.jit, static_argnames=('bits', 'axis'))
def pack(codes, bits: int, *, axis: int = -2) -> jax.Array:
  """Codes below 2^bits, uint8 [..., rows, columns], as uint8 [..., packed, columns]."""
  codes = jnp.moveaxis(jnp.asarray(codes, jnp.uint8), axis, -2)
  if bits == 3:
    data = jnp.concatenate([_pack(codes & 3, 2), _pack(codes >> 2, 1)], -2)
  else:
    data = _pack(codes, bits)
  return jnp.moveaxis(data, -2, axis)


@functools.partial(jax.jit, static_argnames=('bits', 'rows', 'axis'))
def unpack(data, bits: int, rows: int, *, axis: int = -2) -> jax.Array:
  """What was packed: codes, uint8 [..., rows, columns]."""
  data = jnp.moveaxis(jnp.asarray(data), axis, -2)
  if bits == 3:
    low = packed(2, rows)
    codes = _unpack(data[..., :low, :], 2, rows) | _unpack(data[..., low:, :], 1, rows) << 2
  else:
    codes = _unpack(data, bits, rows)
  return jnp.moveaxis(codes, -2, axis)


def _pack(codes, bits):
  per, (*batch, rows, columns) = 8 // bits, codes.shape
  filled = jnp.pad(codes, [(0, 0)] * len(batch) + [(0, -rows % per), (0, 0)])
  filled = filled.reshape(*batch, -1, per, columns)
  return (filled << _shifts(bits)).sum(-2, dtype=jnp.uint8)


def _unpack(data, bits, rows):
  codes = (data[..., None, :] >> _shifts(bits)) & (2**bits - 1)
  return codes.reshape(*data.shape[:-2], -1, data.shape[-1])[..., :rows, :]


def _shifts(bits):
  return jnp.arange(0, 8, bits, dtype=jnp.uint8)[:, None]
