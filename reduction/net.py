"""`Net`, what a stage takes and returns; `over_replicas`, all that knows of replicates."""

import functools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from reduction import tree
from reduction.errors import UsageError

Params = Any
Masks = Any  # a tree like Params of bool arrays: True is kept


class Net(struct.PyTreeNode):
  """A Flax Linen module with the variables it runs on; a pytree.

  params: the module's 'params' collection. stats: its 'batch_stats' collection, {} where it has
  none. masks: a tree like params of bool arrays, or None where nothing was ever pruned; they are
  applied in every forward pass, and every stage keeps them or documents what it changes.
  Leaves may carry a leading axis of R replicates (seeds).
  Raises UsageError where masks do not fit params.
  """

  module: nn.Module = struct.field(pytree_node=False)
  params: Params
  stats: Any = struct.field(default_factory=dict)
  masks: Masks = None

  def __post_init__(self):
    if self.masks is None or not all(hasattr(x, 'shape') for x in tree.leaves(self.params)):
      return  # JAX also builds trees of placeholders
    shapes = {name: leaf.shape for name, leaf in tree.named(self.params)}
    for name, mask in tree.named(self.masks):
      if shapes.get(name) != getattr(mask, 'shape', shapes.get(name)):
        raise UsageError(f'mask {name} has shape {mask.shape}, its weight {shapes.get(name)}')
    if tree.structure(self.masks) != tree.structure(self.params):
      raise UsageError('masks must be a tree like params: one bool array for each weight')

  def __call__(self, x, *, train: bool = False, rngs=None):
    """Output of the module on x, with masks applied; in training also the new stats."""
    return apply(self.module, tree.keep(self.params, self.masks), self.stats, x, train, rngs)


def all_kept(params) -> Masks:
  """The masks that prune nothing."""
  return tree.map(lambda w: jnp.ones(w.shape, bool), params)


def apply(module: nn.Module, params, stats, x, train: bool = False, rngs=None, **given):
  """`module.apply` with both collections. In training returns (output, new stats).

  given: what the module takes beside x.
  """
  variables = {'params': params, **({'batch_stats': stats} if stats else {})}
  if not train:
    return module.apply(variables, x, train=False, **given)
  how = dict(train=True, rngs=rngs, mutable=['batch_stats'])
  output, new = module.apply(variables, x, **how, **given)
  return output, new.get('batch_stats', {})


@functools.lru_cache(maxsize=64)
def initializer(module: nn.Module):
  """(key, x) -> fresh (params, stats) of one replicate; x is any batch of inputs."""

  def initialize(key, x):
    variables = module.init(key, x, train=False)
    return variables['params'], variables.get('batch_stats', {})

  return initialize


def create(module: nn.Module, keys, x) -> Net:
  """A Net with fresh variables for each of keys [R]; x is any batch of inputs."""
  return Net(module, *over_replicas(initializer(module), (0, None))(keys, x))


def over_replicas(f, in_axes=0, *, how: str = 'auto'):
  """Maps f over the replicate axis of its arguments (in_axes as in `jax.vmap`: 0 or None for each).

  how: 'vmap' is one program for all replicates: right for an accelerator that one replicate leaves
  idle. 'loop' is one compiled program called once a replicate, a thread a core: right for a CPU,
  where a batch-60 step cannot use two cores but two replicates can. 'auto' chooses by platform.
  Both compile f once for all replicates and their results are stacked; f must be a function that
  lives as long as its results are wanted again (its compiled form is remembered by identity).
  """

  @functools.wraps(f)
  def mapped(*args):
    axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
    way = how if how != 'auto' else ('loop' if jax.default_backend() == 'cpu' else 'vmap')
    if way == 'vmap':
      return _vmapped(f, axes)(*args)
    return _loop(f, axes, args)

  return mapped


@functools.lru_cache(maxsize=256)
def _vmapped(f, axes):
  return jax.jit(jax.vmap(f, in_axes=axes))


@functools.lru_cache(maxsize=256)
def _jitted(f):
  return jax.jit(f, compiler_options=_options()), set(), threading.Lock()


@functools.lru_cache(maxsize=1)
def _options() -> dict | None:
  """Options for loops on a CPU: without the first a step copies Adam's moments, 8 % of its time."""
  options = {'xla_cpu_copy_insertion_use_region_analysis': True}
  if jax.default_backend() != 'cpu':
    return None
  try:
    jax.jit(lambda: 0, compiler_options=options).lower().compile()
  except jax.errors.JaxRuntimeError:  # a jaxlib that does not have it
    return None
  return options


@functools.lru_cache(maxsize=1)
def _pool():
  return ThreadPoolExecutor(os.cpu_count() or 1, 'replicate')


def _loop(f, axes, args):
  jitted, compiled, lock = _jitted(f)
  replicas = next(x.shape[0] for a, axis in zip(args, axes) if axis == 0 for x in tree.leaves(a))

  # cut and stacked on the host: XLA would compile a program for each shape
  args = [a if axis is None else tree.map(_on_host, a) for a, axis in zip(args, axes)]

  def one(index):
    return jitted(
      *[a if axis is None else tree.map(lambda x: x[index], a) for a, axis in zip(args, axes)]
    )

  def ready(index):
    return jax.block_until_ready(one(index))

  shapes = tuple((np.shape(x), jnp.result_type(x)) for x in tree.leaves(args))
  with lock:  # the first call compiles alone, or two threads would both trace f
    first = [] if shapes in compiled else [ready(0)]
    compiled.add(shapes)
  rest = range(len(first), replicas)
  results = first + (list(_pool().map(ready, rest)) if len(rest) > 1 else [ready(i) for i in rest])
  return tree.map(_stacked, *results)


def _on_host(x):
  return x if tree.is_key(x) else np.asarray(x)


def _stacked(*x):
  return jnp.stack(x) if tree.is_key(x[0]) else jnp.asarray(np.stack(x))
