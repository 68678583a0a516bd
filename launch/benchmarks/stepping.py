"""A step of a supernet for one of its networks, beside a plain step of its largest network."""

import time

import numpy as np

from launch.benchmarks.sides import Session
from reduction.errors import require
from reduction.report import Table


def stepping(*, space: dict, batch: int, steps: int, repeats: int):
  """Times gradient and update, by process time, in turns; Adam. Wanted: at most 1.3.

  space: name and changes of `search.space.space`, of one resolution and width. steps: of a program.
  Row 'stepping': milliseconds of both, the best of repeats, their ratio, and how often the
  supernet's step was traced for its smallest and largest network.
  """
  require(min(batch, steps, repeats) > 0, f'{batch=}, {steps=}, {repeats=}: all above 0')

  def bench(session: Session):
    supernet, plain, traces = sides(space, batch, steps)
    best = {}
    for _ in range(repeats):
      for name, step in (('supernet', supernet), ('plain', plain)):
        began = time.process_time()
        step()
        seconds = time.process_time() - began
        best[name] = min(best.get(name, np.inf), seconds / steps)
    row = dict(
      kind='stepping', summary=True, space=space['name'], batch=batch, traces=traces(),
      supernet_ms=round(1e3 * best['supernet'], 2), plain_ms=round(1e3 * best['plain'], 2),
      ratio=round(best['supernet'] / best['plain'], 3),
    )  # fmt: skip
    session.say(f'stepping: {row["ratio"]} of the largest network by itself')
    columns = ('space', 'supernet (ms)', 'largest alone (ms)', 'ratio', 'programs')
    cells = (space['name'], *(str(row[k]) for k in ('supernet_ms', 'plain_ms', 'ratio', 'traces')))
    note = 'One network a step; seconds of the process over all cores.'
    return [row], [Table('A step of a supernet', columns, (cells,), note)]

  return bench


def sides(space: dict, batch: int, steps: int):
  """(steps of the supernet for its largest network, plain steps of that, how many traces)."""
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
      traced.append(module)
      step = lambda state, _: (update(state, (x, labels, given), jax.random.key(1))[0], None)
      return jax.lax.scan(step, state, None, length=steps)[0]

    return lambda given: jax.block_until_ready(run(state, given))

  module = supernet.elastic(whole)
  smallest, largest = (jnp.asarray(g, jnp.int32) for g in spaces.extremes(whole))
  elastic = program(module, supernet.alone(module))
  alone = supernet.network(spaces.decode(whole, np.asarray(largest)))
  plain = program(alone, classification(alone))
  for given in (smallest, largest):
    elastic(dict(genes=given))
  plain({})
  counted = lambda: sum(one is module for one in traced)
  return lambda: elastic(dict(genes=largest)), lambda: plain({}), counted
