"""A plan: what a search finds for the linears of a module, apart from any packed weights.

It is a small tree like params. The first linear of an input has, in the place of its kernel,
  scale: float32 [rows], what the input is divided by and the kernels are multiplied by
  exponent: float32, of the mean |x| it came from; for SmoothQuant the strength
and each linear that is clipped
  bound: float32 [groups, out], of its weights after scaling, which are cut off beyond it
  group: int32, rows of these groups
`apply` puts it into weights and rounds them in any scheme. What GPTQ rounds depends on statistics
of the inputs and is therefore in no plan: they are gathered again where a plan is applied with it.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from reduction import checkpoint, tree
from reduction.data import npz
from reduction.errors import DataError, MissingInput, require
from reduction.qtensor import dequantize
from reduction.quantize import awq, smooth
from reduction.quantize.calibrate import Statistics, merged
from reduction.quantize.clip import clip, clipped
from reduction.quantize.inputs import Input
from reduction.quantize.learned import refined
from reduction.quantize.method import Method, rounded
from reduction.run import Run

Plan = dict
PARTS = 'scale', 'exponent', 'bound', 'group'
Sums = dict[str, Statistics]  # by the first linear of an input


class Applied(NamedTuple):
  """Weights by path, kernels packed. error: by linear, of its output, relative to that of the
  weights as they were, squares summed over calibration tokens, whose own rounding is not in it;
  None without statistics."""

  params: dict
  error: dict[str, jax.Array | None]


def search(
  flat: dict, inputs: Sequence[Input], statistics: Sums, method: Method, held: Sums | None = None,
  judges: dict[str, awq.Judge] | None = None,
) -> Plan:  # fmt: skip
  """The plan of a method for weights by path, of one replicate.

  held: statistics of other tokens, on which scales must beat plain rounding, see `awq.search`;
  bounds are then searched on the tokens of both. judges: of the inputs, by their first linear, that
  are not judged by the output errors of their linears. Inputs whose scales cannot hide have none.
  """
  found = {}
  for one in inputs if method.scales != 'none' else ():
    name = one.linears[0]
    kernels = {n: flat[f'{n}/kernel'] for n in one.linears if method.takes(n)}
    if one.sources and kernels:
      by = (judges or {}).get(name) or awq.Judge(awq.relative_errors, None, held and held[name])
      scale, exponent = _scale(kernels, statistics[name], jnp.asarray(one.ties), method, by)
      found |= {f'{name}/scale': scale, f'{name}/exponent': exponent}
  if method.clip:
    new = folded(flat, inputs, tree.nest(found))
    every = after(joined(statistics, held), tree.nest(found))
    for one in inputs:
      for linear in filter(method.clips, one.linears):
        kernel = new[f'{linear}/kernel'].astype(jnp.float32)
        found[f'{linear}/bound'] = clip(kernel, every[one.linears[0]], scheme=method.scheme)
        found[f'{linear}/group'] = jnp.int32(method.scheme.size(one.rows))
  return tree.nest(found)


def _scale(kernels, seen, ties, method, by: awq.Judge):
  """(scale, exponent) of one input."""
  if not method.searches:
    scale = smooth.scale(seen, tree.leaves(kernels), strength=method.strength, ties=ties)
    return scale, jnp.float32(method.strength)
  how = dict(by._asdict(), scheme=method.scheme)
  found = awq.search(kernels, seen, ties, duo=method.scales == 'duo', **how)
  if method.scales == 'learned':
    found = refined(kernels, seen, ties, found, **how)
  return found.scale, found.exponent


def joined(statistics: Sums, held: Sums | None) -> Sums:
  """The statistics of the tokens of both."""
  return {n: merged(one, held[n]) for n, one in statistics.items()} if held else statistics


def after(statistics: Sums, plan: Plan) -> Sums:
  """The statistics of inputs in the scales of a plan."""
  found = by_path(plan)
  by = lambda name: found.get(f'{name}/scale')
  return {n: s if by(n) is None else awq.scaled(s, by(n)) for n, s in statistics.items()}


def folded(flat: dict, inputs: Sequence[Input], plan: Plan) -> dict:
  """The weights, by path, of the same function after the scales of a plan: see `awq.folded`."""
  found = by_path(plan)
  scales = {one.linears[0]: found.get(f'{one.linears[0]}/scale') for one in inputs}
  return awq.folded(flat, inputs, scales)


def apply(
  flat: dict,
  inputs: Sequence[Input],
  plan: Plan,
  method: Method,
  seen: Callable[[Input, dict], Statistics | None] = lambda one, so_far: None,
  masks: dict | None = None,
) -> Applied:
  """Weights by path, of one replicate, folded, clipped and rounded: packed where the method takes.

  The method's scheme may be another than that of the search. seen: (input, the weights so far) ->
  statistics of the input in the scales of the plan, which GPTQ rounds by and errors are known by;
  called for one input after another, in the order of use. masks: by path; what they prune stays 0.
  """
  found, new, error = by_path(plan), folded(flat, inputs, plan), {}
  for one in inputs:
    sums = seen(one, new)
    for linear in filter(method.takes, one.linears):
      kernel = exact = new[f'{linear}/kernel'].astype(jnp.float32)
      if f'{linear}/bound' in found:
        kernel = clipped(exact, found[f'{linear}/bound'], int(found[f'{linear}/group']))
      kept = masks and masks[f'{linear}/kernel']
      q = new[f'{linear}/kernel'] = rounded(kernel, linear, method, sums, kept)
      error[linear] = None
      if sums is not None:
        change = awq.output_error(dequantize(q) - exact, sums)
        error[linear] = change / awq.output_error(exact, sums)
  return Applied(new, error)


def by_path(plan: Plan) -> dict[str, jax.Array]:
  """What a plan has, by path: 'attention/query/scale'."""
  return dict(tree.named(plan))


def write(path: Path, plan: Plan):
  """Writes a plan as an npz file, one array a path, whole or not at all. Raises StorageError."""
  with checkpoint.whole_file(path) as file:
    np.savez(file, **{name: np.asarray(leaf) for name, leaf in tree.named(plan)})


def keep(run: Run, plan: Plan):
  """Writes a plan as plan/plan.npz into the workdir of a run that has one."""
  if run.workdir:
    with run.write('plan') as folder:
      write(folder / 'plan.npz', plan)


def read(path: Path) -> Plan:
  """The plan of a file, the same bits. Raises MissingInput, or DataError for what is no npz."""
  if not Path(path).is_file():
    raise MissingInput(f'no plan in {path}; name the plan.npz that a search wrote')
  flat = npz.read(Path(path))
  folders = {name[:at] for name in flat for at, letter in enumerate(name) if letter == '/'}
  if inside := sorted(folders.intersection(flat)):
    raise DataError(f'{path} is no plan: arrays lie inside {inside[0]}, which is one itself')
  return tree.nest(flat)


def read_parts(path: Path, names: Sequence[str], inputs: Sequence[Input], like: dict) -> Plan:
  """The plan of a file for blocks or replicates of these names, which are all like this one.

  inputs: of one; like: its params. Raises UsageError where the plan is of another model.
  """
  plan = read(path)
  others = sorted(set(plan) - set(names))
  require(not others, f'{path} is a plan for {", ".join(others)}, which this model does not have')
  for name in plan:
    check(plan[name], inputs, like, f'{path}: {name}/')
  return plan


def check(plan: Plan, inputs: Sequence[Input], params, where: str = ''):
  """Raises UsageError unless plan is one for these inputs, which take its scales.

  params: of the module. where: what the message says before a part's path.
  """
  first = {one.linears[0]: one for one in inputs}
  shapes = {name: w.shape for name, w in tree.named(params)}
  found = by_path(plan)
  for name, value in found.items():
    linear, _, part = name.rpartition('/')
    known = part in PARTS and f'{linear}/kernel' in shapes and value.dtype.kind in 'fiu'
    known = known and np.isfinite(value).all()
    require(known, f'{where}{name} is no part of a plan for this model')
    rows, out = shapes[f'{linear}/kernel']
    if part == 'scale':
      one = first.get(linear)
      good = one is not None and one.sources and value.shape == (rows,) and (value > 0).all()
      good = good and np.array_equal(value, _tied(value, one.ties))
    elif part == 'bound':
      size = int(np.sum(found.get(f'{linear}/group', 0)))
      good = size > 0 and value.shape == (math.ceil(rows / size), out) and (value >= 0).all()
    else:
      good = value.shape == ()
    require(good, f'{where}{name} {value.shape} does not fit this model; search it again')


def _tied(scale, ties):
  """scale [rows] with that of the first channel of each tie."""
  return scale[np.unique(ties, return_index=True)[1][ties]]
