"""Training with the rounding to come (QAT): forward the rounded weights, backward straight through.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", CVPR 2018, section 3; with learned steps Esser et al., "Learned Step Size Quantization"
(LSQ), ICLR 2020, section 2.
"""

import dataclasses
import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from reduction import tree
from reduction.errors import require
from reduction.models.served import Served
from reduction.net import Net
from reduction.qtensor import QTensor, Scheme, spread
from reduction.quantize.rtn import Grid, grid, on_grid, quantize, storable

KERNEL, STEP = '/kernel', '/kernel_step'


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def straight(w, by: Grid, scheme: Scheme) -> jax.Array:
  """`rtn.on_grid`; the gradient passes to w, float32, as it is, but 0 where the code is cut off."""
  return on_grid(w, by, scheme)


def _straight(w, by, scheme):
  scale, zero = (spread(part, scheme, w.shape[scheme.axis]) for part in by)
  code = jnp.round(w / scale) + zero
  inside = (code >= 0) & (code <= 2**scheme.bits - 1)
  return on_grid(w, by, scheme), (inside, by)


def _straight_back(scheme, kept, g):
  del scheme
  inside, by = kept
  return jnp.where(inside, g, 0.0), tree.map(jnp.zeros_like, by)


straight.defvjp(_straight, _straight_back)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def lsq(w, step, scheme: Scheme) -> jax.Array:
  """Esser et al.'s quantizer: step * round(clip(w / step, -Qn, Qp)), Qn = 2^(bits - 1) = Qp + 1.

  w: float32 [rows, columns]. step: float32, above 0, as the scales of a symmetric scheme, [groups,
  columns]. Gradients are the paper's: that of w passes where -Qn < w / step < Qp; that of step is
  the sum over its group of round(w / step) - w / step there, -Qn below and Qp above, times
  1 / sqrt(N Qp) for a group of N weights.
  """
  return on_grid(w, _grid(step, scheme), scheme)


def _lsq(w, step, scheme):
  return lsq(w, step, scheme), (w, step)


def _lsq_back(scheme, kept, g):
  w, step = kept
  least, most = -scheme.middle, scheme.middle - 1
  ratio = w / spread(step, scheme, w.shape[scheme.axis])
  inside = (least < ratio) & (ratio < most)
  slope = jnp.where(inside, jnp.round(ratio) - ratio, jnp.clip(ratio, least, most))
  factor = 1 / jnp.sqrt(by_group(jnp.ones_like(w), scheme) * most)
  return jnp.where(inside, g, 0.0), by_group(g * slope, scheme) * factor


lsq.defvjp(_lsq, _lsq_back)


def first_step(w, scheme: Scheme) -> jax.Array:
  """The step that LSQ begins with, 2 mean |w| / sqrt(Qp): [..., groups, columns].

  w: [..., rows, columns]. The mean is over weights that are not 0, so that pruning changes nothing.
  """
  total, count = (by_group(x.astype(jnp.float32), scheme) for x in (abs(w), w != 0))
  return jnp.where(count > 0, 2 * total / jnp.maximum(count, 1) / (scheme.middle - 1) ** 0.5, 1.0)


def by_group(values, scheme: Scheme) -> jax.Array:
  """Sums of values [..., rows, columns] over each group, in the shape of scales."""
  axis, rows = scheme.axis, values.shape[scheme.axis]
  shape = list(values.shape)
  shape[axis] = scheme.groups(rows)
  if scheme.group == 'tensor':
    shape[-3 - axis] = 1
  wide = lambda scale: jnp.broadcast_to(spread(scale, scheme, rows), values.shape)
  return jax.linear_transpose(wide, jax.ShapeDtypeStruct(shape, values.dtype))(values)[0]


def _grid(step, scheme: Scheme) -> Grid:
  return Grid(step, jnp.full_like(step, scheme.middle))


class Plan(NamedTuple):
  """What is trained to be packed.

  kernels: paths of linears. learned: steps by LSQ, which needs a symmetric scheme, instead of those
  that cover the weights of the moment. stored: the type of scales once packed; training rounds them
  to it too.
  """

  scheme: Scheme
  kernels: tuple[str, ...]
  learned: bool = False
  stored: str = 'float16'


@dataclasses.dataclass(frozen=True)
class Simulated:
  """A module that computes as it will once its kernels are packed, and can be trained so."""

  module: nn.Module
  plan: Plan

  def apply(self, variables, *args, **kwargs):
    """`module.apply` with rounded kernels. Params are those of `prepared`, of one replicate."""
    flat, plan = dict(tree.named(variables['params'])), self.plan
    for linear in plan.kernels:
      w = flat[linear + KERNEL].astype(jnp.float32)
      by = _grid_of(w, flat.pop(linear + STEP, None), plan)
      rounded = lsq(w, by.scale, plan.scheme) if plan.learned else straight(w, by, plan.scheme)
      flat[linear + KERNEL] = rounded
    return self.module.apply({**variables, 'params': tree.nest(flat)}, *args, **kwargs)


def _grid_of(w, step, plan: Plan) -> Grid:
  """The grid of a kernel [..., rows, columns], as it will be stored. step: learned or None.

  A learned step gets its gradient as if it were stored as it is.
  """
  scheme, dtype = plan.scheme, jnp.dtype(plan.stored)
  if step is None:
    return jax.lax.stop_gradient(grid(w, scheme, dtype=dtype))
  columns = 1 if scheme.group == 'tensor' else w.shape[-1]
  step = step.reshape(*w.shape[:-2], -1, columns)
  return _grid(_as_stored(step, dtype), scheme)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _as_stored(step, dtype):
  return storable(step, dtype)


_as_stored.defvjp(lambda step, dtype: (storable(step, dtype), None), lambda dtype, kept, g: (g,))


@functools.partial(jax.jit, static_argnames='plan')
def prepared(net: Net, plan: Plan) -> Net:
  """net [R] with a module that simulates what packing will do.

  Learned steps are params beside their kernels, 'fc1/kernel_step', [R, groups * columns]: vectors,
  which an optimizer's l2 and max_norm leave as they are. Masks hold; steps are not masked.
  Raises UsageError for learned steps of a scheme with zero points.
  """
  require(plan.scheme.symmetric or not plan.learned, f'learned steps have no zero: {plan.scheme}')
  params, masks = dict(tree.named(net.params)), net.masks and dict(tree.named(net.masks))
  for linear in plan.kernels if plan.learned else ():
    w = params[linear + KERNEL]
    step = params[linear + STEP] = first_step(w, plan.scheme).reshape(len(w), -1)
    if masks:
      masks[linear + STEP] = jnp.ones(step.shape, bool)
  return Net(Simulated(net.module, plan), tree.nest(params), net.stats, masks and tree.nest(masks))


@jax.jit
def finished(net: Net) -> Net:
  """A net of `prepared` with its kernels packed, the same function; what masks prune is a code."""
  plan, flat = net.module.plan, dict(tree.named(tree.keep(net.params, net.masks)))
  for linear in plan.kernels:
    flat[linear + KERNEL] = _packed(flat[linear + KERNEL], flat.pop(linear + STEP, None), plan)
  return Net(Served(net.module.module), tree.nest(flat), net.stats)


def _packed(w, step, plan: Plan) -> QTensor:
  by = _grid_of(w.astype(jnp.float32), step, plan)
  return quantize(w, plan.scheme, dtype=jnp.dtype(plan.stored), by=by)
