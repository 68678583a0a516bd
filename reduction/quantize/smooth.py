"""SmoothQuant: 8-bit inputs and weights whose products are of integers.

Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language
Models", ICML 2023, section 4. A few channels of an input are much larger than all others; an input
in 8 bits has one step for all of its channels, so these leave little of the rest. Dividing them,
and multiplying the rows of the weights, moves what is hard to round to where it is easier.
"""

import functools
from collections.abc import Iterable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from reduction.models.served import linears, product
from reduction.qtensor import QTensor
from reduction.quantize.awq import tied
from reduction.quantize.calibrate import Statistics, by_token

LEAST = 1e-5  # the authors': of a scale and of the largest weight of a channel


def scale(
  statistics: Statistics, kernels: Sequence[jax.Array], *, strength: float = 0.5, ties=None
) -> jax.Array:
  """What to divide the channels of an input by: [rows], max |x|^strength / max |w|^(1 - strength).

  kernels: [rows, out] each, all that read the input. strength: how much moves from the input to the
  weights, 0 to 1. ties: int [rows], channels of one number get the mean of their scales. A channel
  of zeros, of inputs or of weights, keeps 1: nothing about it is known, or matters.
  `awq.folded` puts scales into a net, `awq.scaled` into the statistics.
  """
  weights = functools.reduce(jnp.maximum, [abs(w).max(1) for w in kernels]).astype(jnp.float32)
  alive = (statistics.most > 0) & (weights > 0)
  found = statistics.most**strength / jnp.maximum(weights, LEAST) ** (1 - strength)
  found = jnp.where(alive, jnp.maximum(found, LEAST), 1.0)
  return found if ties is None else tied(found, ties)


def errors(
  module: nn.Module, params, kernels: dict[str, tuple[QTensor, jax.Array | None]],
  batches: Iterable, *, seen=None,
) -> dict[str, jax.Array]:  # fmt: skip
  """The output error of each linear whose input and weights are rounded, relative, in squares.

  params: unrounded, so that no error of a linear is counted in the next. kernels: by path, each
  with the step of its input or None, see `served.product`. seen: as in `calibrate`; batches whose
  input is not finite do not count here either.
  """
  sums, add = {linear: jnp.zeros(2) for linear in kernels}, _adding(module, seen)
  for x in batches:
    sums = add(params, kernels, x, sums)
  return {linear: sums[linear][0] / sums[linear][1] for linear in kernels}  # jit sorts them


@functools.lru_cache(maxsize=16)
def _adding(module, seen):
  @jax.jit
  def add(params, kernels, x, sums):
    sums, counts = dict(sums), None if seen is None else seen(x)

    def look(path, dense, value):
      if path in kernels:
        exact = value @ dense.get_variable('params', 'kernel')
        change = product(value, *kernels[path]) - exact
        some, fine = by_token(counts, value), jnp.isfinite(value).all()
        kept = fine if some is None else some[..., None] & fine
        sums[path] += jnp.stack([(jnp.where(kept, y, 0.0) ** 2).sum() for y in (change, exact)])

    with linears(look):
      module.apply({'params': params}, x)
    return sums

  return add
