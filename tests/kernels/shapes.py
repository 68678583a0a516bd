"""Weights of which only shapes are known, for programs that are compiled and never run; what
kernels of accelerators are held against where they run."""

import jax
import jax.numpy as jnp
import numpy as np

from reduction.kernels import int4
from reduction.qtensor import QTensor, Scheme, dequantize, packed
from reduction.quantize.rtn import quantize


def weight(prepacked, bits, group, rows, columns):
  """A packed weight [rows, columns], scales in float16, as prepacked orders it."""
  scheme, of = Scheme(bits, group), jax.ShapeDtypeStruct
  groups = scheme.groups(rows), columns
  data = of((packed(bits, rows), columns), jnp.uint8)
  canonical = QTensor(data, of(groups, jnp.float16), of(groups, jnp.uint8), scheme, rows)
  return jax.eval_shape(prepacked, canonical)


def off_where_it_runs(bits: int):
  """(type of the weight, relative error) of products on the accelerator that is here."""
  random = np.random.default_rng(0)
  w = jnp.asarray(random.standard_normal((1000, 300), np.float32) + 0.3)
  for group in 32, 64, 128, 192, 'channel':
    kernel = quantize(w, Scheme(bits, group), dtype=jnp.float16)
    packed_ = int4.prepacked(kernel)
    for count in 1, 8, 16, 64, 200:
      x = jnp.asarray(random.standard_normal((count, 1000), np.float32), jnp.bfloat16)
      wanted = np.float64(x) @ np.float64(dequantize(kernel))
      found = np.float64(jax.jit(int4.matmul)(x, packed_))
      yield type(packed_), abs(found - wanted).max() / abs(wanted).max()
