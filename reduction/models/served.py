"""Linears and tables of any module, watched or served from packed weights; its code stays as it is.

Flax hands each call of a submodule to an interceptor: those of the project are all here.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp

from reduction import tree
from reduction.errors import UsageError, require
from reduction.kernels import int4, table
from reduction.models.embed import Embed
from reduction.models.merged import Part, is_kept
from reduction.net import Net
from reduction.qtensor import WHOLE, QTensor, Scheme, dequantize, is_packed

Replacement = Callable[[str, nn.Dense, jax.Array], jax.Array | None]
KERNEL, TABLE = '/kernel', '/embedding'
STEP = 'input_step'  # beside the kernel: what 1 stands for in an input of 8 bits
ACTIVATIONS = 'none', 'token', 'tensor'
MOST = 127  # the largest input in 8 bits, of either sign
ROWS = (2**31 - 1) // (128 * MOST)  # so many products cannot overflow 32 bits


@contextlib.contextmanager
def linears(replacement: Replacement, tables: Replacement | None = None) -> Iterator[None]:
  """Inside, each `nn.Dense` gives replacement(path, dense, x), or its own output for None.

  path: 'layer0/mlp/up'; x: [..., in]; dense: bound, so `dense.get_variable('params', 'kernel')`.
  tables: the same for `Embed`, x being tokens, or what attends to all words.
  """

  def interceptor(call, args, kwargs, context):
    module, output = context.module, None
    if isinstance(module, nn.Dense) and context.method_name == '__call__':
      x = kwargs['inputs'] if 'inputs' in kwargs else args[0]
      output = replacement('/'.join(module.path), module, x)
    elif tables and isinstance(module, Embed) and context.method_name in ('__call__', 'attend'):
      output = tables('/'.join(module.path), module, args[0])
    return call(*args, **kwargs) if output is None else output

  with nn.intercept_methods(interceptor):
    yield


@contextlib.contextmanager
def normalizations(before: Callable[[str, nn.BatchNorm, jax.Array], jax.Array]) -> Iterator[None]:
  """Inside, each `nn.BatchNorm` takes before(path, norm, x) for its input x; norm: bound."""

  def interceptor(call, args, kwargs, context):
    module = context.module
    if isinstance(module, nn.BatchNorm) and context.method_name == '__call__':
      args = before('/'.join(module.path), module, args[0]), *args[1:]
    return call(*args, **kwargs)

  with nn.intercept_methods(interceptor):
    yield


def step(most) -> jax.Array:
  """What 1 stands for in 8 bits where the largest |x| is most, float32 of its shape."""
  # compiled, a division by a constant is by its rounded inverse: written out, it is always that
  return jnp.where(most == 0, 1.0, most.astype(jnp.float32) * (1 / MOST))


def integers(x, by) -> jax.Array:
  """The nearest int8 of x / by, ties to even; what lies beyond 127 is cut off."""
  return jnp.clip(jnp.round(x.astype(jnp.float32) / by), -MOST, MOST).astype(jnp.int8)


def integral(scheme: Scheme) -> bool:
  """Whether the codes of kernels are int8 whose sum over a column has one scale."""
  return scheme.bits == 8 and scheme.symmetric and scheme.group in WHOLE and scheme.axis == -2


def product(x, kernel: QTensor, by=None) -> jax.Array:
  """x [..., rows] times an 8-bit kernel [rows, out], multiplied as int8 and summed as int32.

  by: what 1 stands for in x, a number; None takes for each of the tokens its own largest |x| / 127.
  float32. Raises UsageError for a kernel with other codes than int8 or a scale inside a column.
  """
  require(
    integral(kernel.scheme),
    f'{kernel.scheme} is not of integer products: 8 bits, symmetric, one scale a column or tensor',
  )
  require(kernel.rows <= ROWS, f'sums of {kernel.rows} products overflow 32 bits; at most {ROWS}')
  shape = jnp.shape(0.0 if by is None else by)
  require(shape == (), f'steps {shape} for one input: the channels of a sum have one of them')
  by = step(abs(x).max(-1, keepdims=True)) if by is None else by
  codes = jax.lax.bitcast_convert_type(kernel.data ^ 128, jnp.int8)  # code 128 stands for 0
  contracted = ((x.ndim - 1,), (0,)), ((), ())
  sums = jax.lax.dot_general(
    integers(x, by), codes, contracted, preferred_element_type=jnp.int32
  )  # fmt: skip
  return sums.astype(jnp.float32) * by * kernel.scale[0].astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Served:
  """A module some of whose `nn.Dense` kernels or `Embed` tables are packed: a quantized `Net`'s.

  It applies as the module does. activations: how inputs of these are rounded to 8 bits so that the
  products are of integers: by 'token', each with its own largest |x|, by 'tensor', whose
  `input_step` lies beside the kernel in the params, or 'none': inputs stay floats, and kernels
  become such. Raises UsageError for another value, and for packed weights that nothing reads.
  """

  module: nn.Module
  activations: str = 'none'

  def __post_init__(self):
    known = self.activations in ACTIVATIONS
    require(known, f'activations={self.activations!r} must be one of {", ".join(ACTIVATIONS)}')

  def apply(self, variables, *args, **kwargs):
    """`module.apply` with packed kernels among the params."""
    packed = {path for path, leaf in tree.named(variables['params'], is_kept) if is_kept(leaf)}
    read, wide = set(), {}  # wide: of merged linears, by path: (x, the product of all)

    def serve(path, dense, x):
      if path + KERNEL not in packed:
        return None
      read.add(path + KERNEL)
      kernel = dense.get_variable('params', 'kernel')
      bias = dense.get_variable('params', 'bias') if dense.use_bias else None
      given, (x, bias) = x, nn.dtypes.promote_dtype(x, bias, dtype=dense.dtype)
      if isinstance(kernel, Part):
        first = '/'.join([*dense.path[:-1], kernel.of])
        require(wide[first][0] is given, f'{path} and {first} read different inputs')
        y = wide[first][1][..., kernel.start :]
      else:
        y = self._times(x, kernel, dense)
        if y.shape[-1] > dense.features:
          wide[path] = given, y
      y = y[..., : dense.features].astype(x.dtype)
      return y if bias is None else y + bias

    def look(path, embed, x):
      if path + TABLE not in packed:
        return None
      read.add(path + TABLE)
      words = embed.get_variable('params', 'embedding')
      whole = jnp.issubdtype(x.dtype, jnp.integer)
      return table.looked_up(words, x) if whole else table.attended(x, words)

    with linears(serve, look):
      output = self.module.apply(variables, *args, **kwargs)
    if missed := sorted(packed - read):
      raise UsageError(f'{", ".join(missed)} is packed, but no nn.Dense or Embed reads it')
    return output

  def _times(self, x, kernel, dense):
    if self.activations == 'none':
      return int4.matmul(x, kernel)
    by = dense.get_variable('params', STEP) if self.activations == 'tensor' else None
    missed = self.activations == 'tensor' and by is None
    require(not missed, f'{"/".join(dense.path)} has no {STEP} to round its input by')
    return product(x, kernel, by).astype(x.dtype)

  def __getattr__(self, name):  # sizes and the like are the module's
    if name.startswith('__'):
      raise AttributeError(name)
    return getattr(self.module, name)


def bare(module):
  """The module whose kernels are packed; one without packed ones is itself."""
  return module.module if isinstance(module, Served) else module


def alike(part: nn.Module, module):
  """A part of a module, served as the whole is."""
  return dataclasses.replace(module, module=part) if isinstance(module, Served) else part


def unpacked(net: Net) -> Net:
  """The float net that a packed one stands for, its kernels and tables dequantized; steps of inputs
  go. A net that is not packed is itself."""
  if not isinstance(net.module, Served):
    return net
  kept = {name: w for name, w in tree.named(net.params, is_packed) if not name.endswith(STEP)}
  floats = {name: dequantize(w) if is_packed(w) else w for name, w in kept.items()}
  return Net(net.module.module, tree.nest(floats), net.stats, net.masks)
