"""AWQ: scale the channels that matter up before rounding, down in what makes them.

Lin et al., "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration",
MLSys 2024, section 3. The search needs statistics only (see `calibrate`) where its loss is the
exact output error of the linears; `replay` gives the paper's, of a whole block.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from reduction import tree
from reduction.qtensor import Scheme
from reduction.quantize.calibrate import Statistics
from reduction.quantize.inputs import NONE, Input, Source
from reduction.quantize.rtn import snapped

GRID = 20  # the paper's: exponents 0, 0.05 ... 0.95
LEAST = 1e-4  # of a scale before it is normalized


class Scales(NamedTuple):
  """What a search found for one input.

  scale: float32 [rows], all 1 where nothing was better than rounding. exponent: of the mean |x|.
  losses: [GRID], on the tokens that were searched.
  """

  scale: jax.Array
  exponent: jax.Array
  losses: jax.Array


class Judge(NamedTuple):
  """What scales are chosen by. loss: (new kernels, kernels, on) -> number; on: the tokens that are
  searched, held: others or None, as the loss takes them."""

  loss: Callable
  on: Any
  held: Any


def candidate(mean, exponent, ties=None, *, weight=None) -> jax.Array:
  """Scales [rows] mean^exponent, their geometric middle 1, alike for channels of one tie.

  mean: |x| [rows]. weight: AutoAWQ's duo scaling, the mean of |w| relative to the largest of its
  group [rows]: mean^exponent / weight^(1 - exponent). A channel that was never active keeps 1: any
  scale serves its readers, and the least one would blow its producer's weights up.
  """
  scale = mean**exponent
  if weight is not None:
    scale = scale / (weight ** (1 - exponent) + LEAST)
  scale = jnp.maximum(jnp.where(jnp.isfinite(scale), scale, 1.0), LEAST)
  active = mean > 0
  ends = scale.max(where=active, initial=LEAST), scale.min(where=active, initial=1 / LEAST)
  scale = jnp.where(active, scale, jnp.sqrt(ends[0] * ends[1]))
  return centered(scale if ties is None else tied(scale, ties))


def centered(scale) -> jax.Array:
  """scale [rows] with a geometric middle of 1."""
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


def relative_errors(new, old, statistics: Statistics) -> jax.Array:
  """The output errors of kernels that are new instead of old, each relative to its output, summed:
  no width outweighs another. new, old: trees of [rows, out]."""
  tiny = jnp.finfo(jnp.float32).tiny
  errors = [
    output_error(w - exact, statistics) / jnp.maximum(output_error(exact, statistics), tiny)
    for w, exact in zip(tree.leaves(new), tree.leaves(old))
  ]
  return sum(errors)


def through(kernels, scale, scheme: Scheme, rounding=snapped):
  """What kernels become when they are scaled, rounded and scaled back."""
  by = scale[:, None]
  return tree.map(lambda w: rounding(w * by, scheme) / by, kernels)


@functools.partial(jax.jit, static_argnames=('scheme', 'duo', 'rounding', 'loss'))
def search(
  kernels, statistics: Statistics, ties, *, scheme: Scheme, duo: bool = False, rounding=snapped,
  loss=relative_errors, on=None, held=None,
) -> Scales:  # fmt: skip
  """The scales of one input, of the exponents of the grid, that lose least when rounded.

  kernels: a tree of [rows, out], all that read the input. duo: see `candidate`. rounding: (kernel,
  scheme) -> kernel, of the quantizer to come. loss: (new kernels, kernels, on) -> number; on: the
  tokens it is counted on, by default the statistics. held: the same of other tokens, on which the
  choice must beat plain rounding; otherwise the scales are 1.
  """
  on = statistics if on is None else on
  weight = _relative(tree.leaves(kernels), scheme) if duo else None
  scale_at = lambda exponent: candidate(statistics.mean, exponent, ties, weight=weight)
  loss_on = lambda on, scale: loss(through(kernels, scale, scheme, rounding), kernels, on)
  exponents = jnp.arange(GRID) / GRID
  losses = jax.lax.map(lambda exponent: loss_on(on, scale_at(exponent)), exponents)
  losses = jnp.where(jnp.isfinite(losses), losses, jnp.inf)
  best = exponents[losses.argmin()]
  judge, scale = on if held is None else held, scale_at(best)
  plain = jnp.ones_like(scale)
  better = loss_on(judge, scale) < loss_on(judge, plain)
  return Scales(jnp.where(better, scale, plain), jnp.where(better, best, 0.0), losses)


def _relative(kernels, scheme):
  """The mean over all columns of |w| relative to the largest of its group: [rows]."""
  w = abs(jnp.concatenate(kernels, 1))
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
