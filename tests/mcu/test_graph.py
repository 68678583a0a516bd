"""A graph refuses what has no meaning, naming the layer."""

import dataclasses

import numpy as np
import pytest

from reduction.errors import UsageError
from reduction.mcu import graph as g
from reduction.mcu import sketch
from tests.mcu import nets


def changed(graph, index, **fields):
  """graph with fields of one op changed."""
  ops = list(graph.ops)
  ops[index] = dataclasses.replace(ops[index], **fields)
  return dataclasses.replace(graph, ops=tuple(ops))


@pytest.mark.parametrize(
  'fields, says',
  [(dict(low=5, high=4), r'conv0 \(conv\): clamps to \[5, 4\]'),
   (dict(weights=np.zeros((8, 3, 3, 3), np.int16)), 'weights are int16, not int8'),
   (dict(weights=np.zeros((8, 3, 3, 4), np.int8)), r'where \(8, 3, 3, 3\) are wanted'),
   (dict(bias=np.zeros(7, np.int32)), r'int32 \(8,\) is wanted'),
   (dict(shift=np.full(8, 31, np.int32)), r'shift outside \[-31, 30\]'),
   (dict(bias=np.full(8, 2**31 - 1, np.int32)), 'passes 32 bits'),
   (dict(output=3), 'makes'), (dict(inputs=(5,)), 'before it is made'),
   (dict(inputs=(99,)), 'is no tensor')],
)  # fmt: skip
def test_an_op_that_does_not_fit_is_refused(fields, says):
  with pytest.raises(UsageError, match=says):
    changed(nets.mobile(), 0, **fields)


@pytest.mark.parametrize(
  'shape, scale, zero',
  [
    ((0, 1, 1), 1.0, 0),
    ((1, 1), 1.0, 0),
    ((1, 1, 1), 0.0, 0),
    ((1, 1, 1), float('nan'), 0),
    ((1, 1, 1), 1.0, 128),
    ((2**15, 2**15, 4), 1.0, 0),
  ],
)
def test_a_tensor_states_its_ranges(shape, scale, zero):
  with pytest.raises(UsageError, match="tensor 'x'"):
    g.Tensor('x', shape, scale, zero)


def test_a_window_that_pads_a_whole_kernel_is_refused():
  with pytest.raises(UsageError, match='pads a whole kernel'):
    g.Window((3, 3), (1, 1), (3, 0, 0, 0))


def test_lifetimes_and_costs_by_hand():
  s = sketch.Sketch((4, 4, 2))
  a = sketch.conv(s, 0, 3, kernel=3)
  b = sketch.conv(s, a, 3)
  graph = sketch.finish(s, 'x', sketch.add(s, a, b))
  assert graph.lifetimes() == {0: (0, 0), 1: (0, 2), 2: (1, 2), 3: (2, 2)}
  assert [graph.macs(op) for op in graph.ops] == [16 * 3 * 9 * 2, 16 * 3 * 3, 0]
  assert graph.constants(graph.ops[0]) == 3 * 9 * 2 + 3 * 12
