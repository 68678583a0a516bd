"""Made-up networks that use every operator, and where the real ones lie."""

import dataclasses
import os
import pathlib

import numpy as np
import pytest

from reduction.mcu import graph as g
from reduction.mcu import reader, sketch

DATA = pathlib.Path(os.environ.get('REDUCTION_DATA', ''))
SHIPPED = {
  'ic_resnet': DATA / 'tinyml/ic_resnet_int8.tflite',
  'vww_96': DATA / 'tinyml/vww_96_int8.tflite',
  'te_lenet': DATA / 'tinyml/te_ptq_mnist_lenet-300-100.tflite',
  'te_vww': DATA / 'tinyml/te_vww.tflite',
  'in3': DATA / 'mcunet/mcunet-320kb-1mb_imagenet.tflite',
}


def shipped(name: str) -> g.Graph:
  """A trained model of the data directory; skips where it is not there."""
  pytest.importorskip('tflite', reason='reading .tflite files needs the package tflite')
  if not SHIPPED[name].is_file():
    pytest.skip(f'{SHIPPED[name].name} is not in $REDUCTION_DATA')
  return reader.read(SHIPPED[name])


def inputs(graph: g.Graph, count: int, seed: int = 0) -> np.ndarray:
  """Random inputs, then the two extremes."""
  shape = graph.tensors[graph.inputs[0]].shape
  some = np.random.default_rng(seed).integers(-128, 128, (count, *shape), dtype=np.int8)
  return np.concatenate([some, np.full((1, *shape), -128, np.int8), np.full((1, *shape), 127,
                                                                            np.int8)])  # fmt: skip


def same(a: g.Graph, b: g.Graph) -> bool:
  """Whether two graphs are equal in all but their notes."""
  fields = lambda x: [getattr(x, f.name) for f in dataclasses.fields(x)]
  alike = lambda x, y: np.array_equal(x, y) if isinstance(x, np.ndarray) else x == y
  ends = lambda x: (x.name, x.tensors, x.inputs, x.outputs, [type(op) for op in x.ops])
  pairs = zip(a.ops, b.ops)
  return ends(a) == ends(b) and all(
    alike(x, y) for one, other in pairs for x, y in zip(fields(one), fields(other), strict=True)
  )


def mobile(seed: int = 0) -> g.Graph:
  """A small MCUNet: strides, shortcuts, kernels of 3, 5 and 7, odd sizes and channels."""
  s = sketch.Sketch((13, 11, 3), seed)
  x = sketch.conv(s, 0, 8, kernel=3, stride=2)
  x = sketch.conv(s, sketch.depthwise(s, x), 5)
  for kernel, stride, width in ((7, 2, 6), (5, 1, 6), (3, 1, 6)):
    start = x
    x = sketch.depthwise(s, sketch.conv(s, x, 18), kernel=kernel, stride=stride)
    x = sketch.conv(s, x, width)
    x = sketch.add(s, x, start) if stride == 1 else x
  return sketch.finish(s, 'mobile', sketch.dense(s, sketch.average(s, x), 7))


def residual(seed: int = 0) -> g.Graph:
  """Convolutions of 3 x 3 around shortcuts, one of them strided."""
  s = sketch.Sketch((9, 8, 2), seed)
  x = sketch.conv(s, 0, 6, kernel=3)
  x = sketch.add(s, x, sketch.conv(s, sketch.conv(s, x, 6, kernel=3), 6, kernel=3))
  y = sketch.conv(s, sketch.conv(s, x, 10, kernel=3, stride=2), 10, kernel=(1, 5))
  x = sketch.add(s, sketch.conv(s, x, 10, stride=2), y)
  return sketch.finish(s, 'residual', sketch.dense(s, x, 4))


def every(seed: int = 0) -> g.Graph:
  """All that the others have not: excitation, poolings, tables, joins, pads, softmax."""
  s = sketch.Sketch((8, 6, 4), seed)
  x = sketch.depthwise(s, 0, multiplier=2)
  squeezed = sketch.mean(s, x)
  table = s.random.integers(-128, 128, 256).astype(np.int8)
  gate = sketch.append(s, g.Lookup, [sketch.conv(s, squeezed, 8)], (1, 1, 8), table=table)
  x = sketch.mul(s, x, gate)
  x = sketch.copied(s, g.Pad, [x], (11, 7, 8), pad=(1, 2, 0, 1))
  a = sketch.pool(s, x, 'max', kernel=3, stride=2, pad=(1, 1, 1, 1))
  b = sketch.pool(s, x, 'average', kernel=3, stride=2, pad=(1, 1, 1, 1))
  x = sketch.copied(s, g.Concat, [a, b, a], (6, 4, 24))
  x = sketch.copied(s, g.Resize, [x], (3, 6, 24), rows=(0, 2, 5), columns=(0, 0, 1, 2, 3, 3))
  rows = sketch.mean(s, x, axes=(0,))
  x = sketch.mul(s, rows, rows)
  x = sketch.copied(s, g.Reshape, [x], (1, 2, 72))
  x = sketch.dense(s, x, 9)
  shares = sketch.append(
    s, g.Softmax, [x], (1, 1, 9), 1 / 256, -128, factor=(1717986918, 22), least=-496
  )
  return sketch.finish(s, 'every', shares, x)


MADE = dict(mobile=mobile, residual=residual, every=every)
