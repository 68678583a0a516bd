"""Microseconds of a space's ops on this machine, its CPU or GPU: a table like that of instructions.

Each op is a program of its own, called again and again; a network's sum leaves out what fusing ops
together saves. Where an op takes less than a call, the call is measured: take a larger batch.
"""

import functools
import time

import jax
import jax.numpy as jnp

from reduction.kernels.depthwise import reference as depthwise
from reduction.net import apply, initializer
from reduction.search import latency, supernet
from reduction.search.arch import Arch
from reduction.search.cost import CONV, DENSE, DEPTHWISE, POINTWISE, POOL, ops_of
from reduction.search.space import Space


def shapes_of(space: Space) -> list[tuple]:
  """Every op shape, as of `latency.KEYS`, of a space of one resolution and width."""
  return latency.shapes(ops_of(space, latency.covering(space)))


def program(shape: tuple, batch: int):
  """(f, its arguments): one op of float32 on a batch of images."""
  kind, kernel, stride, side, _, cin, cout, *_ = shape
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


def network(arch: Arch, batch: int):
  """(f, its arguments): a whole network, its normalizations too, on a batch of images."""
  x = jnp.ones((batch, arch.resolution, arch.resolution, arch.channels), jnp.float32)
  module = supernet.network(arch)
  variables = jax.eval_shape(initializer(module), jax.random.key(0), x)
  full = jax.tree.map(lambda v: jnp.ones(v.shape, v.dtype), variables)
  return functools.partial(apply, module), (*full, x)


def compiled(f, arguments):
  """A call of f's program without arguments."""
  f = jax.jit(f)
  jax.block_until_ready(f(*arguments))
  return lambda: f(*arguments)


def seconds(call, calls: int, clock=time.perf_counter) -> float:
  """Of one of several calls."""
  began = clock()
  for _ in range(calls):
    out = call()
  jax.block_until_ready(out)
  return (clock() - began) / calls


def timed(shapes, *, batch: int = 1, calls: int = 20, repeats: int = 5, clock=time.perf_counter):
  """Shape -> microseconds an image, the best of repeats of `calls` calls. For `latency.fit`."""
  found = {}
  for shape in shapes:
    call = compiled(*program(shape, batch))
    found[shape] = min(seconds(call, calls, clock) for _ in range(repeats)) * 1e6 / batch
  return found
