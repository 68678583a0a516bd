"""Networks of a mixture, one operation an edge: which there are, and what each costs on a board.

A network is a path, the operation of each edge of `Choice.edges`, -1 where a cell has none.
"""

import itertools

import numpy as np

from reduction.errors import require
from reduction.mcu import sketch
from reduction.mcu.graph import Graph
from reduction.models.choice import Choice, size_of
from reduction.search.cost import CONV, DENSE, DEPTHWISE, POINTWISE, POOL, Ops


def networks(module: Choice) -> np.ndarray:
  """int [n, edges]: all there are."""
  count, choices = len(module.operations), []
  for to in range(1, module.layers + 1):
    into, some = module.into(to), []
    for taken in itertools.combinations(into, min(module.kept or 1, len(into))):
      for kinds in itertools.product(range(count), repeat=len(taken)):
        some.append([dict(zip(taken, kinds)).get(e, -1) for e in into])
    choices.append(some)
  return np.array([list(itertools.chain(*parts)) for parts in itertools.product(*choices)])


def strongest(module: Choice, alpha) -> np.ndarray:
  """int [edges]: the network of weights alpha [edges, operations], as DARTS makes it discrete: into
  each layer the edges whose best operations have the largest softmax, each with that operation."""
  alpha = np.asarray(alpha, np.float64)
  best = alpha.argmax(-1)
  strength = 1 / np.exp(alpha - alpha.max(-1, keepdims=True)).sum(-1)
  path = np.full(len(alpha), -1)
  for to in range(1, module.layers + 1):
    into = module.into(to)
    taken = into[np.argsort(-strength[into], kind='stable')[: module.kept or 1]]
    path[taken] = best[taken]
  return path


def gates(module: Choice, paths) -> np.ndarray:
  """float32 [n, edges, operations] of networks [n, edges]: 1 for what they have."""
  return (np.asarray(paths)[..., None] == np.arange(len(module.operations))).astype(np.float32)


def parts(module: Choice, shape, path) -> list[tuple[int, list[tuple]]]:
  """(edge or -1, [(kind, side, out, cin, cout, kernel, stride, apart)...]) of a network, in order.

  shape: (side, side, channels) of its images. The sums of a cell are not among them.
  """
  side, w = shape[0], module.width
  found = [(-1, [(CONV, side, side, shape[2], w, 3, 1, 0)])]
  for i, j in enumerate(path):
    if i and not module.kept:
      found.append((-1, [(POOL, side, side // 2, w, w, 2, 2, 0)]))
      side //= 2
    if j < 0:
      continue
    kind = module.operations[j]
    size, here = size_of(kind), []
    if kind.startswith('separable'):
      here.append((DEPTHWISE, side, side, w, w, size, 1, 0))
      size = 1
    if size:
      here.append((CONV if size > 1 else POINTWISE, side, side, w, w, size, 1, 0))
    found.append((i, here))
  wide = w * (module.layers if module.kept else 1)
  last = [(POOL, side, 1, wide, wide, 1, 1, 0), (DENSE, 1, 1, wide, module.classes, 1, 1, 1)]
  return [*found, (-1, last)]


def ops(module: Choice, shape, path) -> Ops:
  """The ops of one network, [1, ops], as `search.latency` takes them."""
  return _table([op for _, here in parts(module, shape, path) for op in here])


def _table(rows) -> Ops:
  *fields, apart = (np.array(field, np.int64)[None] for field in zip(*rows))
  return Ops(*fields, held=np.zeros_like(apart), apart=apart)


def graph(module: Choice, shape, path) -> Graph:
  """One network of a chain with random weights, to be measured."""
  require(not module.kept, 'a cell is not drawn as a graph: measure a chain, kept=0')
  s = sketch.Sketch(tuple(shape))
  x = 0
  for kind, _, out, _, cout, kernel, stride, _ in (
    op for _, here in parts(module, shape, path) for op in here
  ):
    if kind == DEPTHWISE:
      x = sketch.depthwise(s, x, kernel=kernel)
    elif kind == POOL:
      x = sketch.average(s, x) if out == 1 else sketch.pool(s, x, 'average')
    elif kind == DENSE:
      x = sketch.dense(s, x, cout)
    else:
      x = sketch.conv(s, x, cout, kernel=kernel, stride=stride)
  return sketch.finish(s, 'net')


def uniform(module: Choice) -> list[tuple[int, ...]]:
  """Paths that have every operation in every edge."""
  return [(j,) * len(module.edges) for j in range(len(module.operations))]


def costs(module: Choice, shape, predict) -> tuple[np.ndarray, float]:
  """(table [edges, operations], what all networks share) by predict: Ops -> [n]."""
  table, shared = np.zeros((len(module.edges), len(module.operations))), 0.0
  for j, path in enumerate(uniform(module)):
    for i, here in parts(module, shape, path):
      amount = float(predict(_table(here))[0]) if here else 0.0
      if i >= 0:
        table[i, j] = amount
      elif not j:
        shared += amount
  return table, shared
