"""The compiled twin: the interpreter's bits, for every op, at the ends of what float32 holds."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from reduction.errors import UsageError
from reduction.mcu import (
  emit,
  fixed,
  from_flax,
  host,
  interpret,
  patches,
  plan,
  scales,
  sketch,
  twin,
  writer,
)  # fmt: skip
from reduction.mcu import graph as g
from tests.mcu import nets, random_nets

SHIPPED = ['te_lenet', 'ic_resnet'] + [
  pytest.param(n, marks=pytest.mark.slow) for n in ('te_vww', 'in3')
]


def equal(graph, x) -> bool:
  """Whether the twin has every output of the interpreter."""
  pairs = zip(twin.twin(graph)(x), interpret.interpret(graph, x), strict=True)
  return all(np.array_equal(a, b) and a.dtype == np.int8 for a, b in pairs)


@pytest.mark.parametrize('net', nets.MADE)
def test_every_op_has_the_interpreter_s_bits(net):
  graph = nets.MADE[net]()
  assert equal(graph, nets.inputs(graph, 5))


def test_a_net_in_patches_has_the_interpreter_s_bits():
  graph = nets.mobile()
  made = patches.patched(graph, 4, 2, 2)
  x = nets.inputs(graph, 2)
  assert equal(made, x)
  assert np.array_equal(twin.twin(made)(x)[0], interpret.interpret(graph, x)[0])
  with pytest.raises(UsageError, match=r'\(crop\) has a kind, which no .tflite operator has'):
    writer.write(made)


@pytest.mark.parametrize('seeds', [range(4), pytest.param(range(4, 12), marks=pytest.mark.slow)])
def test_random_graphs_have_the_interpreter_s_bits(seeds):
  for seed in seeds:
    graph = random_nets.build(seed)
    assert equal(graph, nets.inputs(graph, 3, seed)), seed


@pytest.mark.parametrize('name', SHIPPED)
def test_trained_nets_have_the_interpreter_s_bits(name):
  graph = nets.shipped(name)
  assert equal(graph, nets.inputs(graph, 18))


def dense(weights, zero: int) -> g.Graph:
  """A dense layer of given weights, int8 [cout, cin], whose factor keeps small sums as they are."""
  cout, cin = weights.shape
  head = g.Tensor('x', (1, 1, cin), 1.0, zero), g.Tensor('y', (1, 1, cout), 1.0, 0)
  bias, factor = np.zeros(cout, np.int32), fixed.quantize_multipliers(np.full(cout, 2.0**-17))
  op = g.Dense('dense', (0,), 1, weights, bias, *factor)
  return g.Graph('dense', head, (op,), (0,), (1,))


def test_dots_are_float32_up_to_the_bound_and_no_further():
  """1,024 products of 128 by 128 reach 2^24 and are exact; one of 1 more is another dot."""
  at = np.full((1, 1, 1_025, 1), -128, np.int8)
  at[..., -1, :] = 0
  assert twin.pieces(at, 128) == [slice(0, 1_025)]
  at[..., -1, :] = 1
  assert twin.pieces(at, 128) == [slice(0, 1_024), slice(1_024, 1_025)]
  assert twin.pieces(at, 129) == [slice(0, 1_016), slice(1_016, 1_025)]
  wide = np.full((32, 33, 2, 1), -128, np.int8)
  assert twin.pieces(wide, 128) == []  # one channel alone passes it: int32


@pytest.mark.parametrize('more', [0, 1, 3])
def test_sums_at_the_bound_are_exact(more):
  """2^24 + 1 is no float32: a sum that reaches it must not be one dot."""
  weights = np.full((1, 1_024 + more), -128, np.int8)
  weights[:, 1_024:] = 1
  graph = dense(weights, 0)
  x = np.full((1, 1, 1, 1_024 + more), -128, np.int8)
  x[..., 1_024:] = 1
  parts = twin.pieces(weights.T[None, None], 128)
  assert len(parts) == 1 + (more > 0)
  product = lambda a, w: jnp.dot(a, w[0, 0])
  sums = twin._sums(weights.T[None, None], x, graph.tensors[0], product, None)
  assert int(sums.item()) == 2**24 + more
  one = np.float32(2**24) + np.float32(1)
  assert int(one) == 2**24  # what a single dot would lose
  assert equal(graph, x)


def test_windows_beyond_the_bound_are_summed_as_int32():
  s = sketch.Sketch((33, 34, 2), 1)
  x = sketch.depthwise(s, 0, kernel=(23, 24), pad=(0, 0, 0, 0))
  y = sketch.conv(s, 0, 2, kernel=(32, 33), pad=(0, 0, 0, 0))
  weights = np.full(s.ops[1].weights.shape, -128, np.int8)
  s.ops[1] = dataclasses.replace(s.ops[1], weights=weights)
  graph = sketch.finish(s, 'x', x, y)
  assert twin.pieces(weights.transpose(1, 2, 3, 0), twin.span(graph.tensors[0])) == []
  assert equal(graph, nets.inputs(graph, 2))


def test_arithmetic_of_32_bits_is_that_of_64():
  random = np.random.default_rng(0)
  ends = np.array([-(2**31) + 1, -(2**30), -65_536, -65_535, -1, 0, 1, 32_768, 65_535, 2**31 - 1])
  a = np.concatenate([np.repeat(ends, len(ends)), random.integers(-(2**31) + 1, 2**31, 20_000)])
  b = np.concatenate([np.tile(ends, len(ends)), random.integers(-(2**31) + 1, 2**31, 20_000)])
  a, b = a.astype(np.int32), b.astype(np.int32)
  assert np.array_equal(twin.high_product(a, b), fixed.high_product(a, b))
  right = random.integers(0, 32, len(a))
  assert np.array_equal(twin.rounding_shift(a, right), fixed.rounding_shift(a, right))
  for left in (0, 2, 5, 30):
    assert np.array_equal(twin.saturating_shift(a, left), fixed.saturating_shift(a, left))
  below = -np.abs(a)
  assert np.array_equal(twin.exp_negative(jnp.asarray(below)), fixed.exp_negative(below))
  above = np.maximum(np.abs(a), 1)
  for found, want in zip(twin.reciprocal(jnp.asarray(above), 12), fixed.reciprocal(above, 12)):
    assert np.array_equal(found, want)


def softmax(classes: int) -> g.Graph:
  """Of a vector of so many values."""
  s = sketch.Sketch((1, 1, classes))
  factor, least = scales.softmax(s.tensors[0].scale)
  fields = dict(factor=factor, least=least)
  sketch.append(s, g.Softmax, [0], (1, 1, classes), *scales.SHARES, **fields)
  return sketch.finish(s, 'softmax')


def test_a_softmax_of_many_equal_values_is_0():
  """In C too: more than 512 are shifted by 32 bits, for which 32-bit arithmetic needs care."""
  for classes in (513, 4_095):
    graph = softmax(classes)
    x = np.full((1, 1, 1, classes), 7, np.int8)
    assert equal(graph, x)
    assert (interpret.interpret(graph, x)[0] == -128).all()
  if host.compiler():
    source = emit.emit(graph, plan.plan(graph))
    found = host.run(source, graph, x, flags=(*host.STRICT, *host.SANITIZED))
    assert (found[0] == -128).all()
  with pytest.raises(UsageError, match='sums of 4,096 values pass 32 bits'):
    softmax(4_096)


def test_logits_are_the_interpreter_s_for_any_batch():
  s = sketch.Sketch((2, 3, 2))
  graph = sketch.finish(s, 'x', sketch.dense(s, 0, 5))
  x = np.random.default_rng(0).uniform(-2, 2, (11, 12))
  want = from_flax.logits(graph, x)
  for batch in (4, 64):
    assert np.array_equal(twin.logits(graph, x, batch=batch), want)
