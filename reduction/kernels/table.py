"""Packed tables of words [words, width]: rows looked up by token, and products with all of them."""

import jax
import jax.numpy as jnp

from reduction.kernels import int4, int4_cpu
from reduction.kernels.int4_cpu import CpuWeight
from reduction.qtensor import QTensor, dequantize

Table = QTensor | CpuWeight  # a QTensor's rows lie along the width (axis -1)


def looked_up(table: Table, words) -> jax.Array:
  """The rows of some words, float32 [*words.shape, width]."""
  if isinstance(table, CpuWeight):
    return int4_cpu.looked_up(table, words)
  rows = jax.tree.map(lambda part: part[words.reshape(-1)], table)
  return dequantize(rows, jnp.float32).reshape(*words.shape, -1)


def attended(x, table: Table) -> jax.Array:
  """x [..., width] times every word, [..., words], of x's type."""
  if isinstance(table, CpuWeight):
    return int4.matmul(x, table)
  return x @ dequantize(table, x.dtype).T
