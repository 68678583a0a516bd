"""A trained net -> `Graph`: ranges seen on calibration data, int8 weights channel by channel.

Jacob et al., CVPR 2018; Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient
inference": weights symmetric for each output channel, activations with a zero point.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from reduction import tree
from reduction.errors import DataError, require
from reduction.mcu import fixed, interpret
from reduction.mcu import graph as g
from reduction.mcu.trace import Layer, trace
from reduction.net import Net, apply

LARGEST_BIAS = 2**29


def convert(net: Net, x, *, replica: int = 0, name: str = 'net') -> g.Graph:
  """The integer network of one replicate of net [R], its ranges from x [n, h, w, c] or [n, d].

  Raises UsageError for a module with operations that no layer has, DataError for values that are
  not finite or a trace that does not compute what the module does.
  """
  one = jax.tree.map(lambda w: w[replica], (tree.keep(net.params, net.masks), net.stats))
  x = np.asarray(x, np.float32)
  function = lambda v: apply(net.module, *one, v)
  if x.ndim == 2:
    x = x[:, None, None]
    function = lambda v: apply(net.module, *one, v.reshape(len(v), -1))
  require(x.ndim == 4 and len(x), f'calibration data have shape {x.shape}; images are wanted')
  want = np.asarray(function(jnp.asarray(x))).reshape(len(x), -1)
  if not np.isfinite(want).all():
    raise DataError(f'{name}: outputs on calibration data are not finite')
  layers = trace(function, x.shape[1:])
  seen = evaluate(layers, x)
  if not np.allclose(seen[-1].reshape(want.shape), want, rtol=1e-3, atol=1e-3 * abs(want).max()):
    raise DataError(f'{name}: the layers found do not compute what the module does')
  return quantize(layers, seen, name)


def evaluate(layers: list[Layer], x) -> list[np.ndarray]:
  """Each layer's output, float32 [n, h, w, c], for x [n, h, w, c]."""
  found = [np.asarray(x, np.float32)]
  for layer in layers[1:]:
    y = np.asarray(_float(layer, *(found[i] for i in layer.inputs)))
    found.append(np.clip(y, layer.low, layer.high))
  return found


def _float(layer: Layer, x, other=None):
  top, bottom, left, right = layer.window.pad
  match layer.kind:
    case 'conv' | 'depthwise':
      deep = layer.kind == 'depthwise'
      weights = layer.weights[:, :, None] if deep else layer.weights
      return layer.bias + jax.lax.conv_general_dilated(
        x, weights, layer.window.stride, ((top, bottom), (left, right)),
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'), feature_group_count=x.shape[3] if deep else 1,
      )  # fmt: skip
    case 'dense':
      return (x.reshape(len(x), -1) @ layer.weights + layer.bias)[:, None, None]
    case 'add':
      return x + other
    case 'max':
      pads = (0, 0), (top, bottom), (left, right), (0, 0)
      window, stride = (1, *layer.window.kernel, 1), (1, *layer.window.stride, 1)
      return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, stride, pads)
  return x.mean((1, 2), keepdims=True)


def quantize(layers: list[Layer], seen: list[np.ndarray], name: str) -> g.Graph:
  """The graph of layers whose outputs on calibration data are seen."""
  tensors, ops = [_tensor('input', layers[0], seen[0])], []
  for i, layer in enumerate(layers[1:], 1):
    inputs = [tensors[t] for t in layer.inputs]
    same = layer.kind == 'max'
    output = g.Tensor(
      f'{layer.kind}{i}', layer.shape, inputs[0].scale, inputs[0].zero
    ) if same else _tensor(f'{layer.kind}{i}', layer, seen[i])  # fmt: skip
    tensors.append(output)
    ops.append(_op(layer, layer.inputs, i, inputs, output))
  return g.Graph(name, tuple(tensors), tuple(ops), (0,), (len(layers) - 1,))


def _tensor(name: str, layer: Layer, values) -> g.Tensor:
  """Scale and zero point that cover what was seen and 0, which is exact."""
  least, most = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
  scale = float(np.float32(max(most - least, 1e-6) / 255))
  zero = int(np.clip(round(-128 - least / scale), -128, 127))
  return g.Tensor(name, layer.shape, scale, zero)


def _ends(layer: Layer, output: g.Tensor) -> dict:
  code = lambda v: int(np.clip(round(v / output.scale) + output.zero, -128, 127))
  low = -128 if layer.low == -math.inf else code(layer.low)
  high = 127 if layer.high == math.inf else code(layer.high)
  return dict(low=low, high=max(low, high))


def _op(layer, inputs, index, before, output) -> g.Op:
  head = output.name, tuple(inputs), index
  match layer.kind:
    case 'add':
      factors = fixed.add_factors(*(t.scale for t in before), output.scale)
      return g.Add(*head, factors, **_ends(layer, output))
    case 'max':
      return g.Pool(*head, 'max', layer.window)
    case 'mean':
      return g.Mean(*head, (0, 1), fixed.quantize_multiplier(before[0].scale / output.scale))
  codes, scales = per_channel(layer.weights)
  bias = np.round(layer.bias / (before[0].scale * scales.astype(np.float64)))
  multiplier, shift = fixed.quantize_multipliers(
    before[0].scale * scales.astype(np.float64) / output.scale
  )
  order = dict(conv=(3, 0, 1, 2), depthwise=(0, 1, 2), dense=(1, 0))[layer.kind]
  kind = dict(conv=g.Conv, depthwise=g.Depthwise, dense=g.Dense)[layer.kind]
  return kind(
    *head, np.ascontiguousarray(codes.transpose(order)),
    np.clip(bias, -LARGEST_BIAS, LARGEST_BIAS).astype(np.int32), multiplier, shift, layer.window,
    **_ends(layer, output),
  )  # fmt: skip


def per_channel(weights) -> tuple[np.ndarray, np.ndarray]:
  """(int8 codes in [-127, 127], float32 scales [cout]) of weights [..., cout]."""
  most = np.abs(weights).reshape(-1, weights.shape[-1]).max(0)
  scales = np.where(most > 0, most / 127, 1.0).astype(np.float32)
  return np.clip(np.round(weights / scales), -127, 127).astype(np.int8), scales


def logits(graph: g.Graph, x, *, batch: int = 256) -> np.ndarray:
  """Real-valued outputs [n, c] of the integer network for real inputs [n, h, w, c] or [n, d]."""
  x = np.asarray(x, np.float32)
  x = interpret.quantize(x.reshape(len(x), *graph.tensors[graph.inputs[0]].shape),
                         graph.tensors[graph.inputs[0]])  # fmt: skip
  parts = [interpret.interpret(graph, x[i : i + batch])[0] for i in range(0, len(x), batch)]
  codes = np.concatenate(parts).reshape(len(x), -1)
  return interpret.dequantize(codes, graph.tensors[graph.outputs[0]])
