"""A module quantized on batches of what it takes: calibrated, searched, folded, rounded."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from reduction import tree
from reduction.errors import DataError
from reduction.models.served import STEP, Served, step
from reduction.quantize import plan as plans
from reduction.quantize import replay
from reduction.quantize.calibrate import calibrate
from reduction.quantize.inputs import Input
from reduction.quantize.method import Method
from reduction.quantize.smooth import errors

SAME = 1e-3  # relative; float32 folds to about 1e-6
EXAMINED = 4  # batches that say how far linears are off whose inputs are rounded too


class Quantized(NamedTuple):
  """plan: what was searched, or given. params, error: see `plan.Applied`; where inputs are rounded
  too, the error, of the first EXAMINED batches, has their part in it, and their steps are among
  the params."""

  plan: plans.Plan
  params: dict
  error: dict[str, jax.Array | None]


def quantized(
  module: nn.Module, flat: dict, batches: Sequence, inputs: Sequence[Input], method: Method, *,
  held: int = 0, seen: Callable | None = None, masks: dict | None = None,
  plan: plans.Plan | None = None, known: tuple[plans.Sums, plans.Sums | None] | None = None,
  passed: Callable | None = None, example=None,
) -> Quantized:  # fmt: skip
  """The weights of a module, by path, of one replicate, and the plan they were quantized by.

  batches: may be none where `method.looks` at none; then no errors are known. held: so many at the
  end judge scales that are searched. seen: see `calibrate`. masks: by path; what they prune stays
  0. plan: one to apply instead of searching. known: the statistics of the tokens that search and of
  those that judge, instead of looking at batches, but for errors where inputs are rounded.
  passed: see `calibrate`. example: what the module takes, for the check that scales change nothing
  where there are no batches; without either there is none.
  """
  params, early = tree.nest(flat), len(batches) - (held if method.searches else 0)
  searched, late = batches[:early], batches[early:]
  sizes = dict(seen=seen, block=method.gram or None)
  look = lambda part: calibrate(module, params, part, inputs, passed=passed, **sizes)
  (sums, others), judges = known or ({}, None), {}
  if known and not method.searches:
    sums, others = plans.joined(sums, others), None
  if len(batches) and known is None and (passed or method.reads(plan is not None)):
    sums, others = look(searched), look(late) if len(late) else None
  if plan is None:
    if method.searches and method.tokens:
      judges = replay.judges(module, params, inputs, method.tokens, searched, late, seen)
    plan = plans.search(flat, inputs, sums, method, others, judges)
  sums = plans.after(plans.joined(sums, others), plan)

  def of_input(one, so_far):
    if not method.sequential:
      return sums.get(one.linears[0])
    by = calibrate(Served(module), tree.nest(so_far), batches, [one], seen=seen)
    return by[one.linears[0]]

  check_function(module, flat, inputs, plan, batches[0] if len(batches) else example)
  params, error = plans.apply(flat, inputs, plan, method, of_input, masks)
  if method.activations != 'none':
    steps = {}
    if method.activations == 'tensor':
      most = {name: one.most.max() for name, one in sums.items()}
      steps = {n: step(most[one.linears[0]]) for one in inputs for n in one.linears if n in error}
    kernels = {linear: (params[f'{linear}/kernel'], steps.get(linear)) for linear in error}
    exact = tree.nest(plans.folded(flat, inputs, plan))
    error = errors(module, exact, kernels, batches[:EXAMINED], seen=seen)
    params |= {f'{linear}/{STEP}': by for linear, by in steps.items()}
  return Quantized(plan, params, error)


def check_function(module: nn.Module, flat: dict, inputs: Sequence[Input], plan: plans.Plan, x):
  """Raises DataError, naming an input, where the scales of a plan change what the module computes.

  flat: weights by path; x: a batch of what the module takes, of which finite outputs are compared.
  Scales only move between weights: what differs by more than SAME of the mean square is no rounding
  of float32, but weights that do not belong together.
  """
  if x is None or not any(name.endswith('/scale') for name in plans.by_path(plan)):
    return
  compute = _computing(module)
  before = compute(tree.nest(flat), x)

  def off(some):
    change, size = squares(compute(tree.nest(plans.folded(flat, some, plan)), x), before)
    return float(change) > SAME**2 * float(size)

  if off(inputs):
    one = next((one.linears[0] for one in inputs if off([one])), 'all of them together')
    raise DataError(
      f'the scales of {one} change what the module computes; they would not have been undone'
    )


@functools.lru_cache(maxsize=16)
def _computing(module):
  return jax.jit(lambda params, x: module.apply({'params': params}, x))


@jax.jit
def squares(new, old):
  """(sum of (new - old)^2, sum of old^2) where both are finite."""
  new, old = (y.astype(jnp.float32) for y in (new, old))
  fine = jnp.isfinite(new) & jnp.isfinite(old)
  return tuple((jnp.where(fine, y, 0.0) ** 2).sum() for y in (new - old, old))
