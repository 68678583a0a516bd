"""Packed params as plain nested dicts of arrays, which is what a fold keeps."""

from collections.abc import Iterable

import jax

from reduction import tree
from reduction.qtensor import QTensor, Scheme, is_packed
from reduction.quantize.inputs import Input

PARTS = 'data', 'scale', 'zero'


def arrays(params) -> dict:
  """params with each packed weight as a dict of its parts."""
  apart = lambda w: {part: getattr(w, part) for part in PARTS} if is_packed(w) else w
  return jax.tree.map(apart, params, is_leaf=is_packed)


def packed(arrays, scheme: Scheme, inputs: Iterable[Input]) -> dict:
  """What `arrays` was made of: kernels of linears that are dicts, packed by scheme."""
  flat = dict(tree.named(arrays, is_leaf=lambda node: isinstance(node, dict) and 'data' in node))
  for one in inputs:
    for linear in one.linears:
      kernel = flat[f'{linear}/kernel']
      if isinstance(kernel, dict):
        parts = {'zero': None} | kernel  # a fold keeps no None
        flat[f'{linear}/kernel'] = QTensor(**parts, scheme=scheme, rows=one.rows)
  return tree.nest(flat)
