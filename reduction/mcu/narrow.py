"""A graph with fewer filters, to be planned: what memory it would take."""

import dataclasses
import math

import numpy as np

from reduction.mcu.graph import Graph
from reduction.mcu.plan import plan
from reduction.mcu.sparse import as_form


def narrowed(graph: Graph, counts, forms) -> Graph:
  """graph, to be planned, with so many filters in each convolution; its weights are zeros.

  counts, forms: of convolutions in order; a form is 'dense' or of `sparse`.
  """
  tensors, left, ops = list(graph.tensors), iter(zip(counts, forms)), []
  for op in graph.ops:
    h, w, c = tensors[op.output].shape
    before = tensors[op.inputs[0]].shape
    form = 'dense'
    if op.kind == 'conv':
      c, form = next(left)
    elif op.kind != 'dense':
      c = before[2]
    tensors[op.output] = dataclasses.replace(tensors[op.output], shape=(h, w, c))
    if op.kind in ('conv', 'dense'):
      shape = (c, *op.window.kernel, before[2]) if op.kind == 'conv' else (c, math.prod(before))
      vectors = {n: np.resize(getattr(op, n), c) for n in ('bias', 'multiplier', 'shift')}
      op = dataclasses.replace(op, weights=np.zeros(shape, np.int8), **vectors)
      op = op if form == 'dense' else as_form(op, form)
    ops.append(op)
  return dataclasses.replace(graph, tensors=tuple(tensors), ops=tuple(ops))


def holds_wide(graph: Graph, ram: int | None) -> bool:
  """Whether an arena of ram bytes, None: any, holds the windows of 'wide' in every convolution."""
  ops = [op for op in graph.ops if op.kind == 'conv']
  forms = ['dense' if op.window.kernel == (1, 1) else 'wide' for op in ops]
  return ram is None or plan(narrowed(graph, [len(op.weights) for op in ops], forms)).peak <= ram
