"""How fast answers come, beside what the memory allows: a token reads every weight once."""

import functools
import time

import jax
import jax.numpy as jnp

SIZE = 2**28  # bytes, beyond any cache


@functools.cache
def bandwidth() -> float:
  """Bytes a second that this device reads: the best of three sums over 256 MiB."""
  x = jnp.ones((1024, SIZE // 4096), jnp.float32)  # rows, which cores share
  total = jax.jit(lambda x, y: (x + y).sum(1))  # y differs, so that no sum is known before
  jax.block_until_ready(total(x, 0.0))
  times = []
  for i in range(3):
    began = time.perf_counter()
    jax.block_until_ready(total(x, float(i)))
    times.append(time.perf_counter() - began)
  return SIZE / min(times)


def told(runtime) -> str:
  """How fast the last answer of a `Runtime` came, in a line."""
  read, read_s, wrote, wrote_s = (
    runtime.times[name] for name in ('read', 'read_s', 'wrote', 'wrote_s')
  )
  if not wrote:
    return 'nothing was answered yet'
  speed, size = wrote / max(wrote_s, 1e-9), runtime.bytes_per_token()
  return (
    f'{read} tokens read in {read_s:.2f} s, {wrote} written at {speed:.1f} a second, '
    f'{100 * speed * size / bandwidth():.0f} % of what the memory allows ({size / 1e6:.0f} MB a '
    f'token); {len(runtime.tokens)} of {runtime.context} places are filled'
  )
