"""A module's program as a list of operations, calls inlined: who makes a value, who reads it."""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from reduction import tree

KERNEL = '/kernel'
CALLS = dict.fromkeys(('jit', 'pjit', 'remat', 'remat2', 'checkpoint', 'closed_call'), 'jaxpr')
CALLS |= dict.fromkeys(('custom_jvp_call', 'custom_vjp_call', 'core_call'), 'call_jaxpr')


class Value:
  """One array of a traced program; two are the same only if they are one object."""

  def __init__(self, aval):
    self.shape, self.dtype = tuple(aval.shape), aval.dtype


class Step(NamedTuple):
  """One operation. ins: values and literals."""

  name: str
  primitive: Any
  params: dict
  ins: tuple
  outs: tuple

  def __hash__(self):
    return id(self)

  def __eq__(self, other):
    return self is other


class Program(NamedTuple):
  """Operations in order, without those that no result needs.

  inputs: what the module is applied to. constants: arrays that are no weights. weights: by path,
  names: the paths.
  """

  steps: list[Step]
  inputs: list[Value]
  constants: dict[Value, Any]
  weights: dict[str, Value]
  names: dict[Value, str]
  makers: dict[Value, Step]
  readers: dict[Value, list[Step | None]]  # None: the program's result


def trace(module: nn.Module, params, x) -> Program:
  """The program of `module.apply` on x; shapes are enough for params and x."""
  forward = lambda params, x: module.apply({'params': params}, x)
  traced = jax.make_jaxpr(forward)(params, x)
  values = [Value(v.aval) for v in traced.jaxpr.invars]
  weights = dict(zip(tree.names(params), values))
  steps, constants = [], {}
  results = _steps(traced, values, steps, constants)
  needed, used = set(results), []
  for step in reversed(steps):  # what no result needs reads nothing
    if needed.intersection(step.outs):
      needed.update(v for v in step.ins if isinstance(v, Value))
      used.append(step)
  readers: dict[Value, list] = {v: [None] for v in results if isinstance(v, Value)}
  for step in used[::-1]:
    for value in {v for v in step.ins if isinstance(v, Value)}:
      readers.setdefault(value, []).append(step)
  makers = {v: step for step in used for v in step.outs}
  names = {v: k for k, v in weights.items()}
  return Program(used[::-1], values[len(weights) :], constants, weights, names, makers, readers)


def _steps(traced, ins, steps: list, constants: dict) -> list:
  """Adds the operations of a traced program, calls inlined, to steps; its results."""
  program, arrays = getattr(traced, 'jaxpr', traced), getattr(traced, 'consts', ())
  known = dict(zip(program.invars, ins))
  known |= {v: Value(v.aval) for v in program.constvars[: len(arrays)]}
  constants |= {known[v]: array for v, array in zip(program.constvars, arrays)}
  value = lambda v: v if hasattr(v, 'val') else known[v]
  for equation in program.eqns:
    name, ins = equation.primitive.name, tuple(map(value, equation.invars))
    if name in CALLS:
      outs = _steps(equation.params[CALLS[name]], ins, steps, constants)
    else:
      outs = tuple(Value(v.aval) for v in equation.outvars)
      steps.append(Step(name, equation.primitive, equation.params, ins, outs))
    known |= dict(zip(equation.outvars, outs))
  return list(map(value, program.outvars))


def unconverted(program, value, reader):
  """(value before changes of its type, the step that reads that)."""
  while (step := program.makers.get(value)) is not None and step.name == 'convert_element_type':
    value, reader = step.ins[0], step
  return value, reader


def linear(program, step) -> str | None:
  """The path of the linear that this step is."""
  if step.name != 'dot_general' or not all(isinstance(v, Value) for v in step.ins):
    return None
  x, kernel = step.ins
  name = program.names.get(unconverted(program, kernel, step)[0], '')
  (contracted, batch) = step.params['dimension_numbers']
  plain = contracted == ((len(x.shape) - 1,), (0,)) and batch == ((), ())
  return name.removesuffix(KERNEL) if name.endswith(KERNEL) and plain else None


def needed(program, targets, given) -> list[Step]:
  """The steps in order that make targets from the values given, weights and constants."""
  wanted, steps = set(targets) - set(given), []
  for step in reversed(program.steps):
    if wanted.intersection(step.outs):
      wanted.update(v for v in step.ins if isinstance(v, Value) and v not in given)
      steps.append(step)
  return steps[::-1]


def evaluate(steps, known: dict) -> dict:
  """Arrays of all values of these steps, in order. known: arrays of what they read."""
  known = dict(known)
  for step in steps:
    ins = [known[v] if isinstance(v, Value) else v.val for v in step.ins]
    outs = step.primitive.bind(*ins, **step.params)
    known |= zip(step.outs, outs if step.primitive.multiple_results else [outs])
  return known


def moved(step) -> list[np.ndarray]:
  """For each result which entry of the operands, counted through all, each of its entries is."""
  ends = np.cumsum([math.prod(v.shape) for v in step.ins], dtype=np.int32)
  counted = np.split(np.arange(ends[-1], dtype=np.int32), ends[:-1])
  numbers = [part.reshape(v.shape) for part, v in zip(counted, step.ins)]
  results = step.primitive.bind(*numbers, **step.params)
  results = results if step.primitive.multiple_results else [results]
  return [np.asarray(r).reshape(-1) for r in results]
