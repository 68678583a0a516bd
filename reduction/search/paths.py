"""Networks of a mixture, one operation a layer, as ops and graphs: what each costs on a board."""

import numpy as np

from reduction.mcu import sketch
from reduction.mcu.graph import Graph
from reduction.models.choice import Choice, size_of
from reduction.search.cost import CONV, DENSE, DEPTHWISE, POINTWISE, POOL, Ops


def parts(module: Choice, shape, path) -> list[tuple[int, list[tuple]]]:
  """(layer or -1, [(kind, side, out, cin, cout, kernel, stride, apart)...]) of a network, in order.

  shape: (side, side, channels) of its images. path: the operation of each layer.
  """
  side, w = shape[0], module.width
  found = [(-1, [(CONV, side, side, shape[2], w, 3, 1, 0)])]
  for i, j in enumerate(path):
    if i:
      found.append((-1, [(POOL, side, side // 2, w, w, 2, 2, 0)]))
      side //= 2
    kind = module.operations[j]
    size, here = size_of(kind), []
    if kind.startswith('separable'):
      here.append((DEPTHWISE, side, side, w, w, size, 1, 0))
      size = 1
    if size:
      here.append((CONV if size > 1 else POINTWISE, side, side, w, w, size, 1, 0))
    found.append((i, here))
  last = [(POOL, side, 1, w, w, 1, 1, 0), (DENSE, 1, 1, w, module.classes, 1, 1, 1)]
  return [*found, (-1, last)]


def ops(module: Choice, shape, path) -> Ops:
  """The ops of one network, [1, ops], as `search.latency` takes them."""
  return _table([op for _, here in parts(module, shape, path) for op in here])


def _table(rows) -> Ops:
  *fields, apart = (np.array(field, np.int64)[None] for field in zip(*rows))
  return Ops(*fields, held=np.zeros_like(apart), apart=apart)


def graph(module: Choice, shape, path) -> Graph:
  """One network with random weights, to be measured."""
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
  """Paths that have every operation in every layer."""
  return [(j,) * module.layers for j in range(len(module.operations))]


def costs(module: Choice, shape, predict) -> tuple[np.ndarray, float]:
  """(table [layers, operations], what all networks share) by predict: Ops -> [n]."""
  table, shared = np.zeros((module.layers, len(module.operations))), 0.0
  for j, path in enumerate(uniform(module)):
    for i, here in parts(module, shape, path):
      amount = float(predict(_table(here))[0]) if here else 0.0
      if i >= 0:
        table[i, j] = amount
      elif not j:
        shared += amount
  return table, shared
