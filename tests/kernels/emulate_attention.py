"""Runs a GPU's attention in Pallas' emulator (JAX 0.11 and later). A child of test_attention.py.

stdin: lines of `heads`, `kv_heads`, `size`, `stored`, `n` (texts), `place`, `parts` at most.
stdout: the same with the largest error over the largest number, and whether there was a race.
`unfenced`: whether what was written to shared memory is left uncommitted, so that there is a race
to be seen.
"""

import json
import os
import sys

os.environ['JAX_PLATFORMS'] = 'cpu'

from jax.experimental.pallas import mosaic_gpu as plgpu

from reduction.kernels import attention_gpu
from tests.kernels.emulate_gpu import raced
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
  for line in sys.stdin:
    case = json.loads(line)
    settings, fence = dict(case), plgpu.commit_smem
    if settings.pop('unfenced', False):
      plgpu.commit_smem = lambda: None
    found = float(off(**settings))
    plgpu.commit_smem = fence
    print(json.dumps(case | dict(error=found, raced=raced())), flush=True)
