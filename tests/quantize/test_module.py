"""A module quantized as a whole: GPTQ that sees what the linears before it became."""

import jax
import numpy as np
import pytest

from reduction import tree
from reduction.errors import DataError, UsageError
from reduction.qtensor import Scheme, dequantize, is_packed
from reduction.quantize import inputs
from reduction.quantize.calibrate import calibrate
from reduction.quantize.gptq import gptq
from reduction.quantize.method import Method
from reduction.quantize.module import quantized
from tests.quantize.blocks import Block, filled

MODULE = Block()
METHOD = Method(Scheme(3, 8), rounding='gptq', sequential=True, stored='float32')
BATCHES = [np.random.default_rng(i).normal(size=(4, 8, 16)).astype(np.float32) for i in range(2)]


def test_sequential_gptq_sees_packed_predecessors():
  params = filled(MODULE, BATCHES[0])
  by, flat = inputs.find(MODULE, params, BATCHES[0]), dict(tree.named(params))
  run = lambda method: quantized(MODULE, flat, BATCHES, by, method).params
  found, at_once = run(METHOD), run(METHOD._replace(sequential=False))
  loop = dict(flat)
  for one in by:  # q, k, v, then o, then gate, up, then down, each packed before the next is seen
    gram = calibrate(MODULE, tree.nest(loop), BATCHES, [one])[one.linears[0]].gram[0]
    new = {
      f'{n}/kernel': gptq(loop[f'{n}/kernel'], gram, scheme=METHOD.scheme) for n in one.linears
    }
    loop |= {name: rounded.kernel for name, rounded in new.items()}
  different = {}
  for name in (name for name, w in found.items() if is_packed(w)):
    mine, other = dequantize(found[name]), dequantize(at_once[name])
    assert (~np.isclose(mine, loop[name], rtol=1e-4, atol=1e-5)).mean() < 0.01, name
    different[name] = (~np.isclose(mine, other, rtol=1e-4, atol=1e-5)).mean()
  first = {f'{name}/kernel' for name in 'qkv'}
  assert all((share > 0.01) == (name not in first) for name, share in different.items())


def test_sequential_rounding_must_look_at_inputs():
  with pytest.raises(UsageError, match='sequential=True needs a rounding that looks at inputs'):
    METHOD._replace(rounding='nearest').check()
  with pytest.raises(UsageError, match='tokens=-1 must not be negative'):
    METHOD._replace(tokens=-1).check()


def test_learned_and_block_judged_scales_change_no_function():
  params = filled(MODULE, BATCHES[0])
  by, flat = inputs.find(MODULE, params, BATCHES[0]), dict(tree.named(params))
  method = Method(Scheme(8, 8), 'learned', tokens=16, stored='float32')
  found = quantized(MODULE, flat, BATCHES, by, method, held=1)
  floats = {n: dequantize(w) if is_packed(w) else w for n, w in found.params.items()}
  assert found.plan['q']['scale'].std() > 0.01
  apply = jax.jit(lambda params: MODULE.apply({'params': params}, BATCHES[0]))
  before, after = apply(params), apply(tree.nest(floats))
  assert np.allclose(before, after, atol=0.1 * before.std())


def test_scales_that_nothing_undoes_are_refused_before_anything_is_quantized():
  params = filled(MODULE, BATCHES[0])
  by, flat = inputs.find(MODULE, params, BATCHES[0]), dict(tree.named(params))
  first, third = by[0], by[2]
  assert first.linears[0] == 'q' and third.linears[0] == 'gate'
  crossed = [first._replace(sources=third.sources), *by[1:]]
  method = Method(Scheme(3, 8), 'awq', stored='float32')
  assert quantized(MODULE, flat, BATCHES, by, method).plan['q']['scale'].std() > 0.01
  sums = calibrate(MODULE, params, BATCHES, by), None
  plan = quantized(MODULE, flat, BATCHES, by, method).plan
  for batches, how in (
    (BATCHES, {}),
    ([], dict(known=sums, example=BATCHES[0])),
    ([], dict(plan=plan, example=BATCHES[0])),
  ):
    quantized(MODULE, flat, batches, by, method, **how)
    with pytest.raises(DataError, match='the scales of q change what the module computes'):
      quantized(MODULE, flat, batches, crossed, method, **how)
