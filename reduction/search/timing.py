"""Microseconds of a space's ops on this machine, its CPU or GPU: a table like that of instructions.

Each op is a program of its own, called again and again; a network's sum leaves out what fusing ops
together saves. Where an op takes less than a call, the call is measured: take a larger batch.
"""

import time

import jax
import jax.numpy as jnp

from reduction.kernels.depthwise import reference as depthwise
from reduction.search import latency
from reduction.search.cost import CONV, DENSE, DEPTHWISE, POINTWISE, POOL, ops_of
from reduction.search.space import Space


def shapes_of(space: Space) -> list[tuple]:
  """Every op shape, as of `latency.KEYS`, of a space of one resolution and width."""
  return latency.shapes(ops_of(space, latency.covering(space)))


def program(shape: tuple, batch: int):
  """(f, its arguments): one op of float32 on a batch of images."""
  kind, kernel, stride, side, _, cin, cout, _ = shape
  full = lambda *size: jnp.ones(size, jnp.float32)
  x = full(batch, side, side, cin)
  if kind == CONV:
    pad = ((kernel // 2,) * 2,) * 2
    conv = lambda x, w: jax.lax.conv_general_dilated(
      x, w, (stride, stride), pad, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    return conv, (x, full(kernel, kernel, cin, cout))
  if kind == DEPTHWISE:
    return lambda x, w: depthwise(x, w, stride), (x, full(kernel, kernel, 1, cin))
  if kind in (POINTWISE, DENSE):
    return jnp.matmul, (x, full(cin, cout))
  if kind == POOL and kernel == 1:
    return lambda x: x.mean((1, 2)), (x,)
  if kind == POOL:
    return lambda x: x.reshape(batch, side // 2, 2, side // 2, 2, cin).mean((2, 4)), (x,)
  return jnp.add, (x, x + 1)


def timed(shapes, *, batch: int = 1, calls: int = 20, repeats: int = 5, clock=time.perf_counter):
  """Shape -> microseconds an image, the best of repeats of `calls` calls. For `latency.fit`."""
  found = {}
  for shape in shapes:
    f, arguments = program(shape, batch)
    f = jax.jit(f)
    jax.block_until_ready(f(*arguments))
    seconds = []
    for _ in range(repeats):
      began = clock()
      for _ in range(calls):
        out = f(*arguments)
      jax.block_until_ready(out)
      seconds.append(clock() - began)
    found[shape] = min(seconds) * 1e6 / calls / batch
  return found
