"""Compiles a decoder's step of one token where there is no such device. A child of the tests of the
kernels of TPUs and GPUs, which say what must be installed.

stdin: lines of `platform`, 'tpu' (a v5e) or 'gpu' (an H100). stdout: the same with `products`,
packed ones of a block, `remembered`, bytes of the memory of earlier tokens, `donated`, bytes of
results that lie where arguments did, and `copied`, numbers of the largest array that is copied.
"""

# ruff: noqa: I001 (who sets the environment comes first)
import json
import math
import re
import sys

from tests.kernels import compile_gpu, compile_tpu

import jax
import jax.numpy as jnp

from reduction import tree
from reduction.chat.runtime import programs
from reduction.kernels import int4_gpu, int4_tpu
from reduction.models import memory
from reduction.models.llama import llama
from reduction.models.merged import merged
from reduction.models.served import Served
from reduction.qtensor import is_packed
from tests.kernels.shapes import weight

LAYERS, PLACES = 2, 2048
SIZES = dict(width=2048, heads=32, kv_heads=8, inner=5632, vocabulary=32000)
PLATFORMS = dict(  # the kernel, what JAX calls the platform, what the program calls a product
  tpu=(int4_tpu, 'tpu', 'tpu_custom_call', lambda: compile_tpu.device('v5e')),
  gpu=(int4_gpu, 'cuda', 'mosaic_gpu_v2', compile_gpu.device),
)


def params(module, kernel):
  """Those of module, shapes: bfloat16, linears of its blocks in 4 bits, as kernel orders them."""
  whole = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))['params']
  found = {}
  for path, w in tree.named(whole):
    small = path.startswith('layer') and path.endswith('kernel')
    half = jax.ShapeDtypeStruct(w.shape, jnp.bfloat16)
    found[path] = weight(lambda w: w, 4, 128, *w.shape) if small else half
  own = lambda w: kernel.prepacked(w) if is_packed(w) else w
  ordered = lambda params: jax.tree.map(own, merged(params), is_leaf=is_packed)
  return jax.eval_shape(ordered, tree.nest(found))


def compiled(platform):
  """(the program of a step, shapes of its memory)"""
  kernel, lowering, _, device = PLATFORMS[platform]
  jax.default_backend = lambda: platform
  module = Served(llama(layers=LAYERS, positions=PLACES, **SIZES))
  kept = jax.eval_shape(lambda: memory.empty(module, 1, PLACES, 'bfloat16'))
  whole = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.int32)
  _, _, step, _, _ = programs(module)
  here = jax.sharding.SingleDeviceSharding(device())
  put = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here)
  given = jax.tree.map(put, (params(module.module, kernel), kept, whole(1, 1), whole()))
  return step.trace(*given).lower(lowering_platforms=(lowering,)).compile(), kept


def copies(text):
  """Numbers of each array that a program copies."""
  found = re.findall(r'= \w+\[([\d,]*)\]\S* copy\(', text)
  return [math.prod(map(int, filter(None, shape.split(',')))) for shape in found]


if __name__ == '__main__':
  for line in sys.stdin:
    case = json.loads(line)
    program, kept = compiled(case['platform'])
    text = program.as_text()
    called = text.count(f'custom_call_target="{PLATFORMS[case["platform"]][2]}"')
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(kept))
    told = dict(
      products=called / LAYERS, remembered=size,
      donated=program.memory_analysis().alias_size_in_bytes, copied=max(copies(text), default=0),
    )
    print(json.dumps(case | told), flush=True)
