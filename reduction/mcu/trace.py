"""A module of Flax, or any function of JAX, as a few float layers: its jaxpr, read.

What does not depend on the input is computed; a product by constants goes into the weights before
it, which folds batch normalization wherever it stands; relu and its kin go into the layer before.
Weights may be traced, which makes folding a function of them: training in integers descends it.
"""

import contextlib
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from reduction.errors import require
from reduction.mcu.graph import Window
from reduction.mcu.layers import Layer, Normal
from reduction.models.served import normalizations


@dataclasses.dataclass(frozen=True)
class Ref:
  """A value that depends on the input: a layer's output, in blocks, to be divided by `over`, or
  `repeated` from one pixel to all.
  """

  layer: int
  blocks: tuple[int, int] | None = None
  over: int = 1
  repeated: bool = False


MARK = core.Primitive('normalized')  # before a normalization; only ever read
MARK.def_abstract_eval(lambda x, mean, var, **settings: x)


def trace(function, shape, *, marked: bool = False) -> list[Layer]:
  """The layers of function, x [1, h, w, c] -> y, float32; the last is the output.

  marked: layers tell which of Flax's batch normalizations is folded into them.
  Raises UsageError for an operation that has no layer, naming it.
  """
  with normalizations(_mark) if marked else contextlib.nullcontext():
    fresh = lambda x: function(x)  # JAX remembers what a function was, marked or not
    closed = jax.make_jaxpr(fresh)(jax.ShapeDtypeStruct((1, *shape), np.float32))
  layers = [Layer('input', (), tuple(shape))]
  (found,) = _run(layers, closed.jaxpr, closed.consts, [Ref(0)])
  require(isinstance(found, Ref), 'the output of the net does not depend on its input')
  return _reachable(layers, _plain(found))


def _mark(path, norm, x):
  stats = (norm.get_variable('batch_stats', name) for name in ('mean', 'var'))
  return MARK.bind(x, *stats, path=path, momentum=norm.momentum, epsilon=norm.epsilon)


def _reachable(layers, last) -> list[Layer]:
  """The layers that the last depends on, numbered anew."""
  wanted, pending = {0}, [last]
  while pending:
    index = pending.pop()
    if index not in wanted:
      wanted.add(index)
      pending += layers[index].inputs
  new = {old: i for i, old in enumerate(sorted(wanted))}
  return [
    dataclasses.replace(layers[old], inputs=tuple(new[i] for i in layers[old].inputs))
    for old in new
  ]


def _run(layers, jaxpr, consts, arguments) -> list[Any]:
  values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*map(_known, consts), *arguments)))
  read = lambda v: np.asarray(v.val) if hasattr(v, 'val') else values[v]
  for equation in jaxpr.eqns:
    given = [read(v) for v in equation.invars]
    if not any(isinstance(v, Ref) for v in given):
      found = equation.primitive.bind(*given, **equation.params)
      found = list(map(_known, found if equation.primitive.multiple_results else [found]))
    else:
      found = _equation(layers, equation, given)
    values.update(zip(equation.outvars, found))
  return [read(v) for v in jaxpr.outvars]


def _known(value):
  """value as an array of NumPy; one of JAX while it is traced."""
  return value if isinstance(value, jax.core.Tracer) else np.asarray(value)


def _equation(layers, equation, given) -> list:
  name = equation.primitive.name
  if name == 'custom_vjp_call' and _is_convolution(equation):  # `kernels.conv.chunked`
    pad, strides = _inside(equation)
    return [_conv(layers, given, strides, pad, 1)]
  inner = _inner(equation)
  if inner is not None:
    return _run(layers, inner.jaxpr, inner.consts, given)
  require(name in RULES, f'{name} has no layer on a microcontroller; known: {", ".join(RULES)}')
  return [RULES[name](layers, equation, given)]


def _inner(equation):
  for key in ('jaxpr', 'call_jaxpr', 'fun_jaxpr'):
    found = equation.params.get(key)
    if hasattr(found, 'consts') and equation.primitive.name not in ('scan', 'while', 'cond'):
      return found
  return None


