"""Linears that read the same input as one: queries, keys and values; gates and ups (TinyChat).

With few rows a product takes the time in which its weight is read: one of three times the columns
has one start, reads x once and keeps more of the machine busy. The net's code stays as it is:
`served` multiplies where the first of the linears is called, and the others take their columns.
"""

import jax.numpy as jnp
from flax import struct

from reduction.kernels.int4 import is_weight
from reduction.qtensor import is_packed

TOGETHER = ('query', 'key', 'value'), ('gate', 'up')  # linears beside each other, in their order


class Part(struct.PyTreeNode):
  """In place of a kernel: columns from `start` on of that of the linear `of` beside it."""

  of: str = struct.field(pytree_node=False)
  start: int = struct.field(pytree_node=False)


def is_kept(leaf) -> bool:
  """Whether leaf stands for a kernel that is packed, in any order; for `is_leaf`."""
  return is_weight(leaf) or isinstance(leaf, Part)


def merged(params: dict) -> dict:
  """params of a decoder, packed [rows, columns], whose TOGETHER have one kernel where they are
  packed alike: the first of them has it, the others a `Part`.
  """
  made = {name: merged(part) if isinstance(part, dict) else part for name, part in params.items()}
  for names in TOGETHER:
    kernels = [made[n].get('kernel') for n in names if isinstance(made.get(n), dict)]
    if len(kernels) < len(names) or len({_kind(w) for w in kernels}) > 1 or not _kind(kernels[0]):
      continue
    start = 0
    for name, kernel in zip(names, kernels):
      whole = _beside(kernels) if start == 0 else Part(names[0], start)
      made[name] = made[name] | dict(kernel=whole)
      start += kernel.shape[1]
  return made


def _kind(w):
  """What weights side by side have in common; None for one whose columns do not stand alone."""
  if not is_packed(w) or w.data.ndim != 2 or w.scheme.axis != -2 or w.scheme.group == 'tensor':
    return None
  return w.scheme, w.rows, str(w.scale.dtype), w.zero is None


def _beside(kernels):
  join = lambda name: jnp.concatenate([getattr(w, name) for w in kernels], -1)
  parts = 'data', 'scale', *(('zero',) if kernels[0].zero is not None else ())
  return kernels[0].replace(**{name: join(name) for name in parts})
