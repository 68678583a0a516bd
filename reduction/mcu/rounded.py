"""A module that computes in floats what its integer network will, and can be trained so.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", CVPR 2018, section 3; Krishnamoorthi, "Quantizing deep convolutional networks for
efficient inference", 2018, section 3.2. The layers are those that `trace` reads for deployment, so
weights are rounded as they will be stored, with normalization folded in, and activations where the
integer network has a tensor: after relu, after a sum, not before.
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from reduction import saved, tree
from reduction.errors import require
from reduction.mcu.layers import LINEAR, Layer, names, sums, unweighted
from reduction.mcu.trace import trace
from reduction.net import Net, apply, over_replicas

BITS = range(2, 9)
SHARES = 1 / 256, -128.0  # of what logistic puts out, see `scales`


@jax.custom_vjp
def nearest(x) -> jax.Array:
  """round(x), half away from 0, as TFLite; the gradient passes straight through."""
  return jnp.trunc(x + jnp.copysign(jnp.float32(0.5), x))


nearest.defvjp(lambda x: (nearest(x), None), lambda kept, g: (g,))


def grid(span) -> tuple[jax.Array, jax.Array]:
  """(scale, zero point) of a tensor, int8, whose range [2] is widened to hold 0; 0 is exact."""
  least, most = jnp.minimum(span[0], 0.0), jnp.maximum(span[1], 0.0)
  scale = jnp.maximum(most - least, 1e-6) * (1 / 255)
  return scale, jnp.clip(jnp.round(-128 - least / scale), -128, 127)


def codes(x, scale, zero) -> jax.Array:
  """The codes less the zero point, whole numbers in float32; no gradient where they are cut off."""
  return within(nearest(x / scale), -128 - zero, 127 - zero)


def within(x, low, high) -> jax.Array:
  """x cut off at low and high, whose gradient is 1 at the very ends and 0 beyond."""
  return jnp.where(x < low, low, jnp.where(x > high, high, x))


def rescaled(total, factor, *, of: int = 1) -> jax.Array:
  """round(total factor), rounded twice, as TFLite's: first to 2^-k, factor 2^k in [1/2, 1).

  total: whole numbers. of: values of which total is the sum and factor has the share, see
  `interpret.mean_factor`. The gradient passes straight through.
  """
  exponent = jnp.frexp(jax.lax.stop_gradient(factor * of))[1] - (of.bit_length() - 1)
  power = jnp.ldexp(jnp.float32(1), jnp.maximum(-exponent, 0))
  return nearest(_half_up(total * factor * power) / power)


@jax.custom_vjp
def _half_up(x):
  return jnp.floor(x + 0.5)


_half_up.defvjp(lambda x: (_half_up(x), None), lambda kept, g: (g,))


def per_channel(weights, bits: int) -> tuple[jax.Array, jax.Array]:
  """(whole numbers, steps [cout]) of weights [..., cout].

  The largest weight of an output is 2^(bits - 1) - 1 steps; the gradient takes steps as they are.
  """
  most = 2 ** (bits - 1) - 1
  largest = jnp.abs(jax.lax.stop_gradient(weights)).reshape(-1, weights.shape[-1]).max(0)
  steps = jnp.where(largest > 0, largest / most, 1.0)
  return _even(weights / steps), steps


@jax.custom_vjp
def _even(x):
  return jnp.round(x)


_even.defvjp(lambda x: (_even(x), None), lambda kept, g: (g,))


class Told(NamedTuple):
  """What a forward pass saw: values, the codes less zero points of each tensor, and their scales;
  spans, name -> (least, most) before rounding; moments, path of a normalization -> (mean, var)."""

  values: list
  scales: list
  spans: dict
  moments: dict


class Sums(NamedTuple):
  """What a layer puts out before it is clamped and rounded: total times by. total: whole numbers,
  sums of `of` values each, or reals, where of is 0. batch: what it is by the batch's moments."""

  total: jax.Array
  by: jax.Array | float = 1.0
  of: int = 0
  batch: jax.Array | None = None


