"""What a net costs to hold and to run: the fixed columns of every before/after table."""

import math

import jax
import numpy as np

from reduction import energy, tree
from reduction.net import Net, apply
from reduction.qtensor import dequantize, is_packed

# operations whose results need their inputs to the end; a custom gradient is `kernels.conv`'s
PRODUCTS = 'dot_general', 'conv_general_dilated'
REDUCES = (*PRODUCTS, 'custom_vjp_call')


def cost(net: Net, x) -> dict:
  """params, nonzero [R], bytes [R], macs, peak_sram, energy_uj [R] of a net with replicates.

  x: one input [1, ...] that gives the shapes. nonzero: weights not 0. bytes: the smaller of dense
  storage and of surviving values with a bitmap, leaf by leaf; packed weights with their scales and
  zero points. macs: multiply-accumulates of one forward pass as dense code does it. peak_sram:
  bytes of the activations alive at once, in the order of the module. energy_uj: microjoules, each
  multiply-accumulate of a surviving weight, in floats, halves or integers as the module does it,
  and each stored byte fetched once from DRAM; an estimate, for comparisons only.
  """
  one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), (net.params, net.stats))
  program = jax.make_jaxpr(lambda p, s, x: apply(net.module, p, s, x))(*one, x).jaxpr
  leaves = jax.tree.leaves(tree.keep(net.params, net.masks), is_leaf=is_packed)
  counts = [_counts(w) for w in leaves]
  total, nonzero, stored = (sum(numbers) for numbers in zip(*counts))
  total_macs = macs(program)
  integer, half = (macs(program, kind) for kind in (_of_integers, _of_halves))
  picojoules = integer * energy.MAC['int8'] + half * energy.MAC['float16']
  picojoules += (total_macs - integer - half) * energy.MAC['float32']
  took = (picojoules * nonzero / total + stored * energy.BYTE['dram']) / 1e6
  return dict(
    params=total,
    nonzero=nonzero,
    bytes=stored,
    macs=total_macs,
    peak_sram=peak(program),
    energy_uj=np.round(took, 3),
  )


def _counts(leaf):
  """(weights, those not 0 [R], bytes [R]) of a leaf: packed, dense, or a bit each and the rest."""
  w = np.asarray(dequantize(jax.tree.map(np.asarray, leaf)) if is_packed(leaf) else leaf)
  size, nonzero = w[0].size, np.count_nonzero(w.reshape(len(w), -1), axis=1)
  if is_packed(leaf):
    return size, nonzero, np.full(len(w), leaf.nbytes // len(w))
  return size, nonzero, np.minimum(size * w.itemsize, nonzero * w.itemsize + math.ceil(size / 8))


def _inner(equation):
  """The programs inside an equation (a call, a jitted function)."""
  for value in equation.params.values():
    if hasattr(value, 'jaxpr'):
      yield value.jaxpr
    elif hasattr(value, 'eqns'):
      yield value


def _of_integers(equation) -> bool:
  return all(v.aval.dtype.kind == 'i' for v in equation.invars)


def _of_halves(equation) -> bool:
  return all(v.aval.dtype.itemsize == 2 and v.aval.dtype.kind != 'i' for v in equation.invars)


def macs(program, counts=lambda equation: True) -> int:
  """Multiply-accumulates of the products that count, of a jaxpr."""
  count = 0
  for equation in program.eqns:
    inner = sum(macs(part, counts) for part in _inner(equation))
    count += equation.params.get('length', 1) * inner  # of a scan
    if equation.primitive.name not in PRODUCTS or not counts(equation):
      continue
    output = math.prod(equation.outvars[0].aval.shape)
    if equation.primitive.name == 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      count += output * math.prod(equation.invars[0].aval.shape[d] for d in contracted)
    else:
      kernel = equation.invars[1].aval.shape
      filters = equation.params['dimension_numbers'].rhs_spec[0]
      count += output * math.prod(kernel) // kernel[filters]
  return count


def peak(program, inputs: int = 1) -> int:
  """Largest sum of bytes of values of a jaxpr between their first and last use, without weights and
  what is made of them alone, such as a kernel that was packed. Its last arguments are the inputs.
  """
  if len(program.eqns) == 1:  # a module that is one jitted call
    inner = list(_inner(program.eqns[0]))
    if inner:
      return peak(inner[0], inputs)
  nbytes = lambda v: math.prod(v.aval.shape) * v.aval.dtype.itemsize
  named = lambda vs: [v for v in vs if not hasattr(v, 'val')]
  last = {v: i for i, e in enumerate(program.eqns) for v in named(e.invars)}
  last |= {v: len(program.eqns) for v in named(program.outvars)}
  alive = {v: nbytes(v) for v in program.invars[-inputs:]}
  most, moving = 0, set(alive)  # what depends on it
  for i, equation in enumerate(program.eqns):
    ends = [v for v in alive if last.get(v, -1) <= i]
    if moving.intersection(named(equation.invars)):
      moving.update(equation.outvars)
      if equation.primitive.name != 'broadcast_in_dim':  # which is read where it is needed
        alive |= {v: nbytes(v) for v in equation.outvars if v in last}
    overwritten = max((alive[v] for v in ends if _in_place(equation, v)), default=0)
    loops = _inner(equation) if equation.primitive.name == 'scan' else ()
    within = max((peak(part, len(part.invars)) for part in loops), default=0)
    most = max(most, sum(alive.values()) + within - overwritten)
    for v in ends:
      alive.pop(v)
  return most


def _in_place(equation, v) -> bool:
  """Whether the result may take v's memory: elementwise operations and reshapes."""
  reduces = equation.primitive.name in REDUCES
  output = equation.outvars[0].aval
  return not reduces and v.aval.size == output.size and v.aval.dtype == output.dtype
