"""Trained models and random ones: LiteRT's reference kernels and TFLM give the same bytes."""

import numpy as np
import pytest

from reduction.mcu import flatbuffer, interpret, reader, writer
from tests.mcu import nets, random_nets, runtimes

pytest.importorskip('tflite', reason='reading .tflite files needs the package tflite')
SHIPPED = [n if n != 'in3' else pytest.param(n, marks=pytest.mark.slow) for n in nets.SHIPPED]


@pytest.mark.parametrize('name', SHIPPED)
def test_tflite_micro_gives_the_same_bytes_for_20_inputs(name):
  graph = nets.shipped(name)
  x = nets.inputs(graph, 18)
  want = runtimes.micro(nets.SHIPPED[name].read_bytes(), graph, x)
  for (one,), codes in zip(want, interpret.interpret(graph, x)[0], strict=True):
    found = codes.ravel()
    if one.dtype == np.float32:
      found = interpret.dequantize(found, graph.tensors[graph.outputs[0]])
    if 'LOG_SOFTMAX' in graph.note:
      found = found - np.log(np.exp(found).sum())
      np.testing.assert_allclose(found, one, atol=1e-5)
    else:
      assert np.array_equal(found, one)


@pytest.mark.parametrize('name', SHIPPED)
def test_every_layer_is_litert_s_for_20_inputs(name):
  graph = nets.shipped(name)
  data = nets.SHIPPED[name].read_bytes()
  assert runtimes.differing(data, graph, nets.inputs(graph, 18)) == []


@pytest.mark.parametrize('name', SHIPPED)
def test_what_is_written_again_runs_the_same(name):
  """Of files with float ends, the int8 net between them."""
  graph = nets.shipped(name)
  data, x = writer.write(graph), nets.inputs(graph, 2)
  want = runtimes.micro(data, graph, x)
  for (one,), codes in zip(want, interpret.interpret(graph, x)[0], strict=True):
    assert np.array_equal(codes.ravel(), one)


def compare(seeds):
  """Builds, writes, reads and runs random graphs in all three."""
  kinds = set()
  for seed in seeds:
    graph = random_nets.build(seed)
    kinds |= {op.kind for op in graph.ops}
    data, x = writer.write(graph), nets.inputs(graph, 2, seed)
    assert nets.same(reader.build(flatbuffer.parse(data, graph.name)), graph), seed
    found = interpret.interpret(graph, x)
    for i, outputs in enumerate(runtimes.micro(data, graph, x)):
      assert all(np.array_equal(a, b[i].ravel()) for a, b in zip(outputs, found)), seed
    assert runtimes.differing(data, graph, x) == [], seed
  return kinds


def test_random_graphs_are_equal_in_three_runtimes():
  assert len(compare(range(50))) == 13  # every kind of op


@pytest.mark.slow
def test_many_random_graphs_are_equal_in_three_runtimes():
  assert len(compare(range(1_000, 1_150))) == 13
