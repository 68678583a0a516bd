"""Compiles a token's attention to its memory where there is no such device. A child of
test_attention.py; what must be installed, compile_tpu.py and compile_gpu.py say.

stdin: lines of `device`, v5e, v5p, v6e or h100, `heads`, `kv_heads`, `size`, `places`, `stored`.
stdout: the same with `kernels`, those of the project in the program, `loops`, and `copied`, numbers
of the largest array that is copied; of an h100 also the `registers` of a thread, the bytes that
these `spilled` and the number of `wgmma` instructions.
"""

# ruff: noqa: I001 (who sets the environment comes first)
import json
import pathlib
import sys

from tests.kernels import compile_gpu, compile_tpu

import jax
import jax.numpy as jnp

from reduction.kernels import attention_gpu, attention_tpu
from tests.kernels.compile_decode import copies

CALLED = 'tpu_custom_call', 'mosaic_gpu_v2'


def compiled(device, heads, kv_heads, size, places, stored):
  """(the program's text, what Mosaic wrote down of a GPU's)"""
  gpu = device == 'h100'
  own, lowering = (attention_gpu, 'cuda') if gpu else (attention_tpu, 'tpu')
  here = jax.sharding.SingleDeviceSharding(
    compile_gpu.device() if gpu else compile_tpu.device(device)
  )
  shaped = lambda *shape, dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=here)
  query = shaped(1, heads, size, dtype=jnp.bfloat16)
  memory = shaped(1, places, kv_heads * size, dtype=stored)
  scales = shaped(2, 1, kv_heads, places, dtype='float32') if stored == 'int8' else None
  dump = pathlib.Path(compile_gpu.DUMP.name)
  before = set(dump.iterdir())
  traced = jax.jit(own.read).trace(query, memory, memory, scales, shaped(dtype='int32'))
  program = traced.lower(lowering_platforms=(lowering,)).compile()
  new = set(dump.iterdir()) - before
  return program.as_text(), {path.suffix: path.read_text(errors='replace') for path in new}


if __name__ == '__main__':
  for line in sys.stdin:
    case = json.loads(line)
    text, new = compiled(**case)
    called = sum(text.count(f'custom_call_target="{name}"') for name in CALLED)
    case |= dict(kernels=called, loops=text.count(' while('), copied=max(copies(text), default=0))
    print(json.dumps(case | (compile_gpu.told(new) if new else {})), flush=True)
