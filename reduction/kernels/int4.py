"""Products with packed weights: a reference, and what each platform runs.

For a group g of rows with scale s, zero point z and codes q, x_g (q_g - z_g) s_g is
s_g (x_g q_g - z_g sum x_g): only the codes are multiplied, and a few rows of x are never met by a
whole weight in floats. With one row of x this takes the time in which the packed bytes are read,
where the reference writes and reads eight times as many.
"""

import functools
import logging

import jax
import jax.numpy as jnp
from jax import lax

from reduction.kernels import int4_cpu, int4_gpu, int4_tpu, native
from reduction.kernels.accelerator import LANES, chunk, why_not
from reduction.kernels.int4_cpu import CpuWeight
from reduction.kernels.int4_gpu import GpuWeight
from reduction.kernels.int4_tpu import TpuWeight
from reduction.qtensor import QTensor, Scheme, dequantize, pack, packed, unpack

FEW = 8  # rows of x; with more, weights become floats once and are multiplied as such
LOG = logging.getLogger(__name__)
Weight = QTensor | CpuWeight | GpuWeight | TpuWeight
OWN = {CpuWeight: int4_cpu, GpuWeight: int4_gpu, TpuWeight: int4_tpu}  # the file of its kernel


def prepacked(kernel: QTensor) -> Weight:
  """The weight as this platform's kernel reads it: made once, in place of the other.

  Of 3 and 4 bits: a CPU with a compiler has one for one group and for groups of 32 or a multiple of
  64 rows, a TPU and a Hopper GPU of 32. An accelerator's is tried once on a small weight before it
  is trusted. Other weights stay as they are, which an accelerator says once: there they become
  floats in each product.
  """
  platform = jax.default_backend()
  if platform == 'cpu':
    own = int4_cpu if int4_cpu.takes(kernel) and native.ready() else None
  else:
    own = _accelerated(platform, kernel)
  return jax.jit(own.prepacked)(kernel) if own else kernel


def _accelerated(platform, kernel):
  """The file of the kernel that an accelerator has for such a weight, None where it has none."""
  scheme, own = kernel.scheme, None
  if platform == 'tpu' and int4_tpu.takes(kernel):
    own = int4_tpu
  elif platform == 'gpu' and int4_gpu.takes(kernel) and int4_gpu.hopper():
    own = int4_gpu
  step = chunk(scheme, kernel.rows) if own else 0
  return own if _fit(platform, own, scheme if own is None else Scheme(scheme.bits, step)) else None


@functools.cache
def _fit(platform: str, own, scheme: Scheme) -> bool:
  """Whether a kernel, if any, gives here what the weights give. Says once why not."""

  def right():
    x, kernel = _small(scheme)
    return bool((jax.jit(own.matmul)(x, own.prepacked(kernel)) == reference(x, kernel)).all())

  why = 'there is none' if own is None else why_not(right)
  if why:
    told = 'no kernel on %s for %s, %s: such weights become floats in each product'
    LOG.warning(told, platform, scheme, why)
  return not why


def _small(scheme):
  """(x [3, 256], a weight [256, 128]) of whole numbers whose products any order of sums gives."""
  rows, groups = 2 * LANES, 2 * LANES // scheme.group
  row, column, group = jnp.arange(rows), jnp.arange(LANES), jnp.arange(groups)
  codes = (row[:, None] * 7 + row[:, None] // 8 + column * 3) % 2**scheme.bits
  mixed = (group[:, None] * 5 + column).astype(jnp.uint8)
  x = (row * 5 + jnp.arange(3)[:, None]) % 11 - 5.0
  scale, zero = 2.0 ** (mixed % 3), mixed % 2**scheme.bits
  return x, QTensor(pack(codes, scheme.bits), scale, zero, scheme, rows)


def is_weight(leaf) -> bool:
  """Whether leaf is packed, in any order; for `is_leaf` of tree functions."""
  return isinstance(leaf, Weight)


def floats(kernel: Weight, dtype=jnp.float32) -> jax.Array:
  """The weight [rows, columns] that kernel stands for."""
  if own := OWN.get(type(kernel)):
    return own.dequantized(kernel, dtype)
  return dequantize(kernel, dtype)


def reference(x, kernel: Weight) -> jax.Array:
  """x [..., rows] times the weight [rows, columns] that kernel stands for, of x's type."""
  return x @ floats(kernel, x.dtype)


@jax.custom_vjp
def matmul(x, kernel: Weight) -> jax.Array:
  """`reference` as the platform does it best; kernel is a constant to derivatives."""
  return form(x.size // x.shape[-1], kernel)(x, kernel)


def form(rows: int, kernel: Weight):
  """What multiplies so many rows of x: `reference`, `grouped` or the platform's own kernel."""
  if own := OWN.get(type(kernel)):
    return own.matmul if rows <= kernel.most else reference
  if rows <= FEW and jax.default_backend() == 'cpu' and _whole(kernel):
    return grouped
  return reference


def _forward(x, kernel):
  return matmul(x, kernel), kernel


def _backward(kernel, g):
  return g @ floats(kernel, g.dtype).T, None


matmul.defvjp(_forward, _backward)


def _whole(kernel) -> bool:
  """Whether groups begin at whole bytes of every plane, and there are several."""
  scheme = kernel.scheme
  size = scheme.size(kernel.rows)
  return kernel.data.ndim == 2 and scheme.axis == -2 and size % 8 == 0 and size < kernel.rows


def grouped(x, kernel: QTensor) -> jax.Array:
  """`reference` group by group, so that no more than a group's weights are floats at a time.

  For groups of a multiple of 8 rows, several of them; the last may be shorter.
  """
  scheme, rows = kernel.scheme, kernel.rows
  size, flat = scheme.size(rows), x.reshape(-1, x.shape[-1]).astype(jnp.float32)
  whole = rows // size
  planes = _planes(kernel)

  def product(part, codes, scale, zero):
    sums = part.sum(-1, keepdims=True)
    return (part @ codes.astype(jnp.float32) - sums * zero) * scale

  def one(total, group):
    part, data, scale, zero = group
    codes = unpack(jnp.concatenate(data), scheme.bits, size)
    return total + product(part, codes, scale, zero), None

  zero = jnp.full_like(kernel.scale, scheme.middle) if kernel.zero is None else kernel.zero
  scale, zero = (part.astype(jnp.float32) for part in (kernel.scale, zero))
  by_group = lambda values: values.reshape(whole, -1, values.shape[-1])
  data = [by_group(plane[: whole * size * bits // 8]) for plane, bits in planes]
  parts = flat[:, : whole * size].reshape(-1, whole, size).swapaxes(0, 1)
  first = jnp.zeros((len(flat), kernel.shape[-1]), jnp.float32)
  total, _ = lax.scan(one, first, (parts, data, scale[:whole], zero[:whole]))
  if rest := rows - whole * size:
    data = jnp.concatenate([plane[whole * size * bits // 8 :] for plane, bits in planes])
    codes = unpack(data, scheme.bits, rest)
    total += product(flat[:, -rest:], codes, scale[whole], zero[whole])
  return total.reshape(*x.shape[:-1], -1).astype(x.dtype)


def _planes(kernel) -> list[tuple[jax.Array, int]]:
  """(bytes [n, columns], bits of a code in them): of 3 bits, the low two and the high one apart."""
  if kernel.scheme.bits != 3:
    return [(kernel.data, kernel.scheme.bits)]
  low = packed(2, kernel.rows)
  return [(kernel.data[:low], 2), (kernel.data[low:], 1)]
