"""Products by rows of x: where weights in 4 bits stop being the fastest, on the device here.

One row waits for the bytes of the weight; many rows wait for the multiplications, of which weights
in few bits save none (Lin et al., AWQ, section 4.1).
"""

import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from launch.benchmarks.pace import cell
from launch.benchmarks.sides import Session, spread
from reduction.errors import require
from reduction.kernels import int4, native
from reduction.models.served import product
from reduction.qtensor import Scheme
from reduction.quantize.rtn import quantize
from reduction.report import Table
from reduction.report.intervals import NONE

SETTLED = 0.95  # of the other's time: less is no more than the machine's noise


def _packed(bits, eight=False):
  def make(w, group):
    made = int4.prepacked(quantize(w, Scheme(bits, group), dtype=jnp.float16))
    return made.replace(eight=True) if eight else made

  return make


def _eight(w, group):
  del group
  return quantize(w, Scheme(8, 'channel', symmetric=True))


def _how(kernel, count):
  return 'floats' if int4.form(count, kernel) is int4.reference else 'packed'


class Kind(NamedTuple):
  """make(w, group): the weight as it is kept; times(x, kernel): the product; how(kernel, count):
  what multiplies so many rows.
  """

  make: Callable
  times: Callable
  how: Callable = lambda kernel, count: 'floats'


def _plain(dtype):
  return Kind(lambda w, group: w.astype(dtype), lambda x, w: x.astype(dtype) @ w)


def _sixteen(x):
  """x in 16 bits on accelerators; a CPU's kernel rounds it itself."""
  return x if jax.default_backend() == 'cpu' else x.astype(jnp.bfloat16)


KINDS = {
  'float32': _plain(jnp.float32),
  'bfloat16': _plain(jnp.bfloat16),
  'W8A8': Kind(_eight, product, lambda kernel, count: 'integers'),
  'W4A16': Kind(_packed(4), lambda x, w: int4.matmul(_sixteen(x), w), _how),
  'W4A8': Kind(_packed(4, eight=True), int4.matmul, _how),
}


def by_rows(
  *, shape: tuple[int, int], rows_of_x: tuple[int, ...], group: int, bytes: int, repeats: int,
  kinds: tuple[str, ...] = tuple(KINDS),
):  # fmt: skip
  """Times products with a weight [rows, columns] for each count of rows of x, kinds by turns.

  kinds: of KINDS; W8A8 multiplies integers of 8 bits, a scale a column and a token, W4A16 packed
  weights in groups of `group`, W4A8 with inputs in 8 bits. bytes: of all copies of a weight, which
  one program multiplies one after another; at least two. Rows 'by_rows': product, count, seconds of
  one, GFLOP/s, and how: packed, floats (made of the packed weight first) or integers. Rows
  'crossover': the least count from which on each of the others is faster than W4A16 there; these
  once more as rows 'by_rows', for a figure's marks.
  """
  for name in kinds:
    require(name in KINDS, f'{name!r} is not one of {", ".join(KINDS)}')
  require(min(*shape, *rows_of_x, bytes, repeats) > 0, f'{shape=}, {rows_of_x=}: all above 0')
  require('W4A8' not in kinds or native.ready(), 'W4A8 needs the native kernel: install g++')

  def bench(session: Session):
    w = jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))
    made = {name: KINDS[name].make(w, group) for name in kinds}
    rows = []
    for count in rows_of_x:
      times = timed(made, shape, count, bytes, repeats)
      work = 2 * count * shape[0] * shape[1]
      for name, seconds in times.items():
        rows.append(dict(
          kind='by_rows', summary=True, product=name, rows=shape[0], columns=shape[1], count=count,
          how=KINDS[name].how(made[name], count), **spread(seconds).fields('s'),
          gflops=float(f'{work / np.median(seconds) / 1e9:.4g}'),
        ))  # fmt: skip
      session.say(f'by_rows: {count} rows')
    rows += crossovers(rows)
    shown = table(rows, shape, group)
    return rows + marks(rows), [shown]

  return bench


