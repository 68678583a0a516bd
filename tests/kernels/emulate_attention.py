"""Runs a GPU's attention in Pallas' emulator (JAX 0.11 and later). A child of test_attention.py.

stdin: lines of `heads`, `kv_heads`, `size`, `stored`, `n` (texts), `place`, `parts` at most.
stdout: the same with the largest error over the largest number, and whether there was a race.
`unfenced`: whether what was written to shared memory is left uncommitted, so that there is a race
to be seen.
"""

# ruff: noqa: I001 (who sets the environment comes first)
from tests.kernels.emulate_gpu import answer

from jax.experimental.pallas import mosaic_gpu as plgpu

from reduction.kernels import attention_gpu
from tests.kernels.test_attention import error, made


def off(heads, kv_heads, size, stored, n, place, parts):
  """The largest error."""
  attention_gpu.PARTS = parts
  attention_gpu.read.clear_cache()
  (query, *memory), floats = made(heads, kv_heads, size, stored, n=n)
  emulator = plgpu.InterpretGPUParams(detect_races=True)
  read = lambda query, *rest: attention_gpu.read(query[:, 0], *rest, interpret=emulator)
  return error(read, query, *memory, floats, place)


if __name__ == '__main__':
  answer(lambda **case: dict(error=float(off(**case))))