def forward(
  layers: list[Layer], x, *, ranges: dict | None, bits: int = 8, live=None, fast: bool = False
) -> Told:  # fmt: skip
  """Runs layers on x [n, h, w, c] as integers do, in float32, which a gradient passes.

  ranges: of each tensor by name; None rounds nothing. Factors are whole numbers below 2^8 and exact
  at any precision of the platform's products, and so are sums up to 2^24. live: where true, the
  batch's moments normalize, while weights are rounded with the moving ones (Krishnamoorthi's
  correction); layers must be marked. None: the moving ones. fast: see `layers.sums`.
  """
  told = Told([], [], {}, {})
  for name, layer in zip(names(layers), layers):
    inputs = [(told.values[i], told.scales[i]) for i in layer.inputs]
    if layer.kind == 'max':  # as its input, in codes
      value, scale = unweighted(layer, inputs[0][0]), inputs[0][1]
    else:
      made = _sums(layer, x, inputs, ranges, bits, live is not None, fast, told)
      y = made.total * made.by
      y = y if made.batch is None else jnp.where(live, made.batch, y)
      y = within(y, layer.low, layer.high)
      told.spans[name] = jax.lax.stop_gradient(jnp.stack([y.min(), y.max()]))
      value, scale = y, 1.0
      if ranges is not None:
        scale, zero = SHARES if layer.kind == 'logistic' else grid(ranges[name])
        value = _coded(layer, made, y, scale, zero)
        if made.batch is not None:
          value = jnp.where(live, codes(y, scale, zero), value)
    told.values.append(value)
    told.scales.append(scale)
  return told


def _coded(layer: Layer, made: Sums, y, scale, zero) -> jax.Array:
  if not made.of:
    return codes(y, scale, zero)
  low, high = (jax.lax.stop_gradient(nearest(end / scale)) for end in (layer.low, layer.high))
  ends = jnp.maximum(low, -128 - zero), jnp.minimum(high, 127 - zero)
  return within(rescaled(made.total, made.by / scale, of=made.of), *ends)


def _sums(layer: Layer, x, inputs, ranges, bits, batch, fast, told: Told) -> Sums:
  if layer.kind == 'input':
    return Sums(x)
  (value, scale), *others = inputs
  if layer.kind == 'mul':
    return Sums(value * others[0][0], scale * others[0][1], 1)
  if layer.kind == 'mean':
    pixels = value.shape[1] * value.shape[2]
    return Sums(value.sum((1, 2), keepdims=True), scale / pixels, pixels)
  if layer.kind not in LINEAR:
    return Sums(unweighted(layer, *(value * scale for value, scale in inputs)))
  weights, steps = (layer.weights, 1.0) if ranges is None else per_channel(layer.weights, bits)
  total, by = sums(layer, value, weights, fast=fast), scale * steps
  bias = layer.bias / by if ranges is None else _even(layer.bias / by)
  made = Sums(total + bias, by, 1)
  if not batch or layer.normal is None:
    return made
  change, shift, told.moments[layer.normal.path] = _on_batch(layer, value, scale, fast)
  y = total * by * change + layer.bias + layer.normal.factor * shift
  return made._replace(batch=y)


def _on_batch(layer: Layer, value, scale, fast) -> tuple:
  """What makes of the moving moments the batch's: a factor of sums, a term before normalization.

  Then (mean, var) [cout] of the batch, seen on sums of weights that are not rounded.
  """
  norm = layer.normal
  before = sums(layer, value, norm.weights, fast=fast) * scale + norm.bias
  axes = tuple(range(before.ndim - 1))
  mean = before.mean(axes)
  var = jnp.maximum(jnp.square(before).mean(axes) - jnp.square(mean), 0.0)
  change = jnp.sqrt((norm.var + norm.epsilon) / (var + norm.epsilon))
  shift = (norm.bias - mean) * change - (norm.bias - norm.mean)
  return change, shift, jax.lax.stop_gradient((mean, var))


