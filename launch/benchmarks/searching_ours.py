"""Times of ops and of whole networks in a process of its own; see `launch.benchmarks.searching`."""

import json
import sys
import time

import jax
import numpy as np

from launch.benchmarks.ours import answer
from reduction.config import canonical
from reduction.search import latency, timing
from reduction.search import space as spaces
from reduction.search.cost import ops_of


def side(settings: dict):
  """ask() -> sums, whole: label of a space -> microseconds an image of each of its networks."""
  batch, genes = settings['batch'], {n: np.array(rows) for n, rows in settings['networks']}
  known = {name: spaces.space(**settings['spaces'][name]) for name in genes}
  ops = {name: ops_of(known[name], genes[name]) for name in genes}
  shapes = dict.fromkeys(shape for name in genes for shape in latency.shapes(ops[name]))
  compiled = lambda pair: timing.compiled(*pair)
  parts = {shape: compiled(timing.program(shape, batch)) for shape in shapes}
  whole = {
    name: [compiled(timing.network(spaces.decode(known[name], row), batch)) for row in genes[name]]
    for name in genes
  }
  once = lambda call: timing.seconds(call, settings['calls'], time.process_time) * 1e6 / batch

  def ask() -> dict:
    table = latency.Table({shape: once(call) for shape, call in parts.items()}, {})
    sums = {name: latency.predict(table, ops[name]).tolist() for name in genes}
    return dict(sums=sums, whole={name: list(map(once, calls)) for name, calls in whole.items()})

  return ask


def main():
  """The settings are the first line of stdin."""
  answer(side(canonical(json.loads(sys.stdin.readline()))), about=f'jax {jax.__version__}')


if __name__ == '__main__':
  main()