def timed(made: dict, shape: tuple, count: int, bytes: int, repeats: int) -> dict[str, list]:
  """Name -> seconds of a product, one for each repeat; the kinds take turns."""
  x = jnp.asarray(np.random.default_rng(1).standard_normal((count, shape[0]), np.float32))
  runs, copies = {}, {}
  for name, kernel in made.items():
    size = sum(part.nbytes for part in jax.tree.leaves(kernel))
    copies[name] = [jax.tree.map(jnp.copy, kernel) for _ in range(max(2, bytes // size))]
    times = jax.jit(KINDS[name].times)  # traced once, not once a copy
    runs[name] = jax.jit(functools.partial(_products, times=times))
    jax.block_until_ready(runs[name](x, copies[name]))  # compiles
  found = {name: [] for name in made}
  for repeat in range(repeats):
    for name in list(made)[:: -1 if repeat % 2 else 1]:
      began = time.perf_counter()
      jax.block_until_ready(runs[name](x, copies[name]))
      found[name].append((time.perf_counter() - began) / len(copies[name]))
  return found


def _products(x, weights, times):
  """A number made of the products with all weights, one after another."""
  for w in weights:
    x = x + 0 * times(x, w)[:, :1].astype(x.dtype)  # the next waits for this one
  return x.sum()


def crossovers(rows: list[dict]) -> list[dict]:
  """Rows 'crossover': from which count on others are faster than W4A16, None for never."""
  seconds = {}
  for row in rows:
    seconds.setdefault(row['product'], {})[row['count']] = row['s']
  packed, found = seconds.get('W4A16', {}), []
  for name in (name for name in seconds if packed and name != 'W4A16'):
    slower = [n for n, s in seconds[name].items() if s > SETTLED * packed[n]]
    after = [n for n in packed if n > max(slower, default=0)]
    found.append(dict(
      kind='crossover', summary=True, product=name, count=min(after) if after else None
    ))  # fmt: skip
  return found


def marks(rows: list[dict]) -> list[dict]:
  """Rows 'by_rows' of the crossovers alone, which a figure marks."""
  at = {(row['product'], row['count']): row for row in rows if row['kind'] == 'by_rows'}
  crossed = [(r['product'], r['count']) for r in rows if r['kind'] == 'crossover' and r['count']]
  return [
    dict(kind='by_rows', summary=True, product=f'{name} overtakes W4A16', count=count,
         s=at[name, count]['s'])
    for name, count in crossed
  ]  # fmt: skip


def table(rows: list[dict], shape: tuple, group: int) -> Table:
  """A line for each count, a column for each kind; the fastest is marked."""
  times = [row for row in rows if row['kind'] == 'by_rows']
  names, counts = (list(dict.fromkeys(row[k] for row in times)) for k in ('product', 'count'))
  at = {(row['product'], row['count']): row for row in times}

  def shown(name, count):
    row, fastest = at[name, count], min(at[n, count]['s'] for n in names)
    in_ms = {end: 1e3 * row[end] for end in ('s', 's_low', 's_high')}
    return cell(in_ms, 's', '.3g') + (' *' if row['s'] == fastest else '')

  cells = tuple((str(n), *(shown(name, n) for name in names)) for n in counts)
  crossed = '; '.join(
    f'{row["product"]} {row["count"] or NONE}' for row in rows if row['kind'] == 'crossover'
  )
  note = (
    f'ms of x [rows, {shape[0]:,}] times a weight [{shape[0]:,}, {shape[1]:,}] read from memory, '
    f'medians and ranges; * the fastest. W4: groups of {group}. From so many rows on faster than '
    f'W4A16: {crossed}.'
  )
  return Table('Time by rows', ('rows of x', *names), cells, note)