def _is_convolution(equation) -> bool:
  shapes = [v.aval.shape for v in (*equation.invars, *equation.outvars)]
  return [len(s) for s in shapes] == [4, 4, 4] and shapes[2][3] == shapes[1][3]


def _inside(equation):
  """(padding, strides) of `chunked`: of its lax.pad and the first of its slices."""
  pad, strides, pending = ((0, 0), (0, 0)), (1, 1), [_inner(equation).jaxpr]
  while pending:
    for one in pending.pop().eqns:
      if one.primitive.name == 'pad':
        pad = tuple((low, high) for low, high, _ in one.params['padding_config'][1:3])
      if one.primitive.name == 'slice' and one.params['strides']:
        strides = tuple(one.params['strides'][1:3])
      pending += [v.jaxpr for v in one.params.values() if hasattr(v, 'jaxpr')]
  return pad, strides


def _append(layers, layer) -> Ref:
  layers.append(layer)
  return Ref(len(layers) - 1)


def _plain(value) -> int:
  """The layer of a value that is one layer's whole output."""
  require(isinstance(value, Ref), 'an operation wants the output of a layer')
  whole = value.over == 1 and value.blocks is None
  require(whole, 'a sum that is no mean, or blocks that no pooling ends')
  require(not value.repeated, 'a pixel repeated otherwise than to multiply by it')
  return value.layer


def _conv(layers, given, strides, pad, groups) -> Ref:
  x, weights = _plain(given[0]), given[1]
  require(not isinstance(weights, Ref), 'a convolution by weights that depend on the input')
  shape, cout = layers[x].shape, weights.shape[-1]
  window = Window(weights.shape[:2], tuple(strides), (*pad[0], *pad[1]))
  depthwise = groups == shape[2] and groups > 1
  require(groups == 1 or depthwise, f'a convolution in {groups} groups of {shape[2]} channels')
  fields = dict(window=window, bias=np.zeros(cout, np.float32))
  weights = weights[:, :, 0] if depthwise else weights
  kind = 'depthwise' if depthwise else 'conv'
  return _append(layers, Layer(kind, (x,), (*window.over(shape), cout), weights, **fields))


def _general_conv(layers, equation, given):
  p = equation.params
  numbers = p['dimension_numbers']
  plain = (numbers.lhs_spec, numbers.rhs_spec) == ((0, 3, 1, 2), (3, 2, 0, 1))
  dilated = any(d != 1 for d in (*p['lhs_dilation'], *p['rhs_dilation']))
  require(plain and not dilated, 'a convolution that is dilated, or not of channels last')
  return _conv(layers, given, p['window_strides'], p['padding'], p['feature_group_count'])


def _dot(layers, equation, given):
  (left, right), batch = equation.params['dimension_numbers']
  x, weights = _plain(given[0]), given[1]
  good = not isinstance(weights, Ref) and weights.ndim == 2 and batch == ((), ())
  require(good and right == (0,), 'a product of other shape than [n, in] x [in, out]')
  size, bias = math.prod(layers[x].shape), np.zeros(weights.shape[1], np.float32)
  if len(weights) == size:
    return _append(layers, Layer('dense', (x,), (1, 1, weights.shape[1]), weights, bias))
  require(left == (3,), f'a product of {size} values by {len(weights)} rows')
  shape = *layers[x].shape[:2], weights.shape[1]
  return _append(layers, Layer('conv', (x,), shape, weights[None, None], bias))


def _by_channel(constant, channels: int):
  """A constant that is the same for every pixel, [channels]; of traced ones the first pixel's."""
  traced = isinstance(constant, jax.core.Tracer)
  flat = constant if traced else np.asarray(constant, np.float32)
  if flat.size > 1:
    require(flat.shape[-1] == channels, f'a constant {flat.shape} beside {channels} channels')
    rows = flat.reshape(-1, channels)
    require(traced or (rows == rows[0]).all(), 'a constant that differs from pixel to pixel')
    flat = rows[0]
  return (jnp if traced else np).broadcast_to(flat.reshape(-1), (channels,))


