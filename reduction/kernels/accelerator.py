"""What kernels of TPUs and GPUs share: trust, scales as words, x in exact bfloat16 pieces."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from reduction.qtensor import QTensor, Scheme

BITS = 3, 4
LANES = 128  # the most rows of a weight that share a row of scales
LEAST = 32
UNSEEN = -1e9  # the score of a token that is not to be seen
ZERO = 31  # of a scale's word, the zero point: 4-bit GPTQ folders may hold a 16


def why_not(right: Callable[[], bool]) -> str:
  """Why a kernel is not to be trusted here, '' where it is. right: whether a small trial succeeds.

  The order of nibbles in a register, for one, is nothing that a compiler shows.
  """
  try:
    return '' if right() else 'it does not give what it should'
  except Exception as error:  # compilers raise what is plain Exception
    return f'it does not compile: {(str(error).splitlines() or [type(error).__name__])[0]}'


class Ordered(struct.PyTreeNode):
  """A packed weight [rows, columns] in the order of a kernel, which says what planes are.

  scales: int32 [rows / chunk, columns], `words`.
  """

  planes: tuple[jax.Array, ...]
  scales: jax.Array
  scheme: Scheme = struct.field(pytree_node=False)
  rows: int = struct.field(pytree_node=False)
  columns: int = struct.field(pytree_node=False)

  @property
  def shape(self) -> tuple[int, int]:
    """That of the weight."""
    return self.rows, self.columns


def chunk(scheme: Scheme, rows: int) -> int:
  """Rows that share a row of scales: a group, or the largest part of it that 128 is made of."""
  return LANES if scheme.groups(rows) == 1 else math.gcd(scheme.size(rows), LANES)


def takes(kernel: QTensor) -> bool:
  """Whether there is a kernel for such a weight: groups of a multiple of 32 rows, or one group."""
  good = kernel.scheme.bits in BITS and kernel.scheme.axis == -2 and kernel.data.ndim == 2
  return good and chunk(kernel.scheme, kernel.rows) >= LEAST


def words(kernel: QTensor, deep: int, wide: int) -> jax.Array:
  """A scale and its zero point for each chunk of rows, int32 [deep / chunk, wide].

  The bits of a float32, the last five of them the zero point: a bfloat16 or float16 scale loses
  nothing, a float32 is rounded to 19 bits. What fills up to deep rows and wide columns is 0.
  """
  scheme, (rows, columns) = kernel.scheme, kernel.shape
  step, groups = chunk(scheme, rows), scheme.groups(rows)
  zero = jnp.full(kernel.scale.shape, scheme.middle) if kernel.zero is None else kernel.zero
  scale = lax.reduce_precision(kernel.scale.astype(jnp.float32), 8, 18)
  word = lax.bitcast_convert_type(scale, jnp.int32) | zero.astype(jnp.int32)
  many = deep // step if groups == 1 else scheme.size(rows) // step
  word = jnp.repeat(jnp.broadcast_to(word, (groups, columns)), many, 0)[: deep // step]
  return jnp.pad(word, ((0, deep // step - len(word)), (0, wide - columns)))


def scale_and_zero(word, bitcast=lax.bitcast_convert_type):
  """Both of a word as float32."""
  return bitcast(word & ~ZERO, jnp.float32), (word & ZERO).astype(jnp.float32)


def pieces(x) -> list[jax.Array]:
  """bfloat16 arrays whose sum is x: of a bfloat16 one, of a float16 two, of a float32 three."""
  found, left = [], x.astype(jnp.float32)
  for _ in range({jnp.bfloat16: 1, jnp.float16: 2, jnp.float32: 3}[x.dtype.type]):
    # compilers leave out a plain cast there and back
    found.append(lax.reduce_precision(left, 8, 7))
    left = left - found[-1]
  return [piece.astype(jnp.bfloat16) for piece in found]
