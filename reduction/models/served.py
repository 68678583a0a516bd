"""Linears of any module, watched or served from packed weights without touching its code.

Flax hands each call of a submodule to an interceptor: this is the only one in the project.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import flax.linen as nn
import jax

from reduction import tree
from reduction.errors import UsageError
from reduction.qtensor import dequantize, is_packed

Replacement = Callable[[str, nn.Dense, jax.Array], jax.Array | None]
KERNEL = '/kernel'


@contextlib.contextmanager
def linears(replacement: Replacement) -> Iterator[None]:
  """Inside, each `nn.Dense` gives replacement(path, dense, x), or its own output for None.

  path: 'layer0/mlp/up'; x: [..., in]; dense: bound, so `dense.get_variable('params', 'kernel')`.
  """

  def interceptor(call, args, kwargs, context):
    dense = context.module
    if isinstance(dense, nn.Dense) and context.method_name == '__call__':
      x = kwargs['inputs'] if 'inputs' in kwargs else args[0]
      output = replacement('/'.join(dense.path), dense, x)
      if output is not None:
        return output
    return call(*args, **kwargs)

  with nn.intercept_methods(interceptor):
    yield


@dataclasses.dataclass(frozen=True)
class Served:
  """A module some of whose `nn.Dense` kernels are packed: what a quantized `Net` holds.

  It applies as the module does. Raises UsageError for packed weights that no `nn.Dense` reads.
  """

  module: nn.Module

  def apply(self, variables, *args, **kwargs):
    """`module.apply` with packed kernels among the params."""
    leaves = tree.named(variables['params'], is_packed)
    packed, read = {path for path, leaf in leaves if is_packed(leaf)}, set()

    def serve(path, dense, x):
      if path + KERNEL not in packed:
        return None
      read.add(path + KERNEL)
      kernel = dense.get_variable('params', 'kernel')
      bias = dense.get_variable('params', 'bias') if dense.use_bias else None
      x, bias = nn.dtypes.promote_dtype(x, bias, dtype=dense.dtype)
      y = x @ dequantize(kernel, x.dtype)
      return y if bias is None else y + bias

    with linears(serve):
      output = self.module.apply(variables, *args, **kwargs)
    if missed := sorted(packed - read):
      raise UsageError(f'{", ".join(missed)} is packed, but is no kernel of an nn.Dense')
    return output

  def __getattr__(self, name):  # sizes and the like are the module's
    if name.startswith('__'):
      raise AttributeError(name)
    return getattr(self.module, name)