def _affine(layers, x: Ref, factor, offset) -> Ref:
  """factor x + offset, by channel, within the weights where nothing was clamped yet."""
  index = _plain(x)
  before = layers[index]
  c = before.shape[2]
  factor, offset = _by_channel(factor, c), _by_channel(offset, c)
  if before.weights is None or _is_clamped(before):
    return _append(layers, Layer('depthwise', (index,), before.shape, factor[None, None], offset))
  normal = before.normal
  normal = normal and dataclasses.replace(normal, factor=normal.factor * factor)
  fields = dict(weights=before.weights * factor, bias=before.bias * factor + offset)
  return _append(layers, dataclasses.replace(before, **fields, normal=normal))


def _normalized(layers, equation, given):
  """The layer that a normalization is folded into, a new one where nothing can be, marked."""
  p, (x, mean, var) = equation.params, given
  if layers[_plain(x)].weights is None or _is_clamped(layers[x.layer]):
    x = _affine(layers, x, 1.0, 0.0)
  before = layers[x.layer]
  require(before.normal is None, f'{p["path"]} normalizes what is normalized already')
  ones = np.ones(before.shape[2], np.float32)
  normal = Normal(**p, mean=mean, var=var, weights=before.weights, bias=before.bias, factor=ones)
  return _append(layers, dataclasses.replace(before, normal=normal))


def _is_clamped(layer: Layer) -> bool:
  return (layer.low, layer.high) != (-math.inf, math.inf)


def _add(layers, equation, given):
  del equation
  a, b = given
  if isinstance(a, Ref) and isinstance(b, Ref):
    shapes = [layers[_plain(v)].shape for v in given]
    require(shapes[0] == shapes[1], f'a sum of {shapes[0]} and {shapes[1]}')
    return _append(layers, Layer('add', (a.layer, b.layer), shapes[0]))
  x, constant = (a, b) if isinstance(a, Ref) else (b, a)
  return _affine(layers, x, 1.0, constant)


def _sub(layers, equation, given):
  del equation
  a, b = given
  require(not (isinstance(a, Ref) and isinstance(b, Ref)), 'a difference of two layers')
  return _affine(layers, a, 1.0, -b) if isinstance(a, Ref) else _affine(layers, b, -1.0, a)


def _mul(layers, equation, given):
  del equation
  a, b = given
  if isinstance(a, Ref) and isinstance(b, Ref):
    return _gated(layers, a, b)
  x, constant = (a, b) if isinstance(a, Ref) else (b, a)
  return _scaled(layers, x, constant)


def _gated(layers, a: Ref, b: Ref) -> Ref:
  """The product of two layers, the second perhaps of one pixel."""
  a, b = (_plain(dataclasses.replace(x, repeated=False)) for x in (a, b))
  if layers[a].shape[:2] == (1, 1):
    a, b = b, a
  shape, other = layers[a].shape, layers[b].shape
  require(other in (shape, (1, 1, shape[2])), f'a product of {shape} and {other}')
  return _append(layers, Layer('mul', (a, b), shape))


def _logistic(layers, equation, given):
  del equation
  index = _plain(given[0])
  return _append(layers, Layer('logistic', (index,), layers[index].shape))


def _div(layers, equation, given):
  del equation
  x, constant = given
  require(isinstance(x, Ref) and not isinstance(constant, Ref), 'a division by a layer')
  return _scaled(layers, x, np.float32(1) / constant)


def _scaled(layers, x, constant):
  if x.over > 1:  # a sum over pixels
    share = np.asarray(constant, np.float32).reshape(-1)
    require(np.allclose(share, 1 / x.over), f'a sum of {x.over} pixels times {share[0]}')
    return Ref(x.layer)
  if isinstance(constant, np.ndarray | np.generic) and (constant == 1).all():
    return x  # a mean of one pixel ends so
  return _affine(layers, x, constant, 0.0)