@dataclasses.dataclass(frozen=True)
class Rounded:
  """A module that applies as its integer network does; `prepared` makes nets of it.

  bits: of weights; activations have 8. Ranges lie in the stats, beside those of the module, and
  follow what training sees: new = decay * old + (1 - decay) * seen. freeze: so many steps normalize
  by the batch's moments, which the moving ones follow; after them the moving ones stay and are used
  (Krishnamoorthi's freezing). Dropout is off.
  """

  module: nn.Module
  bits: int = 8
  decay: float = 0.99
  freeze: int = 0

  def __post_init__(self):
    require(self.bits in BITS, f'bits={self.bits} of weights are not in 2 to 8')
    require(0 <= self.decay < 1, f'decay={self.decay} must lie in [0, 1)')
    require(self.freeze >= 0, f'freeze={self.freeze} must not be negative')

  def apply(self, variables, x, train: bool = False, rngs=None, mutable=None):
    """`module.apply` in integers. Variables are those of `prepared`, of one replicate."""
    del rngs, mutable
    params, stats = variables['params'], variables['batch_stats']
    marked = train and self.freeze > 0
    layers, like = traced(self.module, params, stats['module'], x, marked=marked)
    live = stats['step'] < self.freeze if marked else None
    told = forward(layers, image(x), ranges=stats['ranges'], bits=self.bits, live=live, fast=train)
    output = (told.values[-1] * told.scales[-1]).reshape(len(x), *like[1:])
    return (output, dict(batch_stats=self._after(layers, stats, told, live))) if train else output

  def _after(self, layers, stats, told, live) -> dict:
    """The stats after a step of training."""
    follow = lambda old, new, keep: keep * old + (1 - keep) * new
    new = lambda name, old: follow(old, told.spans[name], self.decay)
    ranges = {name: new(name, old) for name, old in stats['ranges'].items()}
    flat = dict(tree.named(stats['module']))
    for norm in (layer.normal for layer in layers if layer.normal):
      for part, seen in zip(('mean', 'var'), told.moments[norm.path]):
        path = f'{norm.path}/{part}'
        flat[path] = jnp.where(live, follow(flat[path], seen, norm.momentum), flat[path])
    return dict(module=tree.nest(flat), ranges=ranges, step=stats['step'] + 1)

  def __getattr__(self, name):  # sizes and the like are the module's
    if name.startswith('__'):
      raise AttributeError(name)
    return getattr(self.module, name)


saved.WRAPPERS[Rounded.__name__] = Rounded


def image(x) -> jax.Array:
  """x [n, d] as [n, 1, 1, d]; images as they are."""
  return x[:, None, None] if x.ndim == 2 else x


def traced(module, params, stats, x, *, marked: bool = False) -> tuple[list[Layer], tuple]:
  """(the layers of a module, the shape of its output), for inputs x [n, h, w, c] or [n, d]."""
  shape = x.shape[1:]
  function = lambda v: apply(module, params, stats, v.reshape(len(v), *shape))
  like = jax.eval_shape(function, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
  return trace(function, image(x).shape[1:], marked=marked), like.shape


def prepared(net: Net, x, **settings) -> Net:
  """net [R], masks and all, with a module that rounds; its ranges are those of x, images [n, ...].

  settings: of `Rounded`. Raises UsageError for operations that no layer has.
  """
  require(not isinstance(net.module, Rounded), 'the net computes in integers already')
  params = tree.keep(net.params, net.masks)
  module = net.module

  def spans(params, stats, x):
    layers, _ = traced(module, params, stats, x)
    return forward(layers, image(x), ranges=None).spans

  ranges = over_replicas(spans, (0, 0, None))(params, net.stats, jnp.asarray(x, jnp.float32))
  steps = jnp.zeros(tree.leaves(params)[0].shape[0], jnp.int32)
  return net.replace(
    module=Rounded(module, **settings), stats=dict(module=net.stats, ranges=ranges, step=steps)
  )
