"""The float layers that a module is read as on the way to a `Graph`, and what they compute."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reduction.kernels import depthwise
from reduction.kernels.conv import convolve
from reduction.mcu.graph import Window

WHOLE = Window()
LAYOUT = ('NHWC', 'HWIO', 'NHWC')


@dataclasses.dataclass(frozen=True, eq=False)
class Normal:
  """The normalization after a layer's sums: its path in 'batch_stats', its momentum and epsilon.

  mean, var: the moving ones [cout]. weights, bias: the layer's before it. factor: [cout], by which
  all that follows multiplies.
  """

  path: str
  momentum: float
  epsilon: float
  mean: Any
  var: Any
  weights: Any
  bias: Any
  factor: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
  """kind: input, conv, depthwise, dense, add, mul, max, mean, logistic. inputs: of earlier layers.

  weights: [kh, kw, cin, cout], [kh, kw, cout] or [in, cout], with bias [cout]. shape: (h, w, c).
  low, high: what the output is clamped to. A mul's second input may be [1, 1, c]. normal: what is
  folded into the weights, where a trace was to mark it.
  """

  kind: str
  inputs: tuple[int, ...]
  shape: tuple[int, int, int]
  weights: Any = None
  bias: Any = None
  window: Window = WHOLE
  low: float = -math.inf
  high: float = math.inf
  normal: Normal | None = None


def names(layers: list[Layer]) -> list[str]:
  """Of their outputs, also in the graph: 'input', 'conv1', 'depthwise2'..."""
  return ['input', *(f'{layer.kind}{i}' for i, layer in enumerate(layers[1:], 1))]


def evaluate(layers: list[Layer], x) -> list[np.ndarray]:
  """Each layer's output, float32 [n, h, w, c], for x [n, h, w, c]."""
  found = [np.asarray(x, np.float32)]
  for layer in layers[1:]:
    inputs = [found[i] for i in layer.inputs]
    if layer.kind in LINEAR:
      y = np.asarray(sums(layer, inputs[0], layer.weights)) + np.float32(layer.bias)
    else:
      y = unweighted(layer, *inputs)
    found.append(np.clip(np.asarray(y), layer.low, layer.high))
  return found


LINEAR = 'conv', 'depthwise', 'dense'


def sums(layer: Layer, x, weights, *, fast: bool = False) -> jax.Array:
  """The products of a layer of LINEAR with weights in the place of its own, without its bias.

  fast: in the form that has the faster gradient, see `kernels.conv` and `kernels.depthwise`.
  """
  top, bottom, left, right = layer.window.pad
  stride, pads = layer.window.stride, ((top, bottom), (left, right))
  match layer.kind:
    case 'conv' if fast:
      return convolve(x, weights, stride, pads)
    case 'conv':
      return jax.lax.conv_general_dilated(x, weights, stride, pads, dimension_numbers=LAYOUT)
    case 'depthwise' if fast and jax.default_backend() == 'cpu':
      return depthwise.convolve(x, weights[:, :, None], stride, pads)
    case 'depthwise':
      return jax.lax.conv_general_dilated(
        x, weights[:, :, None], stride, pads, dimension_numbers=LAYOUT,
        feature_group_count=x.shape[3],
      )  # fmt: skip
  return (x.reshape(len(x), -1) @ weights)[:, None, None]


def unweighted(layer: Layer, x, other=None) -> jax.Array:
  """What a layer without weights makes of its inputs."""
  match layer.kind:
    case 'add':
      return x + other
    case 'mul':
      return x * other
    case 'logistic':
      return jax.nn.sigmoid(x)
    case 'max':
      return _largest(x, layer.window)
  return x.mean((1, 2), keepdims=True)


def _largest(x, window: Window) -> jax.Array:
  (kh, kw), (n, h, w, c) = window.kernel, x.shape
  if window.stride == window.kernel and window.pad == (0,) * 4 and not (h % kh or w % kw):
    # the gradient of the other form takes 9 times as long, see `models.layers.max_pool`
    return x.reshape(n, h // kh, kh, w // kw, kw, c).max((2, 4))
  top, bottom, left, right = window.pad
  pads = (0, 0), (top, bottom), (left, right), (0, 0)
  sizes, strides = (1, kh, kw, 1), (1, *window.stride, 1)
  return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, sizes, strides, pads)
