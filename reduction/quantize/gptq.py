"""GPTQ: round one row after another, and let the rows to come make up for the error.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
ICLR 2023, algorithm 1. Rows here are the inputs of a linear: kernels are [in, out].
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from reduction.qtensor import WHOLE, Scheme, spread
from reduction.quantize.rtn import Grid, grid

BLOCK = 128  # rows whose updates of later rows are made at once
MOST_DAMP = 1.0


class Rounded(NamedTuple):
  """What GPTQ gives. codes: uint8 [rows, out]; by: the grid [groups, out]; groups: int [rows], the
  group of each row, its place divided by the group's size unless the order was changed."""

  codes: jax.Array
  by: Grid
  groups: jax.Array

  @property
  def kernel(self) -> jax.Array:
    """What the codes stand for, float32 [rows, out]."""
    scale, zero = (part if len(part) == 1 else part[self.groups] for part in self.by)
    return (self.codes - zero) * scale


@functools.partial(jax.jit, static_argnames=('scheme', 'ordered', 'static', 'dtype'))
def gptq(
  kernel, gram, *, scheme: Scheme, damp: float = 0.01, ordered: bool = False, static: bool = False,
  kept=None, dtype=jnp.float32,
) -> Rounded:  # fmt: skip
  """kernel [rows, out] in codes, by the Gram matrix [rows, rows] of its inputs (any scale).

  damp: the share of the mean diagonal that is added to it; ten times more as long as the matrix
  cannot be factored. ordered: rows with the largest inputs first (act-order, the paper's GPTQ-R).
  static: grids of the kernel as it was given, so that ordered rows stay in their groups; otherwise
  each group's grid is made when its turn comes, and ordered rows form groups of their own. kept:
  a mask like kernel; where it is False weights are 0 and stay so. dtype: in which scales will be
  stored; they are rounded to it here.
  Channels that were never other than 0 round to 0.
  """
  rows, size = len(kernel), scheme.size(len(kernel))
  seen = jnp.diagonal(gram)
  kernel = jnp.where(seen[:, None] > 0, kernel.astype(jnp.float32), 0.0)
  gram = gram + jnp.diag(jnp.where(seen > 0, 0.0, 1.0))
  order = jnp.argsort(-seen) if ordered else jnp.arange(rows)
  upper = _factor(gram[order][:, order], damp)

  groups = jnp.arange(rows) // size
  back = jnp.argsort(order)
  kept = jnp.broadcast_to(True if kept is None else kept, kernel.shape)[order]
  if not static and scheme.group not in WHOLE:
    codes, by = _rounded(kernel[order], upper, kept, scheme, None, dtype)
    return Rounded(codes[back], by, groups[back])
  by = grid(kernel, scheme, dtype=dtype)
  wide = [jnp.broadcast_to(spread(part, scheme, rows), kernel.shape)[order] for part in by]
  codes, _ = _rounded(kernel[order], upper, kept, scheme, Grid(*wide), dtype)
  return Rounded(codes[back], by, groups)


def products(rows: int, columns: int) -> int:
  """Multiplications that a kernel takes: two factors, and what each row tells those after it."""
  return rows**2 * columns + 4 * rows**3 // 3


def _factor(gram, damp):
  """U, upper triangular, with U^T U the inverse of gram and its damping."""
  mean, eye = jnp.diagonal(gram).mean(), jnp.eye(len(gram), dtype=gram.dtype)

  def factor(damp):
    lower = jnp.linalg.cholesky((gram + damp * mean * eye)[::-1, ::-1])
    return jax.scipy.linalg.solve_triangular(lower[::-1, ::-1], eye)

  def more(state):
    damp, upper = state
    return ~jnp.isfinite(upper).all() & (damp < MOST_DAMP)

  retry = lambda state: (state[0] * 10, factor(state[0] * 10))
  return jax.lax.while_loop(more, retry, (jnp.float32(damp), factor(damp)))[1]


def _rounded(kernel, upper, kept, scheme, wide, dtype):
  """(codes, grid of each group) of a kernel [rows, out] whose rows are in the order to round.

  wide: the grid of each row [rows, out]; None makes that of a group when its turn comes.
  """
  rows, out = kernel.shape
  size = scheme.size(rows)
  block = next(b for b in range(min(BLOCK, size), 0, -1) if size % b == 0)
  fill = -rows % size  # rows that fill up the last group: no weight, no part in the error
  kernel, kept = (jnp.pad(x, ((0, fill), (0, 0))) for x in (kernel, kept))
  upper = jnp.pad(upper, (0, fill)) + jnp.diag((jnp.arange(rows + fill) >= rows) * 1.0)
  if wide is not None:
    wide = Grid(*(jnp.pad(part, ((0, fill), (0, 0)), constant_values=1.0) for part in wide))
  whole = dataclasses.replace(scheme, group='channel')

  def one_block(carry, start):
    kernel, by = carry
    cut = lambda x: jax.lax.dynamic_slice_in_dim(x, start, block)
    if wide is not None:
      by = Grid(*map(cut, wide))
    else:  # a row of 0 leaves a grid as it is
      group = jax.lax.dynamic_slice_in_dim(kernel, start // size * size, size)
      new = grid(group, whole, dtype=dtype)
      by = jax.tree.map(lambda new, old: jnp.where(start % size == 0, new, old), new, by)
    own = jax.lax.dynamic_slice(upper, (start, start), (block, block))
    codes, errors = _one_after_another(cut(kernel), own, cut(kept), by, scheme)
    kernel = kernel - jnp.einsum('eo,er->ro', errors, cut(upper), precision='highest')
    return (kernel, by), (codes, by)

  like = jnp.ones((1 if wide is None else block, out), jnp.float32)
  starts = jnp.arange(0, rows + fill, block)
  _, (codes, grids) = jax.lax.scan(one_block, (kernel, Grid(like, like)), starts)
  by = Grid(*(part[:: size // block, 0] for part in grids))
  return codes.reshape(-1, out)[:rows], by


def _one_after_another(kernel, upper, kept, by, scheme):
  """(codes, errors by the diagonal) of a block of rows; each error goes into the rows below it."""

  def one(kernel, i):
    scale, zero = (part[0] if len(part) == 1 else part[i] for part in by)
    row, most = kernel[i], 2**scheme.bits - 1
    codes = jnp.where(kept[i], jnp.clip(jnp.round(row / scale) + zero, 0, most), zero)
    error = (row - (codes - zero) * scale) / upper[i, i]
    return kernel - upper[i][:, None] * error, (codes.astype(jnp.uint8), error)

  _, outs = jax.lax.scan(one, kernel, jnp.arange(len(kernel)))
  return outs
