"""The architectures of the MCUNet zoo, from the JSON files that their authors publish.

Lin et al., MCUNet, NeurIPS 2020. What is exact without training: multiply-accumulates, parameters,
memory.
"""

import json
import pathlib

from reduction.errors import DataError, MissingInput
from reduction.mcu import sketch
from reduction.mcu.graph import Conv, Depthwise, Graph, Product, Window

FAULTS = (KeyError, TypeError, ValueError, IndexError, AttributeError)


def read(path, *, resolution: int, seed: int = 0) -> Graph:
  """An architecture as a graph of random int8 weights, for images of resolution x resolution x 3.

  Raises MissingInput where path is not there, DataError where it is no such description.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise MissingInput(f'{path} is not there; a JSON file of the MCUNet zoo is wanted')
  try:
    return build(json.loads(path.read_text()), path.stem, resolution, seed)
  except FAULTS as error:
    raise DataError(f'{path} describes no MCUNet: {type(error).__name__} {error}') from error


def build(described: dict, name: str, resolution: int, seed: int = 0, channels: int = 3) -> Graph:
  """As `read`, from what the file says."""
  s = sketch.Sketch((resolution, resolution, channels), seed)
  first = described['first_conv']
  x = sketch.conv(s, 0, first['out_channels'], kernel=first['kernel_size'], stride=first['stride'])
  for block in described['blocks']:
    x = _block(s, x, block['mobile_inverted_conv'], bool(block['shortcut']))
  mixing = described.get('feature_mix_layer')
  if mixing:
    x = sketch.conv(s, x, mixing['out_channels'])
  classifier = described['classifier']
  x = sketch.dense(s, sketch.average(s, x), classifier['out_features'])
  return sketch.finish(s, name)


def _block(s, x: int, inner: dict, shortcut: bool) -> int:
  """A mobile inverted bottleneck: expand, depthwise, project, and the way around it."""
  if inner['name'] == 'ZeroLayer':  # only the way around is left
    return x
  start, cin = x, s.tensors[x].shape[2]
  middle = inner.get('mid_channels') or round(cin * inner['expand_ratio'])
  if inner['expand_ratio'] != 1:
    x = sketch.conv(s, x, middle)
  x = sketch.depthwise(s, x, kernel=inner['kernel_size'], stride=inner['stride'])
  x = sketch.conv(s, x, inner['out_channels'])
  return sketch.add(s, x, start) if shortcut else x


def macs(graph: Graph) -> int:
  """Multiply-accumulates."""
  return sum(map(graph.macs, graph.ops))


def parameters(graph: Graph) -> int:
  """As the authors count: weights, two a normalized channel, the last layer's bias."""
  products = [op for op in graph.ops if isinstance(op, Product)]
  normalized = sum(2 * len(op.bias) for op in products if isinstance(op, Conv | Depthwise))
  last = sum(len(op.bias) for op in products if not isinstance(op, Conv | Depthwise))
  return sum(op.weights.size for op in products) + normalized + last


def tinyengine(graph: Graph) -> int:
  """Bytes of SRAM as TinyEngine's generator counts them.

  The largest of in + out + what a shortcut holds, a depthwise op writing over its input; a buffer
  for columns, 4 bytes a value of a window, or 2 planes of a channel; 2 bytes for each weight of a
  convolution that is not pointwise.
  """
  lives, tensors, most, columns, kernels = graph.lifetimes(), graph.tensors, 0, 0, 0
  for i, op in enumerate(graph.ops):
    size = lambda ts: sum(tensors[t].size for t in ts)
    live = {t for t, (first, last) in lives.items() if first <= i <= last}
    if isinstance(op, Depthwise):
      live -= {op.output}  # in place
      h, w, _ = tensors[op.inputs[0]].shape
      top, bottom, left, right = op.window.pad
      columns = max(columns, 2 * (h + top + bottom) * (w + left + right))
    elif isinstance(op, Conv):
      columns = max(columns, 4 * op.weights[0].size)
      if op.window.kernel != Window().kernel:
        kernels = max(kernels, 2 * op.weights.size)
    most = max(most, size(live))
  return most + columns + kernels
