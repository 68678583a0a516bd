"""A trained net -> `Graph`: ranges seen on calibration data, int8 weights channel by channel.

Jacob et al., CVPR 2018; Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient
inference": weights symmetric for each output channel, activations with a zero point.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from reduction import tree
from reduction.errors import DataError, did_you_mean, require
from reduction.mcu import fixed, interpret, scales
from reduction.mcu import graph as g
from reduction.mcu.layers import Layer, evaluate, names
from reduction.mcu.rounded import BITS, Rounded
from reduction.mcu.trace import trace
from reduction.models.served import bare
from reduction.net import Net, apply
from reduction.qtensor import WHOLE, dequantize, is_packed

LARGEST_BIAS = 2**29


def convert(
  net: Net, x, *, replica: int = 0, name: str = 'net', ranges=None, bits: int | None = None
) -> g.Graph:
  """The integer network of one replicate of net [R], its ranges from x [n, h, w, c] or [n, d].

  Packed kernels, such as training in few bits (`stages.qat`) leaves them, keep their codes and
  their steps, learned or not, times what normalization is folded into them. ranges: (least, most)
  by the name of a tensor of the graph; others are those that training in integers
  (`rounded.Rounded`) left in the net, or those seen. bits: of weights that are not packed; None for
  those that such training had, or 8.
  Raises UsageError for a module with operations that no layer has, packed kernels whose steps
  differ within an output or that have zero points, and ranges of unknown tensors; DataError for
  values that are not finite or a trace that does not compute what the module does.
  """
  kept = tree.keep(net.params, net.masks)
  params, stats = jax.tree.map(lambda w: w[replica], (kept, net.stats))
  module = bare(net.module)
  if isinstance(module, Rounded):
    bits, ranges = bits or module.bits, {**stats['ranges'], **(ranges or {})}
    module, stats = module.module, stats['module']
  bits = bits or 8
  require(bits in BITS, f'{bits=} of weights are not in 2 to 8')
  params, steps = _unpacked(params)
  function = lambda v: apply(module, params, stats, v)
  of_steps = lambda v: apply(module, steps, stats, v)
  x = np.asarray(x, np.float32)
  if x.ndim == 2:
    x = x[:, None, None]
    function, of_steps = map(_flat, (function, of_steps))
  require(x.ndim == 4 and len(x), f'calibration data have shape {x.shape}; images are wanted')
  with jax.default_matmul_precision('float32'):  # a GPU's own is TF32, the trace's is not
    want = np.asarray(jax.jit(function)(x)).reshape(len(x), -1)
  if not np.isfinite(want).all():
    raise DataError(f'{name}: outputs on calibration data are not finite')
  layers = trace(function, x.shape[1:])
  seen = evaluate(layers, x)
  if not np.allclose(seen[-1].reshape(want.shape), want, rtol=1e-3, atol=1e-3 * abs(want).max()):
    raise DataError(f'{name}: the layers found do not compute what the module does')
  by_layer = [_step(layer) for layer in trace(of_steps, x.shape[1:])] if steps else None
  return quantize(layers, seen, name, ranges=ranges, steps=by_layer, bits=bits)


def _flat(function):
  return lambda v: function(v.reshape(len(v), -1))


def _unpacked(params) -> tuple:
  """(params in floats, the same with each kernel's steps in its place, or None without packed).

  What a net does to its kernels, folding and all, is a product by output: done to the steps of the
  codes it gives the steps of the weights. Kernels that are not packed have steps of 0.
  """
  flat = dict(tree.named(params, is_packed))
  if not any(map(is_packed, flat.values())):
    return params, None
  steps = {}
  for path, leaf in flat.items():
    if is_packed(leaf):
      good = leaf.scheme.symmetric and leaf.scheme.group in WHOLE
      require(good, f"{path} has {leaf.scheme}; a symmetric one of group='channel' is wanted")
      steps[path] = jnp.broadcast_to(leaf.scale.astype(jnp.float32), leaf.shape)
      flat[path] = dequantize(leaf)
    else:
      steps[path] = leaf if leaf.ndim < 2 else jnp.zeros_like(leaf)
  return tree.nest(flat), tree.nest(steps)


def _step(layer: Layer) -> np.ndarray | None:
  """The steps [cout] of a layer of a net of steps; None where it had none."""
  if layer.weights is None:
    return None
  found = np.abs(layer.weights).reshape(-1, layer.weights.shape[-1])[0]
  return found if found.any() else None


def quantize(
  layers: list[Layer], seen: list[np.ndarray], name: str, *, ranges=None, steps=None, bits: int = 8
) -> g.Graph:
  """The graph of layers whose outputs on calibration data are seen. ranges: as for `convert`.

  steps: of each layer's weights [cout], or None for the least that cover them in so many bits.
  """
  known = names(layers)
  for given in ranges or {}:
    require(given in known, f'ranges of {given!r}, which is no tensor.{did_you_mean(given, known)}')
  spans = [np.asarray((ranges or {}).get(n, values)) for n, values in zip(known, seen)]
  tensors, ops = [_tensor('input', layers[0], spans[0])], []
  for i, layer in enumerate(layers[1:], 1):
    inputs = [tensors[t] for t in layer.inputs]
    output = _tensor(known[i], layer, spans[i])
    if layer.kind == 'max':
      output = dataclasses.replace(output, scale=inputs[0].scale, zero=inputs[0].zero)
    elif layer.kind == 'logistic':
      output = dataclasses.replace(output, scale=scales.SHARES[0], zero=scales.SHARES[1])
    tensors.append(output)
    ops.append(_op(layer, layer.inputs, i, inputs, output, steps and steps[i], bits))
  return g.Graph(name, tuple(tensors), tuple(ops), (0,), (len(layers) - 1,))


def _tensor(name: str, layer: Layer, values) -> g.Tensor:
  """Scale and zero point that cover values and 0, which is exact."""
  least, most = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
  scale = float(np.float32(max(most - least, 1e-6) / 255))
  zero = int(np.clip(round(-128 - least / scale), -128, 127))
  return g.Tensor(name, layer.shape, scale, zero)


def _ends(layer: Layer, output: g.Tensor) -> dict:
  real = (end if math.isfinite(end) else None for end in (layer.low, layer.high))
  return dict(zip(('low', 'high'), scales.ends(*real, output)))


def _op(layer, inputs, index, before, output, step, bits) -> g.Op:
  head, first = (output.name, tuple(inputs), index), before[0]
  match layer.kind:
    case 'add':
      factors = fixed.add_factors(*(t.scale for t in before), output.scale)
      return g.Add(*head, factors, **_ends(layer, output))
    case 'mul':
      factor = scales.product(*(t.scale for t in before), output.scale)
      return g.Mul(*head, factor, **_ends(layer, output))
    case 'max':
      return g.Pool(*head, 'max', layer.window)
    case 'mean':
      return g.Mean(*head, (0, 1), scales.mean(first.scale, output.scale))
    case 'logistic':
      return g.Lookup(*head, scales.logistic(first, output))
  found = per_channel(layer.weights, bits) if step is None else _on(layer.weights, step)
  codes, steps = found
  bias = np.round(layer.bias / (first.scale * steps.astype(np.float64)))
  whole = layer.kind == 'dense' and len(steps) == 1
  multiplier, shift = scales.products(first.scale, steps, output.scale, whole=whole)
  order = dict(conv=(3, 0, 1, 2), depthwise=(0, 1, 2), dense=(1, 0))[layer.kind]
  kind = dict(conv=g.Conv, depthwise=g.Depthwise, dense=g.Dense)[layer.kind]
  return kind(
    *head, np.ascontiguousarray(codes.transpose(order)),
    np.clip(bias, -LARGEST_BIAS, LARGEST_BIAS).astype(np.int32), multiplier, shift, layer.window,
    **_ends(layer, output),
  )  # fmt: skip


def per_channel(weights, bits: int = 8) -> tuple[np.ndarray, np.ndarray]:
  """(int8 codes, float32 scales [cout]) of weights [..., cout]; of 8 bits codes in [-127, 127]."""
  end = 2 ** (bits - 1) - 1
  most = np.abs(weights).reshape(-1, weights.shape[-1]).max(0)
  steps = np.where(most > 0, most / end, 1.0).astype(np.float32)
  return np.clip(np.round(weights / steps), -end, end).astype(np.int8), steps


def _on(weights, steps) -> tuple[np.ndarray, np.ndarray]:
  """As `per_channel`, of weights that are whole steps [cout] already."""
  steps = np.where(steps > 0, steps, 1.0).astype(np.float32)
  return np.clip(np.round(weights / steps), -128, 127).astype(np.int8), steps


def logits(graph: g.Graph, x, *, batch: int = 256) -> np.ndarray:
  """Real-valued outputs [n, c] of the integer network for real inputs [n, h, w, c] or [n, d]."""
  x = np.asarray(x, np.float32)
  x = interpret.quantize(x.reshape(len(x), *graph.tensors[graph.inputs[0]].shape),
                         graph.tensors[graph.inputs[0]])  # fmt: skip
  parts = [interpret.interpret(graph, x[i : i + batch])[0] for i in range(0, len(x), batch)]
  codes = np.concatenate(parts).reshape(len(x), -1)
  return interpret.dequantize(codes, graph.tensors[graph.outputs[0]])
