"""One token through all packed blocks of a decoder on a CPU, in C++: see cpu/decoder.h."""

import jax
import jax.numpy as jnp
import numpy as np

from reduction.kernels import native

STORED = 'float32', 'bfloat16', 'int8'  # of its memory


def token(x, linears, vectors, memory: dict, place, *, heads: int, turns, epsilon: float):
  """(x after the blocks, the memory with this token at `place`, which should be donated).

  x: float32 [..., width] of one token. linears: `CpuWeight`s of all blocks, the columns of one
  after those of another: queries, keys and values together; outputs; gates and ups together; downs.
  vectors: float32, norms [layers, 2 width], biases [layers, columns of the first linear] and norms
  of the heads of queries and of keys [layers, 2 size], the last two [layers, 0] where there are
  none. memory: key, value of STORED [layers, 1, places, kv_heads * size], scales [layers, 2, 1,
  kv_heads, places] where they are int8. turns: radians [size / 2].
  Other shapes are refused as the program runs.
  """
  scales = memory.get('scales', jnp.zeros(0, jnp.float32))
  kept = memory['key'], memory['value'], scales
  like = [jax.ShapeDtypeStruct(part.shape, part.dtype) for part in (x, *kept)]
  weights = [part for w in linears for part in (w.data, w.scale, w.zero)]
  sizes = [(w.scheme.bits, w.size) for w in linears]
  call = jax.ffi.ffi_call('reduction_decoder', like, input_output_aliases={1: 1, 2: 2, 3: 3})
  y, key, value, scales = call(
    x, *kept, jnp.int32(place), *vectors, jnp.asarray(turns, jnp.float32), *weights,
    heads=heads, inner=linears[3].rows, epsilon=np.float32(epsilon),
    sizes=np.array(sizes, np.int64).ravel(), eight=linears[0].eight, threads=native.threads(),
  )  # fmt: skip
  new = dict(key=key, value=value)
  return y, memory | (new | dict(scales=scales) if 'scales' in memory else new)
