"""One token's attention to its memory on the device here: beside blocks, all places and reading."""

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

from launch.benchmarks.accelerated import copied, timed
from launch.benchmarks.pace import cell
from launch.benchmarks.packed import READ, compare
from launch.benchmarks.sides import Session
from reduction.errors import require
from reduction.kernels import attention
from reduction.report import Table

OURS = 'what a decoder takes'
PEERS = {'block by block': OURS, 'all places at once': OURS}


def remembering(
  *, memories: tuple, filled: tuple[int, ...], stored: tuple[str, ...], bytes: int, repeats: int,
  launches: int,
):  # fmt: skip
  """Times what a token reads of a memory, of which so many places are filled.

  memories: (heads, kv_heads, size, places) each; stored: of its keys and values. Programs of so
  many launches, each a token with a memory of its own: bytes, of the filled parts of all copies,
  are far beyond the caches where there are launches enough. Reading: the filled part, only summed.
  Rows 'remembered': as 'packed' of `launch.benchmarks.packed`, beside 128 places after another and
  beside one softmax over all places, filled or not.
  """
  numbers = dict(filled=min(filled), bytes=bytes, repeats=repeats, launches=launches)
  require(min(numbers.values()) > 0, f'{numbers}: all above 0')

  def bench(session: Session):
    rows = []
    for heads, kv_heads, size, places in memories:
      require(max(filled) <= places, f'{max(filled)} filled of {places} places')
      for kept in stored:
        for count in filled:
          job = dict(heads=heads, kv_heads=kv_heads, size=size, stored=kept, filled=count)
          found = timed(programs(job, places, bytes, launches), repeats)
          rows += compare(job, found, kinds=(OURS,), peers=PEERS, kind='remembered')
          session.say(f'remembering: {heads} heads, {count} of {places} places in {kept}')
    return rows, [table(rows)]

  return bench


def programs(job: dict, places: int, bytes: int, launches: int) -> dict:
  """Name -> (program, its arguments, tokens in it, bytes of what is filled)."""
  kv_heads, count, random = job['kv_heads'], job['filled'], np.random.default_rng(0)
  kept = random.integers(-127, 128, (2, 1, places, kv_heads * job['size'])).astype(np.int8)
  whole = job['stored'] == 'int8'
  scales = jnp.full((2, 1, kv_heads, places), 0.01, jnp.float32) if whole else None
  memory = *(jnp.asarray(part, job['stored']) for part in kept), scales
  size = sum(part.nbytes for part in jax.tree.leaves(memory)) * count // places
  most = launches * sum(part.nbytes for part in jax.tree.leaves(memory))
  same = copied(memory, min(bytes * places // count, most))
  tokens = len(same) * -(-launches // len(same))
  query = random.standard_normal((tokens, 1, 1, job['heads'], job['size']), np.float32) / 100
  query = list(jnp.asarray(query, jnp.bfloat16))
  work = {
    OURS: attention.read, 'block by block': attention.reference, 'all places at once': at_once,
    READ: lambda query, *memory: _read(query, memory, count),
  }  # fmt: skip

  def compiled(name):
    read = jax.jit(lambda query, memory: work[name](query, *memory, count - 1))
    program = jax.jit(lambda query, same: sum(
      read(one, same[i % len(same)]).reshape(-1)[0] for i, one in enumerate(query)
    ))  # fmt: skip
    return program.lower(query, same).compile(), (query, same), tokens, size

  attention.read(query[0], *memory, count - 1)  # the kernel is tried before it is timed
  with ThreadPoolExecutor(len(work)) as pool:
    return dict(zip(work, pool.map(compiled, work)))


def at_once(query, key, value, scales, place) -> jax.Array:
  """`attention.read` of one token as one softmax over all places."""
  n, _, heads, size = query.shape
  shape = n, key.shape[1], key.shape[-1] // size, size
  by = [None, None] if scales is None else scales.swapaxes(2, 3)[..., None]
  key, value = (
    x.reshape(shape) if s is None else (x.reshape(shape) * s).astype(query.dtype)
    for x, s in zip((key, value), by)
  )
  query = query.reshape(n, shape[2], -1, size)
  scores = jnp.einsum('ngrd,nkgd->ngrk', query, key, preferred_element_type=jnp.float32)
  scores = jnp.where(jnp.arange(shape[1]) > place, -jnp.inf, scores * size**-0.5)
  read = jnp.einsum('ngrk,nkgd->ngrd', jax.nn.softmax(scores).astype(value.dtype), value)
  return read.reshape(n, 1, heads * size).astype(jnp.float32)


def _read(query, memory, count):
  """A sum of what is filled that differs with the query."""
  key, value, scales = memory[:3]
  parts = [key[:, :count], value[:, :count], *([] if scales is None else [scales[..., :count]])]
  return sum((part.astype(jnp.float32) * query[0, 0, 0, 0]).sum() for part in parts)


def table(rows: list[dict]) -> Table:
  """A line for each memory and peer."""

  def shown(row, name, by, how):
    return cell({k: by * row[k] for k in (name, f'{name}_low', f'{name}_high')}, name, how)

  cells = tuple(
    (
      f'{row["heads"]}/{row["kv_heads"]} x {row["size"]}', row['stored'], f'{row["filled"]:,}',
      shown(row, 's', 1e6, '.3g'), shown(row, 'of_read', 100, '.0f'), row['peer'],
      shown(row, 'peer_s', 1e6, '.3g'), shown(row, 'ratio', 1, '.2f'),
    )
    for row in rows
  )  # fmt: skip
  note = (
    'One token, medians and ranges. Of reading: the time in which what is filled is only summed, '
    "over ours. Ratio: the peer's time over ours."
  )
  columns = (
    'heads/of keys x units', 'kept in', 'filled', 'us', '% of reading', 'beside', 'its us', 'ratio'
  )  # fmt: skip
  return Table('Attention of one token', columns, cells, note)
