"""Written as .tflite and read again, a graph is itself; what no operator computes is refused."""

import dataclasses
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reduction.errors import UsageError
from reduction.mcu import flatbuffer, interpret, reader, scales, sketch, writer
from reduction.mcu import graph as g
from tests.mcu import nets, random_nets

tflite = pytest.importorskip('tflite', reason='writing .tflite files needs the package tflite')
SHIPPED = [n if n != 'in3' else pytest.param(n, marks=pytest.mark.slow) for n in nets.SHIPPED]


def again(graph):
  """Written and read."""
  return reader.build(flatbuffer.parse(writer.write(graph), graph.name))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_a_random_graph_is_read_as_it_was_written(seed):
  graph = random_nets.build(seed)
  assert nets.same(again(graph), graph)


@pytest.mark.parametrize('name', SHIPPED)
def test_a_trained_graph_is_read_as_it_was_written(name):
  graph = nets.shipped(name)
  assert nets.same(again(graph), graph)


def test_a_pad_before_a_product_becomes_its_window_s():
  s = sketch.Sketch((5, 4, 3))
  x = sketch.copied(s, g.Pad, [0], (8, 6, 3), pad=(1, 2, 0, 2))
  graph = sketch.finish(s, 'x', sketch.conv(s, x, 4, kernel=3, pad=(0, 0, 0, 0)))
  found = again(graph)
  assert [op.kind for op in found.ops] == ['conv'] and found.ops[0].window.pad == (1, 2, 0, 2)
  x = nets.inputs(graph, 3)
  assert np.array_equal(*(interpret.interpret(one, x)[0] for one in (graph, found)))


def test_the_least_file_by_hand():
  """A dense layer of two values: its constants lie in the file as they are, at multiples of 16."""
  s = sketch.Sketch((1, 1, 2))
  graph = sketch.finish(s, 'two', sketch.dense(s, 0, 2))
  data, op = writer.write(graph), graph.ops[0]
  assert data[4:8] == b'TFL3'
  for array in (op.weights, op.bias):
    assert data.count(array.tobytes()) == 1 and data.index(array.tobytes()) % 16 == 0
  file = flatbuffer.parse(data, 'two')
  assert [o.kind for o in file.operators] == ['FULLY_CONNECTED']
  assert [v.kind for v in file.values] == ['INT8', 'INT8', 'INT32', 'INT8']
  weights, bias = file.values[1:3]
  assert np.array_equal(bias.scale, np.float32(0.02) * weights.scale)


def changed(kind, **fields):
  """A graph of one op of a kind with fields changed."""
  made = dict(
    conv=lambda s: sketch.conv(s, 0, 4, kernel=3), add=lambda s: sketch.add(s, 0, 0),
    mul=lambda s: sketch.mul(s, 0, 0), mean=lambda s: sketch.mean(s, 0),
    average=lambda s: sketch.pool(s, 0, 'average', kernel=3, stride=1, pad=(0, 1, 1, 0)),
    resize=lambda s: sketch.copied(s, g.Resize, [0], (2, 1, 3), rows=(1, 0), columns=(2,)),
    lookup=lambda s: sketch.append(
      s, g.Lookup, [0], (6, 5, 3), table=np.arange(256).astype(np.int8)),
  )  # fmt: skip
  s = sketch.Sketch((6, 5, 3))
  made[kind](s)
  s.ops[-1] = dataclasses.replace(s.ops[-1], **fields)
  return sketch.finish(s, kind)


@pytest.mark.parametrize(
  'kind, fields, says',
  [('conv', dict(low=-100, high=-90), r'conv0 clamps to -?[\d.]+ .. -?[\d.]+; .* has relu'),
   ('conv', dict(multiplier=np.full(4, 2**30 + 1, np.int32)), r'conv0 \(conv\) has factors'),
   ('add', dict(factors=((2**30, 0),) * 3), r'add0 \(add\) has factors'),
   ('mul', dict(factor=(2**30, 0)), r'mul0 \(mul\) has a factor'),
   ('mean', dict(factor=(2**30, 0)), r'mean0 \(mean\) has a factor'),
   ('average', {}, r'pool0 \(pool\) has a window that pads \(0, 1, 1, 0\)'),
   ('resize', {}, r'resize0 \(resize\) has rows \(1, 0\)'),
   ('lookup', {}, r'lookup0 \(lookup\) has a table')],
)  # fmt: skip
def test_what_no_operator_computes_is_refused(kind, fields, says):
  with pytest.raises(UsageError, match=says):
    writer.write(changed(kind, **fields))


def test_a_scale_that_float32_does_not_hold_is_refused():
  graph = changed('conv')
  first = dataclasses.replace(graph.tensors[0], scale=0.02)
  with pytest.raises(UsageError, match=r'input has scale 0.02; float32 has 0.0199'):
    writer.write(dataclasses.replace(graph, tensors=(first, *graph.tensors[1:])))


def test_names_stay_text():
  evil = 'foo"); system("x'
  graph = changed('conv')
  output = dataclasses.replace(graph.tensors[1], name=evil)
  op = dataclasses.replace(graph.ops[0], name=evil)
  graph = dataclasses.replace(graph, name=evil, tensors=(graph.tensors[0], output), ops=(op,))
  assert nets.same(again(graph), graph)


def test_pixels_of_a_maximum_that_are_not_minus_128_are_refused():
  """A PADV2 of another value than the least is no padding of a maximum."""
  s = sketch.Sketch((6, 5, 3))
  graph = sketch.finish(s, 'x', sketch.pool(s, 0, 'max', kernel=3, pad=(1, 0, 2, 0)))
  file = flatbuffer.parse(writer.write(graph), 'x')
  assert [o.kind for o in file.operators] == ['PADV2', 'MAX_POOL_2D']
  at = next(i for i, v in enumerate(file.values) if v.name == 'pool0, pad value')
  file.values[at] = file.values[at]._replace(data=np.array([5], np.int8))
  with pytest.raises(UsageError, match='pads with 5, not -3'):
    reader.build(file)


def test_activations_clamp_as_the_format_says():
  tensor = g.Tensor('x', (1, 1, 1), 0.05, -10)
  found = {a: scales.ends(*ends, tensor) for a, ends in scales.ACTIVATIONS.items()}
  assert found == {0: (-128, 127), 1: (-10, 127), 2: (-30, 10), 3: (-10, 110)}


def test_without_the_package_a_net_is_still_deployed(monkeypatch):
  for name in 'tflite', 'flatbuffers':  # as in an installation without [mcu]
    monkeypatch.setitem(sys.modules, name, None)
  file, why = writer.attempt(random_nets.build(0))
  assert file is None and 'tflite' in why
