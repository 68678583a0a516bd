"""Clipping: a smaller range for a group of weights, if its rounding is better for it.

The second search of AWQ (Lin et al. 2024, section 5.1, and the authors' code). Queries and keys are
left out there: their error is multiplied by each other's.
"""

import functools

import jax
import jax.numpy as jnp

from reduction.errors import require
from reduction.qtensor import Scheme
from reduction.quantize.calibrate import Statistics
from reduction.quantize.rtn import snapped

CLIPS = 10  # the paper's: the largest of a group times 1, 0.95 ... 0.55


@functools.partial(jax.jit, static_argnames=('scheme', 'rounding'))
def clip(kernel, statistics: Statistics, *, scheme: Scheme, rounding=snapped) -> jax.Array:
  """The bound [groups, out] for each group of a kernel [rows, out] that rounds it best.

  Weights beyond it are cut off before rounding. A group counts by its own part of the output, as in
  the paper; its error is exact.
  """
  rows, out = kernel.shape
  size = scheme.size(rows)
  gram = group_grams(statistics, rows, size)
  parts = lambda w: jnp.pad(w, ((0, -rows % size), (0, 0))).reshape(-1, size, out)
  most = abs(parts(kernel)).max(1)  # [groups, out]

  def error_at(share):
    bound = jnp.repeat(most * share, size, 0)[:rows]
    change = parts(rounding(jnp.clip(kernel, -bound, bound), scheme) - kernel)
    return jnp.einsum('gin,gij,gjn->gn', change, gram, change, precision='highest')

  shares = 1 - jnp.arange(CLIPS) / (2 * CLIPS)
  return most * shares[jax.lax.map(error_at, shares).argmin(0)]


def clipped(kernel, bound, size: int) -> jax.Array:
  """kernel [rows, out] without what lies beyond the bounds [groups, out] of groups of size rows."""
  bound = jnp.repeat(bound, size, 0)[: len(kernel)]
  return jnp.clip(kernel, -bound, bound).astype(kernel.dtype)


def group_grams(statistics: Statistics, rows: int, size: int) -> jax.Array:
  """The blocks [groups, size, size] of the Gram matrix that groups of size rows lie on.

  Raises UsageError where groups cross the blocks that were kept.
  """
  blocks, kept, _ = statistics.gram.shape
  whole = blocks == 1 or kept % size == 0
  require(whole, f'groups of {size} cross the {kept} channels of a Gram matrix; keep a multiple')
  gram = jnp.pad(statistics.gram, ((0, 0), *[(0, -kept % size)] * 2))
  per = gram.shape[1] // size
  gram = gram.reshape(blocks, per, size, per, size)
  return jnp.einsum('bgigj->bgij', gram).reshape(-1, size, size)[: -(-rows // size)]
