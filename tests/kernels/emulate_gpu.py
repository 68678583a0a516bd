"""Runs the GPU kernel in Pallas' emulator (JAX 0.11 and later). A child of test_int4_gpu.py.

stdin: lines of `bits`, `group`, `symmetric`, `count` (rows of x), `rows`, `columns`, `dtype`.
stdout: the same with the largest error over the largest product, and whether there was a race.
"""

import json
import os
import sys

os.environ['JAX_PLATFORMS'] = 'cpu'

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import mosaic_gpu as plgpu

from reduction.kernels import int4_gpu
from reduction.qtensor import Scheme, dequantize
from reduction.quantize.rtn import quantize


def error(bits, group, symmetric, count, rows, columns, dtype):
  """The largest of the product, over the largest product."""
  random = np.random.default_rng(0)
  w = jnp.asarray(random.standard_normal((rows, columns), np.float32) + 0.3)
  kernel = quantize(w, Scheme(bits, group, symmetric), dtype=jnp.float16)
  x = jnp.asarray(random.standard_normal((count, rows), np.float32), dtype)
  emulator = plgpu.InterpretGPUParams(detect_races=True)
  found = int4_gpu.matmul(x, jax.jit(int4_gpu.prepacked)(kernel), interpret=emulator)
  assert found.dtype == x.dtype and found.shape == (count, columns)
  wanted = np.float64(x) @ np.float64(dequantize(kernel))
  return abs(np.float64(found) - wanted).max() / abs(wanted).max()


def raced() -> bool:
  """Whether the emulator saw a race in the last run."""
  from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks

  return gpu_callbacks.get_races().races_found


if __name__ == '__main__':
  for line in sys.stdin:
    case = json.loads(line)
    print(json.dumps(case | dict(error=float(error(**case)), raced=raced())), flush=True)
