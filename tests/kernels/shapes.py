"""Weights of which only the shapes are known, for programs that are compiled and never run."""

import jax
import jax.numpy as jnp

from reduction.qtensor import QTensor, Scheme, packed


def weight(prepacked, bits, group, rows, columns):
  """A packed weight [rows, columns], scales in float16, as prepacked orders it."""
  scheme, of = Scheme(bits, group), jax.ShapeDtypeStruct
  groups = scheme.groups(rows), columns
  data = of((packed(bits, rows), columns), jnp.uint8)
  canonical = QTensor(data, of(groups, jnp.float16), of(groups, jnp.uint8), scheme, rows)
  return jax.eval_shape(prepacked, canonical)
