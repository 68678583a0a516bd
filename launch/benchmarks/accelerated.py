"""Products of a few rows with packed weights on an accelerator: beside floats and reading alone."""

import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

from launch.benchmarks.packed import READ, compare, table
from launch.benchmarks.sides import Session
from reduction.errors import require
from reduction.kernels import int4
from reduction.qtensor import Scheme
from reduction.quantize.rtn import quantize

KINDS = {'INT4': 4, 'INT3': 3}
PEERS = {  # what each is compared with
  'bfloat16': 'INT4', 'INT4, floats first': 'INT4', 'INT3, floats first': 'INT3',
}  # fmt: skip


def accelerated(
  *, shapes: tuple, rows_of_x: tuple[int, ...], group: int, bytes: int, repeats: int, launches: int
):  # fmt: skip
  """Times bfloat16 x [count, rows] times packed weights [rows, columns] on the device here.

  Programs of many products, each with inputs and a weight of its own, read from memory: bytes, of
  all copies of a weight, are far beyond the caches; launches: products of a program at least, which
  share what starts it. Reading: the same bytes, only summed. Rows
  'packed' as of `launch.benchmarks.packed`, beside bfloat16 weights and beside packed ones that
  become floats first.
  """
  numbers = dict(rows_of_x=min(rows_of_x), bytes=bytes, repeats=repeats, launches=launches)
  require(min(numbers.values()) > 0, f'{numbers}: all above 0')
  settings = dict(group=group, bytes=bytes)

  def bench(session: Session):
    rows = []
    for shape in shapes:
      weights = made(shape, group)
      for count in rows_of_x:
        found = timed(programs(weights, shape, count, bytes, launches), repeats)
        job = dict(rows=shape[0], columns=shape[1], count=count)
        rows += compare(job, found, kinds=KINDS, peers=PEERS)
        session.say(f'accelerated: {shape[0]} x {shape[1]}, {count} rows')
    return rows, [table(rows, settings)]

  return bench


def made(shape: tuple, group: int) -> dict:
  """Name -> the weight."""
  w = jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))
  pack = lambda bits: int4.prepacked(quantize(w, Scheme(bits, group), dtype=jnp.float16))
  return {name: pack(bits) for name, bits in KINDS.items()} | {'bfloat16': w.astype(jnp.bfloat16)}


def programs(weights: dict, shape: tuple, count: int, bytes: int, least: int) -> dict:
  """Name -> (program, its arguments, products in it, bytes of a weight)."""
  random = np.random.default_rng(count)
  launches = lambda copies: copies * -(-least // copies)
  copies = {name: copied(w, bytes) for name, w in weights.items()}
  flat = [_flat(w) for w in copies['INT4']]
  most = max(launches(len(same)) for same in copies.values())
  x = random.standard_normal((most, count, shape[0]), np.float32)
  x = list(jnp.asarray(x, jnp.bfloat16))
  plain = lambda x, w: x @ w
  work = {
    READ: (_read, flat),
    'INT4': (int4.matmul, copies['INT4']),
    'INT3': (int4.matmul, copies['INT3']),
    'bfloat16': (plain, copies['bfloat16']),
    'INT4, floats first': (int4.reference, copies['INT4']),
    'INT3, floats first': (int4.reference, copies['INT3']),
  }

  def compiled(name):
    times, same = work[name]
    times = jax.jit(times)  # traced once, not once a launch
    n = launches(len(same))
    program = jax.jit(lambda x, w: sum(times(a, w[i % len(w)])[0, 0] for i, a in enumerate(x)))
    size = sum(part.nbytes for part in jax.tree.leaves(same[0]))
    return program.lower(x[:n], same).compile(), (x[:n], same), n, size

  with ThreadPoolExecutor(len(work)) as pool:
    return dict(zip(work, pool.map(compiled, work)))


def copied(weight, bytes: int) -> list:
  """Copies of a weight, at least two, together of so many bytes."""
  size = sum(part.nbytes for part in jax.tree.leaves(weight))
  return [jax.tree.map(jnp.copy, weight) for _ in range(max(2, -(-bytes // size)))]


def _read(x, words):
  """A sum of all words [1, 1] that differs with x."""
  return (words ^ jax.lax.bitcast_convert_type(x[0, 0], jnp.uint16)).sum(keepdims=True)[None]


@jax.jit
def _flat(weight):
  """All bytes of a weight as words of 32 bits [n]."""
  leaves = [part.view(jnp.uint8).reshape(-1) for part in jax.tree.leaves(weight)]
  return jnp.concatenate(leaves).view(jnp.uint32)


def timed(work: dict, repeats: int) -> dict[str, list[dict]]:
  """Name -> for each repeat the seconds of a product and the bytes of its weight; by turns."""
  found = {name: [] for name in work}
  for repeat in range(repeats + 1):
    for name in list(work)[:: -1 if repeat % 2 else 1]:
      program, args, products, size = work[name]
      began = time.perf_counter()
      jax.block_until_ready(program(*args))
      if repeat:
        found[name].append(dict(seconds=(time.perf_counter() - began) / products, bytes=size))
  return found
