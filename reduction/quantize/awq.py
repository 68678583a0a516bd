"""AWQ: scale the channels that matter up before rounding, down in what makes them.

Lin et al., "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration",
MLSys 2024, section 3. The search needs statistics only (see `calibrate`): its loss is the exact
output error of the linears, not an estimate by channel.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from reduction.qtensor import Scheme
from reduction.quantize.calibrate import Statistics
from reduction.quantize.inputs import NONE, Input, Source
from reduction.quantize.rtn import snapped

GRID = 20  # the paper's: exponents 0, 0.05 ... 0.95
LEAST = 1e-4  # of a scale before it is normalized


class Scales(NamedTuple):
  """What a search found for one input.

  scale: float32 [rows], all 1 where nothing was better than rounding. exponent: of the mean |x|.
  losses: [GRID], summed relative output errors of the linears, on the tokens that were searched.
  """

  scale: jax.Array
  exponent: jax.Array
  losses: jax.Array


def candidate(mean, exponent, ties=None, *, weight=None) -> jax.Array:
  """Scales [rows] mean^exponent, their geometric middle 1, alike for channels of one tie.

  mean: |x| [rows]. weight: AutoAWQ's duo scaling, the mean of |w| relative to the largest of its
  group [rows]: mean^exponent / weight^(1 - exponent).
  """
  scale = mean**exponent
  if weight is not None:
    scale = scale / (weight ** (1 - exponent) + LEAST)
  scale = jnp.maximum(jnp.where(jnp.isfinite(scale), scale, 1.0), LEAST)
  if ties is not None:
    scale = tied(scale, ties)
  return scale / jnp.sqrt(scale.max() * scale.min())


def tied(values, ties) -> jax.Array:
  """The mean [rows] of values over the channels of each tie."""
  sums, counts = (jax.ops.segment_sum(x, ties, len(ties)) for x in (values, jnp.ones_like(values)))
  return (sums / jnp.maximum(counts, 1))[ties]


def output_error(change, statistics: Statistics) -> jax.Array:
  """The squared output error, summed over tokens, of a kernel [rows, out] off by change."""
  blocks, size, _ = statistics.gram.shape
  parts = jnp.pad(change, ((0, blocks * size - len(change)), (0, 0))).reshape(blocks, size, -1)
  return jnp.einsum('bin,bij,bjn->', parts, statistics.gram, parts, precision='highest')


@functools.partial(jax.jit, static_argnames=('scheme', 'duo', 'rounding'))
def search(
  kernels: Sequence[jax.Array], statistics: Statistics, ties, *, scheme: Scheme,
  held: Statistics | None = None, duo: bool = False, rounding=snapped,
) -> Scales:  # fmt: skip
  """The scales of one input that leave the smallest output error after rounding.

  kernels: [rows, out] each, all that read the input; each counts by its error relative to its
  output, so that no width outweighs another. held: statistics of other tokens, on which the choice
  must beat plain rounding; otherwise the scales are 1. duo: see `candidate`. rounding:
  (kernel, scheme) -> kernel, of the quantizer to come.
  """
  weight = _relative(kernels, scheme) if duo else None

  def loss_on(sums, scale):
    errors = [
      output_error(rounding(w * scale[:, None], scheme) / scale[:, None] - w, sums)
      / jnp.maximum(output_error(w, sums), jnp.finfo(jnp.float32).tiny)
      for w in kernels
    ]
    return sum(errors)

  def loss_at(exponent):
    return loss_on(statistics, candidate(statistics.mean, exponent, ties, weight=weight))

  exponents = jnp.arange(GRID) / GRID
  losses = jax.lax.map(loss_at, exponents)
  losses = jnp.where(jnp.isfinite(losses), losses, jnp.inf)
  best = exponents[losses.argmin()]
  scale = candidate(statistics.mean, best, ties, weight=weight)
  judge = statistics if held is None else held
  plain = jnp.ones_like(scale)
  better = loss_on(judge, scale) < loss_on(judge, plain)
  return Scales(jnp.where(better, scale, plain), jnp.where(better, best, 0.0), losses)


def _relative(kernels, scheme):
  """The mean over all columns of |w| relative to the largest of its group: [rows]."""
  w = abs(jnp.concatenate(list(kernels), 1))
  rows, size = len(w), scheme.size(len(w))
  groups = jnp.pad(w, ((0, -rows % size), (0, 0))).reshape(-1, size, w.shape[1])
  share = groups / jnp.maximum(groups.max(1, keepdims=True), LEAST)
  return share.reshape(-1, w.shape[1])[:rows].mean(1)


def scaled(statistics: Statistics, scale) -> Statistics:
  """The statistics of an input after it was divided by scale [rows]."""
  blocks, size, _ = statistics.gram.shape
  by = jnp.pad(scale, (0, blocks * size - len(scale)), constant_values=1.0).reshape(blocks, size)
  return statistics._replace(
    gram=statistics.gram / (by[:, :, None] * by[:, None, :]),
    total=statistics.total / scale,
    most=statistics.most / scale,
  )


def folded(
  params: Mapping[str, jax.Array], inputs: Sequence[Input], scales: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
  """The weights, by path, of the same function: each input divided by its scales [rows].

  scales: by an input's first linear; inputs without are left. Computed in float32, so the function
  is the same but for rounding.
  """
  new = dict(params)
  for one in inputs:
    scale = scales.get(one.linears[0])
    if scale is None or not one.sources:
      continue
    for source in one.sources:
      new[source.path] = _divided(new[source.path], source, scale)
    for linear in one.linears:
      kernel = new[f'{linear}/kernel']
      new[f'{linear}/kernel'] = (kernel * scale[:, None]).astype(kernel.dtype)
  return new


def _divided(weight, source: Source, scale) -> jax.Array:
  by = jnp.where(source.channels == NONE, 1.0, scale[source.channels])
  return ((weight.astype(jnp.float32) + source.offset) / by - source.offset).astype(weight.dtype)
