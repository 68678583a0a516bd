"""The loss of a block: linears that share an input, judged where what they make has come together.

Lin et al. 2024 judge the scales of queries, keys and values by the output of attention, and those
of gate and up by the output of the MLP. Here no table says which output that is. In the module's
own program every path from the linears to the result runs through it, and it is the last such value
before anything else that depends on the data, a residual, comes in. This piece of the program is
run again for each exponent.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from reduction import tree
from reduction.quantize.awq import Judge
from reduction.quantize.calibrate import by_token
from reduction.quantize.inputs import Input
from reduction.quantize.program import KERNEL, Program, Value, evaluate, linear, needed, trace


class Captured(NamedTuple):
  """What a piece of a program reads and gives, on some tokens.

  values: of the program before it; weights: by path; exact: its result; counts: bool [n, length],
  the tokens that count, None for all.
  """

  values: list[jax.Array]
  weights: dict[str, jax.Array]
  exact: jax.Array
  counts: jax.Array | None


class Replay(NamedTuple):
  """The piece of a program that linears of one input make, as two functions.

  capture(params, x, counts) -> Captured, of batches like that it was found with. loss(new, old,
  captured): the squared change of the result relative to its squares, where kernels, by linear, are
  new; see `awq.search`.
  """

  capture: Callable[[Any, jax.Array, jax.Array | None], Captured]
  loss: Callable[[dict, dict, Captured], jax.Array]


def judges(
  module: nn.Module, params, inputs: Sequence[Input], tokens: int, searched: Sequence,
  held: Sequence = (), seen: Callable | None = None,
) -> dict[str, Judge]:  # fmt: skip
  """What judges the scales of each input that has some and several linears read, by its first.

  searched, held: batches [n, length, ...] of what the module takes; of either so many examples,
  evenly chosen, as have at most so many tokens, but one at least. seen: see `calibrate`.
  """
  parts = [part for part in (searched, held) if len(part)]
  length = searched[0].shape[1] if searched[0].ndim > 1 else 1
  count = taken(tokens, length, *(sum(map(len, part)) for part in parts))
  x = [chosen(part, count) for part in parts]
  found = {}
  for name, one in find(module, params, x[0], [i for i in inputs if i.sources]).items():
    on = [one.capture(params, part, None if seen is None else seen(part)) for part in x]
    found[name] = Judge(one.loss, on[0], on[1] if held else None)
  return found


def taken(tokens: int, length: int, *sizes: int) -> int:
  """How many examples of this length have at most so many tokens and are in parts of these sizes;
  one at least."""
  return max(1, min(tokens // length, *sizes))


def find(module: nn.Module, params, x, inputs: Sequence[Input]) -> dict[str, Replay]:
  """The replay of each input that several linears read, by its first; cached.

  params: of one replicate, x: a batch; shapes are enough for both. An input whose linears come
  together nowhere before the results has none.
  """
  shapes = tuple((name, w.shape, jnp.dtype(w.dtype)) for name, w in tree.named(params))
  groups = tuple(one.linears for one in inputs if len(one.linears) > 1)
  return _find(module, shapes, x.shape, jnp.dtype(x.dtype), groups)


@functools.lru_cache(maxsize=16)
def _find(module, shapes, shape, dtype, groups):
  params = tree.nest({name: jax.ShapeDtypeStruct(*like) for name, *like in shapes})
  with jax.default_matmul_precision('highest'):  # errors of rounding are small
    program = trace(module, params, jax.ShapeDtypeStruct(shape, dtype))
  varying = reached(program, program.inputs)
  found = {linears[0]: _replay(program, linears, varying) for linears in groups}
  return {name: one for name, one in found.items() if one is not None}


def _replay(program: Program, linears, varying) -> Replay | None:
  made = [out for s in program.steps if linear(program, s) in linears for out in s.outs]
  after = reached(program, made)
  place = meeting(program, made, after, varying)
  if place is None:
    return None
  piece = needed(program, [place], varying - after)
  read = dict.fromkeys(v for step in piece for v in step.ins if isinstance(v, Value))
  values = [v for v in read if v in varying and v not in after]
  before = needed(program, values, program.inputs)
  paths = [program.names[v] for v in read if v in program.names]

  def run(inputs, weights):
    known = dict(zip(values, inputs)) | {program.weights[n]: w for n, w in weights.items()}
    return evaluate(piece, program.constants | known)[place]

  @jax.jit
  def forward(params, x):
    weights = dict(tree.named(params))
    known = {program.weights[n]: w for n, w in weights.items()} | {program.inputs[0]: x}
    known = evaluate(before, program.constants | known)
    inputs = [known[v] for v in values]
    return inputs, run(inputs, {n: weights[n] for n in paths})

  def capture(params, x, counts=None):
    weights = dict(tree.named(params))
    inputs, exact = forward(params, x)
    return Captured(inputs, {n: weights[n] for n in paths}, exact, by_token(counts, exact))

  def loss(new, old, on):
    del old
    weights = on.weights | {name + KERNEL: kernel for name, kernel in new.items()}
    change = run(on.values, weights) - on.exact
    kept = True if on.counts is None else on.counts[..., None]
    sums = [(jnp.where(kept, y.astype(jnp.float32), 0.0) ** 2).sum() for y in (change, on.exact)]
    return sums[0] / jnp.maximum(sums[1], jnp.finfo(jnp.float32).tiny)

  return Replay(capture, loss)


def reached(program: Program, start) -> set[Value]:
  """The values that depend on those of start, these included."""
  found = set(start)
  for step in program.steps:
    if any(v in found for v in step.ins if isinstance(v, Value)):
      found.update(step.outs)
  return found


def meeting(program: Program, made, after, varying) -> Value | None:
  """The value that alone hands on all that was made, the last before something else is added.

  after: what depends on made; varying: what depends on the module's input. None where there is no
  such value: made goes into several results.
  """
  left = {v: len(program.readers[v]) for v in after if v in program.readers}
  missing, live, place = set(made), set(), None
  for step in program.steps:
    read = {v for v in step.ins if isinstance(v, Value)}
    mine = read & after
    if mine and place is not None and (read & varying) - after:
      return place
    for v in mine:
      left[v] -= 1
    live.update(step.outs)
    live = {v for v in live if left.get(v)}
    missing.difference_update(step.outs)
    if not missing and len(live) == 1:
      (place,) = live
  return place


def chosen(batches: Sequence, count: int):
  """count examples, evenly from all of these batches."""
  places = [(b, i) for b, batch in enumerate(batches) for i in range(len(batch))]
  at = np.linspace(0, len(places) - 1, count).round().astype(int)
  return np.stack([np.asarray(batches[b][i]) for b, i in (places[k] for k in at)])
