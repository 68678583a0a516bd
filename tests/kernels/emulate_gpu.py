"""Runs the GPU kernel in Pallas' emulator (JAX 0.11 and later). A child of test_int4_gpu.py.

stdin: lines of `bits`, `group`, `symmetric`, `count` (rows of x), `rows`, `columns`, `dtype`.
stdout: the same with the largest error over the largest product, and whether there was a race;
`gradient`: the same error of the derivative by x of the products, weighted. `unfenced`: whether
what was written to shared memory is left uncommitted, so that there is a race to be seen.
"""

import json
import os
import sys

os.environ['JAX_PLATFORMS'] = 'cpu'

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import mosaic_gpu as plgpu

from reduction.kernels import int4, int4_gpu
from reduction.qtensor import Scheme, dequantize
from reduction.quantize.rtn import quantize


def error(bits, group, symmetric, count, rows, columns, dtype):
  """That of the products, and of their derivative."""
  random = np.random.default_rng(0)
  w = jnp.asarray(random.standard_normal((rows, columns), np.float32) + 0.3)
  kernel = quantize(w, Scheme(bits, group, symmetric), dtype=jnp.float16)
  x = jnp.asarray(random.standard_normal((count, rows), np.float32), dtype)
  emulator = plgpu.InterpretGPUParams(detect_races=True)
  own = int4_gpu.matmul
  int4_gpu.matmul = lambda *args: own(*args, interpret=emulator)
  weight, by = jax.jit(int4_gpu.prepacked)(kernel), random.integers(-3, 4, (count, columns))
  found, pull = jax.vjp(lambda x: int4.matmul(x, weight), x)
  int4_gpu.matmul = own
  (gradient,) = pull(jnp.asarray(by, dtype))
  assert gradient.dtype == x.dtype
  assert found.dtype == x.dtype and found.shape == (count, columns)
  w = np.float64(dequantize(kernel))
  return worst(found, np.float64(x) @ w), worst(gradient, by @ w.T)


def worst(found, wanted):
  """The largest difference over the largest number."""
  return float(abs(np.float64(found) - wanted).max() / abs(wanted).max())


def raced() -> bool:
  """Whether the emulator saw a race in the last run."""
  from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks

  return gpu_callbacks.get_races().races_found


def answer(found):
  """Prints each case of stdin with what found(**case) says, and whether there was a race."""
  for line in sys.stdin:
    case = json.loads(line)
    settings, fence = dict(case), plgpu.commit_smem
    if settings.pop('unfenced', False):
      plgpu.commit_smem = lambda: None
    told = found(**settings)
    plgpu.commit_smem = fence
    print(json.dumps(case | told | dict(raced=raced())), flush=True)


if __name__ == '__main__':
  answer(lambda **case: dict(zip(('error', 'gradient'), error(**case))))
