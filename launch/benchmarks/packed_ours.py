"""The project's side of the benchmark of packed products; see `launch.benchmarks.packed`."""

import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from launch.benchmarks.ours import answer
from launch.benchmarks.packed import KINDS, READ
from reduction.errors import require
from reduction.kernels import int4, native
from reduction.qtensor import Scheme
from reduction.quantize.rtn import quantize


def weights(rows, columns, bits, settings):
  """Copies of a packed weight, together beyond the caches."""
  w = jnp.asarray(np.random.default_rng(0).standard_normal((rows, columns), np.float32))
  scheme = Scheme(bits, settings['group'])
  made = jax.jit(lambda w: int4.prepacked(quantize(w, scheme, dtype=jnp.float16)))(w)
  size = sum(x.nbytes for x in jax.tree.leaves(made))
  copies = max(2, settings['bytes'] // size)
  return [jax.tree.map(jnp.copy, made) for _ in range(copies)], size


@jax.jit
def products(x, weights):
  """A number made of the products with all weights, one after another."""
  for w in weights:
    y = int4.matmul(x, w)
    x = x + y[:, :1] * 0  # the next waits for this one
  return x.sum()


@jax.jit
def passes(data):
  """The same of reading."""
  total = jnp.zeros(1, jnp.uint32)
  for part in data:
    total = total + native.read(part)
  return total


def side(settings: dict):
  """ask(rows, columns, count, kind) -> seconds of a product, bytes of a weight."""
  require(native.ready(), 'the native kernel is not there: install g++')
  made = {}

  def ask(rows: int, columns: int, count: int, kind: str) -> dict:
    bits, eight = KINDS.get(kind, KINDS['INT4'])
    if (rows, columns) not in {key[:2] for key in made}:
      made.clear()
    if (key := (rows, columns, bits)) not in made:
      made[key] = weights(*key, settings)
    copies, size = made[key]
    copies = [w.replace(eight=eight) for w in copies]
    x = jnp.ones((count, rows))
    run = lambda: passes([w.data for w in copies]) if kind == READ else products(x, copies)
    jax.block_until_ready(run())
    began = time.perf_counter()
    jax.block_until_ready(run())
    seconds = (time.perf_counter() - began) / len(copies)
    return dict(seconds=seconds, bytes=copies[0].data.nbytes if kind == READ else size)

  return ask


def main():
  """The settings are the first line of stdin."""
  ask = side(json.loads(sys.stdin.readline()))
  answer(ask, about=f'jax {jax.__version__}')


if __name__ == '__main__':
  main()
