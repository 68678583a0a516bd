"""What the inputs of linears look like, as sums over all tokens of a calibration set.

With H = sum of x x^T over tokens, the output of a linear whose weight is off by D is off by
tr(D^T H D) in total square, exactly: scale searches, clipping and GPTQ need H and sums, and never
the activations within a block (papers keep them: 126 GB for a model of 8 billion weights). What
walks a model block by block keeps the states between two of them, of all passages.
"""

import functools
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from reduction.errors import DataError, require
from reduction.models.served import linears
from reduction.quantize.inputs import Input

LOGGER = logging.getLogger('reduction')


class Statistics(NamedTuple):
  """Sums over the tokens x [rows] of one input.

  gram: float32 [blocks, size, size], x x^T within each block of neighboring channels; 1 block is
  the whole matrix; channels of the last block that are not there are 0. total: [rows], |x|.
  most: [rows], the largest |x|. count: tokens. dropped: batches left out as not finite.
  """

  gram: jax.Array
  total: jax.Array
  most: jax.Array
  count: jax.Array
  dropped: jax.Array

  @property
  def mean(self) -> jax.Array:
    """Mean |x| of each channel, what AWQ goes by."""
    return self.total / jnp.maximum(self.count, 1)


def empty(rows: int, block: int | None = None) -> Statistics:
  """Statistics of no tokens. block: channels of a block of the Gram matrix, None for all."""
  size = min(block or rows, rows)
  zeros = lambda *shape: jnp.zeros(shape, jnp.float32 if shape else jnp.int32)
  return Statistics(
    zeros(math.ceil(rows / size), size, size), zeros(rows), zeros(rows), zeros(), zeros()
  )


def added(sums: Statistics, x, seen=None) -> Statistics:
  """sums with the tokens x [..., rows]. seen: bool [...], the tokens that count; all by default."""
  x = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
  fine = jnp.isfinite(x).all()
  counts = jnp.full(len(x), fine) if seen is None else seen.reshape(-1) & fine
  x = jnp.where(counts[:, None], x, 0.0)
  blocks, size, _ = sums.gram.shape
  parts = jnp.pad(x, ((0, 0), (0, blocks * size - x.shape[1]))).reshape(-1, blocks, size)
  gram = jnp.einsum('tbi,tbj->bij', parts, parts, precision='highest')
  return Statistics(
    sums.gram + gram,
    sums.total + abs(x).sum(0),
    jnp.maximum(sums.most, abs(x).max(0)),
    sums.count + counts.sum(),
    sums.dropped + ~fine,
  )


def merged(one: Statistics, other: Statistics) -> Statistics:
  """The statistics of the tokens of both."""
  both = jax.tree.map(jnp.add, one, other)
  return both._replace(most=jnp.maximum(one.most, other.most))


def nbytes(inputs: Sequence[Input], block: int | None = None) -> int:
  """Bytes that the statistics of these inputs will take: known before any work."""
  sums = [jax.eval_shape(functools.partial(empty, i.rows, block)) for i in inputs]
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(sums))


def calibrate(
  module: nn.Module, params, batches: Iterable, inputs: Sequence[Input],
  *, block: int | None = None, seen=None, most_dropped: float = 0.05,
  passed: Callable | None = None,
) -> dict[str, Statistics]:  # fmt: skip
  """The statistics of each input, by its first linear, over batches of what the module takes.

  Batches that lie on several devices are summed there and the sums reduced over them. block: see
  `empty`. seen: batch -> bool [n, length], which tokens count where some are padding; an input that
  is not [n, length, rows] counts whole. most_dropped: the share
  of batches that may be left out because an input of theirs is not finite. passed: is given what
  the module makes of each batch.
  Raises UsageError without batches, DataError for more dropped ones.
  """
  sums = {i.linears[0]: empty(i.rows, block) for i in inputs}
  add, given = _adding(module, tuple(sums), seen, passed is not None), 0
  for x in batches:
    (sums, y), given = add(params, x, sums), given + 1
    if passed:
      passed(np.asarray(y, x.dtype))
  require(given > 0, 'nothing to calibrate on: no batch was given')
  for name, one in ((i.linears[0], sums[i.linears[0]]) for i in inputs):
    says = f'the input of {name} is not finite in {int(one.dropped)} of {given} batches'
    if int(one.dropped) > most_dropped * given:
      raise DataError(f'{says}; check the weights and the calibration data')
    if one.dropped:
      LOGGER.warning('%s, which are left out', says)
  return {i.linears[0]: sums[i.linears[0]] for i in inputs}  # jit sorts them


@functools.lru_cache(maxsize=16)
def _adding(module, names, seen, passes):
  @functools.partial(jax.jit, donate_argnums=2)
  def add(params, x, sums):
    sums, counts = dict(sums), None if seen is None else seen(x)

    def look(path, dense, value):
      if path in names:
        sums[path] = added(sums[path], value, by_token(counts, value))

    with linears(look):
      y = module.apply({'params': params}, x)
    return sums, y if passes else None  # what nobody reads is not computed

  return add


def by_token(counts, value):
  """counts [n, length] where value is [n, length, rows]; None where it is not: all of it counts."""
  return counts if counts is not None and counts.shape == value.shape[:-1] else None