def _clamped(layers, x: Ref, low: float, high: float) -> Ref:
  index = _plain(x)
  before = layers[index]
  if before.kind in ('input', 'max', 'mean', 'logistic'):
    return _clamped(layers, _affine(layers, x, 1.0, 0.0), low, high)
  ends = dict(low=max(before.low, low), high=max(low, min(before.high, high)))
  return _append(layers, dataclasses.replace(before, **ends))


def _limit(is_low: bool):
  def rule(layers, equation, given):
    del equation
    x, constant = given if isinstance(given[0], Ref) else given[::-1]
    require(not isinstance(constant, Ref) and np.size(constant) == 1, 'the larger of two layers')
    value = float(np.asarray(constant).reshape(()))
    return _clamped(layers, x, *((value, math.inf) if is_low else (-math.inf, value)))

  return rule


def _clamp(layers, equation, given):
  del equation
  low, x, high = given
  return _clamped(layers, x, float(low), float(high))


def _reshape(layers, equation, given):
  new, x = equation.params['new_sizes'], given[0]
  h, w, c = layers[_plain(x)].shape
  if len(new) == 6:  # blocks, for a pooling
    blocks = new[2], new[4]
    require(new == (1, h // new[2], new[2], w // new[4], new[4], c), f'a reshape to {new}')
    return Ref(x.layer, blocks)
  kept = tuple(n for n in new if n != 1) == tuple(n for n in (h, w, c) if n != 1)
  require(kept or new == (1, h * w * c), f'a reshape of {(h, w, c)} to {new}')
  return x


def _reduce_max(layers, equation, given):
  x = given[0]
  good = x.blocks and tuple(equation.params['axes']) == (2, 4)
  require(good, f'the largest over axes {equation.params["axes"]}')
  return _pooled(layers, Ref(x.layer), Window(x.blocks, x.blocks))


def _pooled(layers, x, window):
  before = layers[_plain(x)]
  shape = *window.over(before.shape), before.shape[2]
  return _append(layers, Layer('max', (x.layer,), shape, window=window))


def _window_max(layers, equation, given):
  p = equation.params
  (_, kh, kw, _), (_, sh, sw, _), pad = p['window_dimensions'], p['window_strides'], p['padding']
  return _pooled(layers, given[0], Window((kh, kw), (sh, sw), (*pad[1], *pad[2])))


def _reduce_sum(layers, equation, given):
  axes, index = tuple(equation.params['axes']), _plain(given[0])
  h, w, c = layers[index].shape
  require(axes == (1, 2), f'a sum over axes {axes}; the mean over height and width is known')
  mean = _append(layers, Layer('mean', (index,), (1, 1, c)))
  return Ref(mean.layer, over=h * w)


def _same(layers, equation, given):
  del layers, equation
  return given[0]


def _broadcast(layers, equation, given):
  x, shape = given[0], tuple(equation.params['shape'])
  h, w, c = layers[x.layer].shape
  if math.prod(shape) == h * w * c:
    return x
  one = (h, w) == (1, 1) and len(shape) == 4 and shape[::3] == (1, c)
  require(one, f'a layer of {(h, w, c)} repeated to {shape}')
  return dataclasses.replace(x, repeated=True)


RULES = {
  'conv_general_dilated': _general_conv, 'dot_general': _dot, 'add': _add, 'add_any': _add,
  'sub': _sub, 'mul': _mul, 'div': _div, 'max': _limit(True), 'min': _limit(False),
  'clamp': _clamp, 'reshape': _reshape, 'squeeze': _same, 'reduce_max': _reduce_max,
  'reduce_window_max': _window_max, 'reduce_sum': _reduce_sum, 'broadcast_in_dim': _broadcast,
  'logistic': _logistic, 'normalized': _normalized, 'convert_element_type': _same,
  'stop_gradient': _same, 'copy': _same,
}  # fmt: skip
