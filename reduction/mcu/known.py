"""Nets that everyone compares with, as graphs without their weights: ResNets and MobileNetV2.

Their shapes are the published ones, so that parameters, multiply-accumulates and memory are exact.
"""

from reduction.errors import require
from reduction.mcu import sketch
from reduction.mcu.graph import Graph

STAGES = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}  # blocks of a ResNet's four stages
# expansion, channels, blocks, stride: table 2 of Sandler et al., MobileNetV2, CVPR 2018
INVERTED = (
  (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
  (6, 320, 1, 1),
)  # fmt: skip


def resnet(depth: int, *, resolution: int = 224, classes: int = 1_000) -> Graph:
  """ResNet-18 or ResNet-50 (He et al. 2016; of a strided bottleneck the 3 x 3 strides)."""
  require(depth in STAGES, f'{depth=} is not one of {", ".join(map(str, STAGES))}')
  s = sketch.Sketch((resolution, resolution, 3), blank=True)
  x = sketch.conv(s, 0, 64, kernel=7, stride=2)
  x = sketch.pool(s, x, 'max', kernel=3, stride=2, pad=(1, 1, 1, 1))
  block = _basic if depth == 18 else _bottleneck
  for stage, blocks in enumerate(STAGES[depth]):
    for i in range(blocks):
      x = block(s, x, 64 << stage, 2 if stage and not i else 1)
  return sketch.finish(s, f'resnet{depth}', sketch.dense(s, sketch.average(s, x), classes))


def _basic(s, x, width, stride):
  y = sketch.conv(s, x, width, kernel=3, stride=stride)
  return _around(s, x, sketch.conv(s, y, width, kernel=3), stride)


def _bottleneck(s, x, width, stride):
  y = sketch.conv(s, sketch.conv(s, x, width), width, kernel=3, stride=stride)
  return _around(s, x, sketch.conv(s, y, 4 * width), stride)


def _around(s, x, y, stride):
  """The sum with the block's input, projected where its shape is another."""
  if s.tensors[x].shape != s.tensors[y].shape:
    x = sketch.conv(s, x, s.tensors[y].shape[2], stride=stride)
  return sketch.add(s, x, y)


def divisible(channels: float, by: int = 8) -> int:
  """The nearest multiple of `by` that is no less than 0.9 channels: the authors' rounding."""
  near = max(by, int(channels + by / 2) // by * by)
  return near + by if near < 0.9 * channels else near


def mobilenet_v2(width: float = 1.0, *, resolution: int = 224, classes: int = 1_000) -> Graph:
  """MobileNetV2 with `width` times its channels; the last layer before the mean never has fewer."""
  s = sketch.Sketch((resolution, resolution, 3), blank=True)
  x = sketch.conv(s, 0, divisible(32 * width), kernel=3, stride=2)
  for expansion, channels, blocks, stride in INVERTED:
    for i in range(blocks):
      x = _inverted(s, x, expansion, divisible(channels * width), 1 if i else stride)
  x = sketch.conv(s, x, divisible(1280 * max(1.0, width)))
  return sketch.finish(s, f'mobilenet_v2_{width:g}', sketch.dense(s, sketch.average(s, x), classes))


def _inverted(s, x, expansion, channels, stride):
  start, cin = x, s.tensors[x].shape[2]
  if expansion != 1:
    x = sketch.conv(s, x, cin * expansion)
  x = sketch.conv(s, sketch.depthwise(s, x, stride=stride), channels)
  return sketch.add(s, x, start) if (stride, channels) == (1, cin) else x
