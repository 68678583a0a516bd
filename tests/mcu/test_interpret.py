"""The interpreter against arithmetic by hand and real-valued convolutions."""

import jax
import numpy as np
import pytest

from reduction.errors import UsageError
from reduction.mcu import graph as g
from reduction.mcu import interpret, sketch
from tests.mcu import nets


def one(kind, x, output, shape, zero=0, **fields):
  """The output of a graph of one op on x, int8 [h, w, c], of scale 1 and zero 0."""
  tensors = g.Tensor('x', x.shape, 1.0, 0), g.Tensor('y', shape, *output)
  graph = g.Graph('one', tensors, (kind('op', (0,), 1, **fields),), (0,), (1,))
  return interpret.interpret(graph, x[None])[0][0]


def test_averages_round_half_away_from_zero():
  x = np.array([[[1], [2]], [[-1], [-2]]], np.int8)
  window = g.Window((1, 2), (1, 2))
  found = one(g.Pool, x, (1.0, 0), (2, 1, 1), how='average', window=window)
  assert found.ravel().tolist() == [2, -2]  # of 1.5 and -1.5


def test_an_average_counts_only_pixels_that_are_there():
  x = np.full((2, 2, 1), 9, np.int8)
  window = g.Window((3, 3), (1, 1), (1, 1, 1, 1))
  assert (one(g.Pool, x, (1.0, 0), (2, 2, 1), how='average', window=window) == 9).all()


def test_a_pointwise_product_by_hand():
  x = np.array([[[3, -2]]], np.int8)
  fields = dict(
    weights=np.array([[2, 5], [-1, 4]], np.int8).reshape(2, 1, 1, 2),
    bias=np.array([10, 0], np.int32), multiplier=np.full(2, 2**30, np.int32),
    shift=np.array([0, -1], np.int32),
  )  # fmt: skip
  # (6 - 10 + 10) / 2 = 3; (-3 - 8) / 4 = -2.75, first -5.5 -> -5, then -2.5 -> -3
  assert one(g.Conv, x, (1.0, 7), (1, 1, 2), **fields).ravel().tolist() == [10, 4]


@pytest.mark.parametrize('groups', [1, 6])
def test_sums_are_those_of_a_real_convolution(groups):
  s = sketch.Sketch((7, 6, 6), 3)
  if groups == 1:
    sketch.conv(s, 0, 4, kernel=(3, 5), stride=2)
  else:
    sketch.depthwise(s, 0, kernel=5, stride=2)
  graph = sketch.finish(s, 'x')
  op, before, after = graph.ops[0], *graph.tensors
  x = nets.inputs(graph, 2)
  kernel = op.weights.transpose(1, 2, 3, 0) if groups == 1 else op.weights[:, :, None]
  top, bottom, left, right = op.window.pad
  sums = jax.lax.conv_general_dilated(
    (x.astype(np.float32) - before.zero), kernel.astype(np.float32), op.window.stride,
    ((top, bottom), (left, right)), feature_group_count=groups,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )  # fmt: skip
  real = (np.asarray(sums) + op.bias) * op.multiplier * 2.0 ** (op.shift - 31.0) + after.zero
  found = interpret.interpret(graph, x)[0]
  assert np.abs(found - np.clip(real, -128, 127)).max() <= 0.5 + 1e-3


def test_softmax_is_near_the_real_one():
  x = np.array([[[-20, 0, 13, 40, 41]]], np.int8)
  factor, least = (1717986918, 22), -496  # a scale of 0.05
  found = one(g.Softmax, x, (1 / 256, -128), (1, 1, 5), factor=factor, least=least)
  e = np.exp(0.05 * x.astype(float))
  np.testing.assert_allclose((found.astype(int) + 128) / 256, e / e.sum(), atol=1 / 256)


def test_inputs_of_another_shape_or_type_are_refused():
  graph = nets.mobile()
  for x in (np.zeros((1, 13, 11, 3)), np.zeros((13, 11, 3), np.int8)):
    with pytest.raises(UsageError, match=r'int8 \[n, \*\(13, 11, 3\)\]'):
      interpret.interpret(graph, x)


def test_quantizing_rounds_half_away_from_zero():
  tensor = g.Tensor('x', (1, 1, 4), 0.5, 3)
  assert interpret.quantize([0.25, -0.25, 100.0, -100.0], tensor).tolist() == [4, 2, 127, -128]
  assert interpret.dequantize(np.array([4, 2], np.int8), tensor).tolist() == [0.5, -0.5]
