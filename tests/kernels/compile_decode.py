"""Compiles a decoder's step of one token where there is no such device. A child of the tests of the
kernels of TPUs and GPUs, which say what must be installed.

stdin: lines of `platform`, 'tpu' (a v5e) or 'gpu' (an H100), and `stored`, the type of the memory.
stdout: the same with `kernels`, those of the project in a block, `launches` of a block on a GPU,
with its share of what is before and after the blocks, `loops`, those of the program,
`remembered`, bytes of the memory of earlier tokens, `donated`, bytes of results that lie where
arguments did, and `copied`, numbers of the largest array that is copied.
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
from reduction.kernels import attention, attention_gpu, int4_gpu, int4_tpu
from reduction.models import memory
from reduction.models.llama import llama
from reduction.models.merged import merged
from reduction.models.served import Served
from reduction.qtensor import is_packed
from tests.kernels.shapes import weight

LAYERS, PLACES = 2, 2048
SIZES = dict(width=2048, heads=32, kv_heads=8, inner=5632, vocabulary=32000)
PLATFORMS = dict(  # the kernel, what JAX calls the platform, what the program calls such
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


def compiled(platform, stored):
  """(the program of a step, shapes of its memory)"""
  kernel, lowering, _, device = PLATFORMS[platform]
  jax.default_backend = lambda: platform
  attention.why_not = lambda right: ''  # it can be tried there alone
  attention_gpu.hopper = lambda: True
  module = Served(llama(layers=LAYERS, positions=PLACES, **SIZES))
  kept = jax.eval_shape(lambda: memory.empty(module, 1, PLACES, stored))
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


def launches(text):
  """Kernels that a GPU's program starts one after another."""
  return len(
    re.findall(r'^  \S+ = .* (?:fusion|custom-call)\(', text[text.index('\nENTRY') :], re.M)
  )


if __name__ == '__main__':
  for line in sys.stdin:
    case = json.loads(line)
    program, kept = compiled(case['platform'], case['stored'])
    text = program.as_text()
    called = text.count(f'custom_call_target="{PLATFORMS[case["platform"]][2]}"')
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(kept))
    told = dict(
      kernels=called / LAYERS,
      launches=launches(text) / LAYERS,
      loops=text.count(' while('),
      remembered=size,
      donated=program.memory_analysis().alias_size_in_bytes,
      copied=max(copies(text), default=0),
    )
    print(json.dumps(case | told), flush=True)
