"""A table of words that may be packed: `Served` answers for it as it does for linears."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp


class Embed(nn.Module):
  """Rows of a table [words, width] by token; `attend` multiplies by the table's transpose."""

  words: int
  width: int
  initial: Callable

  @nn.compact
  def __call__(self, tokens: jax.Array) -> jax.Array:
    table = self.param('embedding', self.initial, (self.words, self.width))
    return jnp.take(table, tokens, axis=0)

  def attend(self, x: jax.Array) -> jax.Array:
    """x [..., width] times the words, [..., words]."""
    return x @ self.get_variable('params', 'embedding').T
