"""How fast answers come, beside what the memory allows: a token reads every weight once."""

import functools
import time

import jax
import jax.numpy as jnp

from reduction.kernels import native

SIZE = 2**28  # bytes, beyond any cache
PASSES = 50


@functools.cache
def bandwidth() -> float:
  """Bytes a second that this device reads: the best of three programs, which read 256 MiB once on a
  CPU and, where that is over before a program has begun, fifty times on an accelerator."""
  here = jax.default_backend() == 'cpu'
  own, passes = here and native.ready(), 1 if here else PASSES
  # a maximum needs no order, as sums of floats do; of what differs, so that each pass is one
  again = lambda data: jax.lax.fori_loop(0, passes, lambda i, most: jnp.max(data ^ (most & i)), 0)
  total = jax.jit(native.read if own else again)
  data = jnp.ones(SIZE if own else SIZE // 4, jnp.uint8 if own else jnp.int32)
  jax.block_until_ready(total(data))
  times = []
  for _ in range(3):
    began = time.perf_counter()
    jax.block_until_ready(total(data))
    times.append(time.perf_counter() - began)
  return passes * SIZE / min(times)


def told(runtime) -> str:
  """How fast the last answer of a `Runtime` came, in a line."""
  times = runtime.times
  if not times['wrote']:
    return 'nothing was answered yet'
  pace = ''
  if times['steps']:
    speed, size = times['steps'] / max(times['steps_s'], 1e-9), runtime.bytes_per_token()
    pace = (
      f' at {speed:.1f} a second, {100 * speed * size / bandwidth():.0f} % of what the memory '
      f'allows ({size / 1e6:.0f} MB a token)'
    )
  return (
    f'{times["read"]} tokens read in {times["read_s"]:.2f} s, time to first token '
    f'{times["first_s"]:.3g} s, {times["wrote"]} written{pace}; '
    f'{len(runtime.tokens)} of {runtime.context} places are filled'
  )
