"""Round to nearest: a grid for each group, and the code nearest to each weight.

The baseline of AWQ and GPTQ (Lin et al. 2024, table 4), and the grid that both of them use.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from reduction.errors import did_you_mean, require
from reduction.qtensor import QTensor, Scheme, pack, spread

COMPATIBLE = ('', 'llm-awq')


class Grid(NamedTuple):
  """What codes stand for: (code - zero) * scale. Both float32 [..., groups, columns].

  zero: whole numbers; 2^(bits - 1) where symmetric.
  """

  scale: jax.Array
  zero: jax.Array


def grid(w, scheme: Scheme, *, dtype=jnp.float32, compatible: str = '') -> Grid:
  """The finest grid that covers each group of w [..., rows, columns] and holds 0.

  dtype: what scales will be stored in; they are rounded to it here, so that codes are chosen for
  the scale that is kept. compatible: 'llm-awq' gives that quantizer's grid instead, bit for bit,
  which spans the weights alone and then cuts its zero point: a group whose weights have one sign is
  destroyed (an error of 0.77 for weights near 1, instead of 0.04). It takes groups that divide the
  rows, asymmetric. Raises UsageError for other uses.
  """
  require(
    compatible in COMPATIBLE, f'{compatible=} is unknown.{did_you_mean(compatible, COMPATIBLE)}'
  )
  rows, theirs = w.shape[scheme.axis], compatible == 'llm-awq'
  if theirs:
    whole = rows % scheme.size(rows) == 0
    require(whole and not scheme.symmetric, f'{compatible} has no {scheme} of {rows} rows')
  low, high = _range(w, scheme)
  # XLA divides by one number as if by its rounded inverse, which is another number
  most = scheme.middle - 1 if scheme.symmetric else 2**scheme.bits - 1
  most = jax.lax.optimization_barrier(jnp.full_like(low, most))
  if scheme.symmetric:
    scale = jnp.maximum(-low, high) / most
    scale = storable(jnp.where(scale > 0, scale, 1.0), dtype)
    return Grid(scale, jnp.full_like(scale, scheme.middle))
  if theirs:
    scale = jnp.maximum(high - low, 1e-5) / most
  else:
    low, high = jnp.minimum(low, 0.0), jnp.maximum(high, 0.0)
    scale = (high - low) / most
    scale = storable(jnp.where(scale > 0, scale, 1.0), dtype)  # a group of zeros keeps them
  return Grid(scale, jnp.clip(-jnp.round(low / scale), 0, most))


def codes(w, by: Grid, scheme: Scheme) -> jax.Array:
  """The nearest codes, uint8 like w; ties to even."""
  rows = w.shape[scheme.axis]
  scale, zero = (spread(part, scheme, rows) for part in by)
  return jnp.clip(jnp.round(w.astype(jnp.float32) / scale) + zero, 0, 2**scheme.bits - 1).astype(
    jnp.uint8
  )


def on_grid(w, by: Grid, scheme: Scheme) -> jax.Array:
  """w rounded to what its codes stand for, float32; nothing is packed."""
  rows = w.shape[scheme.axis]
  scale, zero = (spread(part, scheme, rows) for part in by)
  return (codes(w, by, scheme) - zero) * scale


def snapped(w, scheme: Scheme, **how) -> jax.Array:
  """w rounded to its own grid, float32: what `quantize` stands for. how: of `grid`."""
  return on_grid(w, grid(w, scheme, **how), scheme)


@functools.partial(jax.jit, static_argnames=('scheme', 'dtype', 'compatible'))
def quantize(w, scheme: Scheme, *, dtype=jnp.float32, by: Grid | None = None, **how) -> QTensor:
  """w [..., rows, columns] packed, by its own grid or the given one. dtype: of the scales.

  Raises UsageError where w has fewer than two axes. `qtensor.dequantize` gives `snapped` back.
  """
  require(w.ndim > 1, f'a weight of shape {w.shape} has no rows and columns')
  by = grid(w, scheme, dtype=dtype, **how) if by is None else by
  data = pack(codes(w, by, scheme), scheme.bits, axis=scheme.axis)
  zero = None if scheme.symmetric else by.zero.astype(jnp.uint8)
  return QTensor(data, by.scale.astype(dtype), zero, scheme, w.shape[scheme.axis])


def _range(w, scheme: Scheme):
  """(least, greatest) of each group, [..., groups, columns], float32."""
  axis, w = scheme.axis, w.astype(jnp.float32)
  if scheme.group == 'tensor':
    both = axis, -3 - axis
    return w.min(both, keepdims=True), w.max(both, keepdims=True)
  w = jnp.moveaxis(w, axis, -2)
  *batch, rows, columns = w.shape
  size = scheme.size(rows)
  # the last group is filled up with its last row
  w = jnp.pad(w, [(0, 0)] * len(batch) + [(0, -rows % size), (0, 0)], mode='edge')
  w = w.reshape(*batch, -1, size, columns)
  return [jnp.moveaxis(x, -2, axis) for x in (w.min(-2), w.max(-2))]


def storable(scale, dtype) -> jax.Array:
  """scale as dtype keeps it, neither 0 nor infinite, in float32."""
  kept = jnp.finfo(dtype)
  least = max(float(kept.smallest_subnormal), float(jnp.finfo(jnp.float32).tiny))
  return jnp.clip(scale, least, float(kept.max)).astype(dtype).astype(jnp.float32)
