"""Channels that matter, kept in float or scaled up before rounding: why AWQ scales as it does.

Lin et al., "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration",
MLSys 2024, section 2, tables 1 and 2. Kernels are [rows, out]; a channel of the input is a row.
"""

import jax
import jax.numpy as jnp

from reduction.qtensor import Scheme
from reduction.quantize.rtn import grid, snapped

CHOICES = 'activation', 'weight', 'random'


def scores(by: str, kernel, mean, key) -> jax.Array:
  """How much each channel [rows] matters, by one of CHOICES.

  'activation': mean, that of |x|, [rows]. 'weight': the length of its row. 'random': of key.
  """
  length = jnp.linalg.norm(kernel.astype(jnp.float32), axis=1)
  return dict(activation=mean, weight=length, random=jax.random.uniform(key, mean.shape))[by]


def chosen(scores, share: float) -> jax.Array:
  """Which channels [rows] are the `share` with the highest scores [rows], ties by place.

  At least one where share is above 0.
  """
  rows = len(scores)
  count = max(1, round(share * rows)) if share > 0 else 0
  rank = jnp.argsort(jnp.argsort(-scores, stable=True))
  return rank < count


def mixed(kernel, keep, scheme: Scheme, *, dtype=jnp.float32) -> jax.Array:
  """kernel rounded, float32, but for the channels to keep: bool [rows].

  Grids cover all channels, as the authors do it. dtype: of the scales.
  """
  return jnp.where(keep[:, None], kernel, snapped(kernel, scheme, dtype=dtype))


def scaled(kernel, up, scale: float, scheme: Scheme, *, dtype=jnp.float32) -> jax.Array:
  """kernel with the channels `up`, bool [rows], times scale, rounded, and divided again: float32.

  The same function as if what makes the input had been divided; dtype: of the scales.
  """
  by = jnp.where(up, scale, 1.0)[:, None]
  return snapped(kernel * by, scheme, dtype=dtype) / by


def growth(kernel, up, scale: float, scheme: Scheme) -> jax.Array:
  """How many times as large the step of each group [groups, out] is for what `scaled` rounds.

  1 exactly where nothing changed, as the grid is not rounded to a type of storage here.
  """
  by = jnp.where(up, scale, 1.0)[:, None]
  return grid(kernel * by, scheme).scale / grid(kernel, scheme).scale
