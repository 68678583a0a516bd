"""Steps of a supernet, for one of its networks and for a sandwich, beside its largest network's."""

import time

import numpy as np

from launch.benchmarks.sides import Session
from reduction.errors import require
from reduction.report import Table

SIDES = 'supernet', 'sandwich', 'plain'


def stepping(*, space: dict, batch: int, steps: int, repeats: int, random: int):
  """Times gradient and update, by process time, in turns; Adam. Wanted: at most 1.3 a network.

  space: name and changes of `search.space.space`, of one resolution and width. steps: of a program.
  random: networks that a sandwich draws beside the largest and the smallest. Row 'stepping':
  milliseconds of the largest network as the supernet trains it, of a sandwich and of the largest
  by itself, the best of repeats; the ratio of the first to the last, and of the second to as many
  of the last as it trains; how often the supernet's step was traced for its smallest and largest.
  """
  counts = min(batch, steps, repeats)
  require(counts > 0 <= random, f'{batch=}, {steps=}, {repeats=}: all above 0, {random=} not below')

  def bench(session: Session):
    run, traces = sides(space, batch, steps, random)
    best = dict.fromkeys(SIDES, np.inf)
    for _ in range(repeats):
      for name in SIDES:
        began = time.process_time()
        run[name]()
        best[name] = min(best[name], (time.process_time() - began) / steps)
    plain = best['plain']
    row = dict(
      kind='stepping', summary=True, space=space['name'], batch=batch, networks=random + 2,
      traces=traces(), **{f'{name}_ms': round(1e3 * best[name], 2) for name in SIDES},
      ratio=round(best['supernet'] / plain, 3),
      ratio_in_sandwich=round(best['sandwich'] / plain / (random + 2), 3),
    )  # fmt: skip
    session.say(f'stepping: {row["ratio"]} of the largest network by itself')
    return [row], [table(row)]

  return bench


def table(row: dict) -> Table:
  """What was timed, a line a step."""
  count, alone = row['networks'], f'{row["plain_ms"]}'
  lines = (
    ('its largest', '1', f'{row["supernet_ms"]}', alone, f'{row["ratio"]}'),
    ('a sandwich', f'{count}', f'{row["sandwich_ms"]}', alone, f'{row["ratio_in_sandwich"]}'),
  )
  columns = ('step', 'networks', 'supernet (ms)', 'largest alone (ms)', 'ratio a network')
  note = f'Seconds of the process over all cores; {row["traces"]} program for all networks.'
  return Table(f'Steps of a supernet: {row["space"]}', columns, lines, note)


def sides(space: dict, batch: int, steps: int, random: int):
  """(name of SIDES -> its steps, how often the supernet's step was traced)."""
  import jax
  import jax.numpy as jnp

  from reduction.net import initializer
  from reduction.search import space as spaces
  from reduction.search import supernet
  from reduction.update import classification, optimizer, sgd, start

  whole = spaces.space(**space)
  tx, traced = optimizer('adam', learning_rate=1e-3), []
  side = whole.resolutions[0]
  x = jnp.asarray(np.random.default_rng(0).random((batch, side, side, whole.channels)), jnp.float32)
  labels = jnp.arange(batch) % whole.classes

  def program(module, loss):
    update = sgd(loss, tx)
    params, stats = jax.jit(initializer(module))(jax.random.key(0), x[:1])
    lifted = jax.tree.map(lambda w: w[None], (params, stats))
    state = jax.tree.map(lambda w: w[0], start(*lifted, None, tx))

    @jax.jit
    def run(state, given):
      traced.append(loss)
      step = lambda state, key: (update(state, (x, labels, given), key)[0], None)
      return jax.lax.scan(step, state, jax.random.split(jax.random.key(1), steps))[0]

    return lambda given: jax.block_until_ready(run(state, given))

  module = supernet.elastic(whole)
  smallest, largest = (jnp.asarray(g, jnp.int32) for g in spaces.extremes(whole))
  each = supernet.alone(module)
  elastic = program(module, each)
  mixed = program(module, supernet.sandwich(module, whole, random))
  alone = supernet.network(spaces.decode(whole, np.asarray(largest)))
  plain = program(alone, classification(alone))
  for given in (smallest, largest):
    elastic(dict(genes=given))
  run = dict(
    supernet=lambda: elastic(dict(genes=largest)), sandwich=lambda: mixed(dict(low=smallest)),
    plain=lambda: plain({}),
  )  # fmt: skip
  run['sandwich'](), run['plain']()  # they compile
  return run, lambda: sum(one is each for one in traced)
