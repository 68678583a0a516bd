"""Which token comes next: the likeliest, or one drawn from the likely ones."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from reduction.errors import require


class Sampling(NamedTuple):
  """How tokens are drawn. Numbers, not shapes: another value compiles nothing.

  temperature: logits are divided by it; 0 takes the likeliest token. top_k: only the so many
  likeliest tokens, 0 for all. top_p: of these, the fewest whose probabilities reach it (Holtzman et
  al. 2020). repetition: logits of tokens that were there before are divided by it where positive,
  multiplied where negative (Keskar et al. 2019); 1 leaves them.
  """

  temperature: float = 0.0
  top_k: int = 0
  top_p: float = 1.0
  repetition: float = 1.0

  def check(self):
    """Raises UsageError for what is no such way."""
    require(self.temperature >= 0, f'temperature={self.temperature} must be 0 or above')
    require(
      type(self.top_k) is int and self.top_k >= 0, f'top_k={self.top_k} must be a number, 0 for all'
    )
    require(0 < self.top_p <= 1, f'top_p={self.top_p} must be above 0 and at most 1')
    require(self.repetition > 0, f'repetition={self.repetition} must be above 0; 1 changes nothing')


def drawn(logits, seen, key, how: Sampling) -> jax.Array:
  """Tokens int32 [n]. logits: float32 [n, vocabulary]; seen: bool like them, the tokens so far."""
  logits = logits.astype(jnp.float32)
  again = jnp.where(logits > 0, logits / how.repetition, logits * how.repetition)
  logits = jnp.where(seen, again, logits)
  return jax.lax.cond(
    how.temperature == 0,
    lambda: logits.argmax(-1).astype(jnp.int32),
    lambda: jax.random.categorical(key, likely(logits, how)).astype(jnp.int32),
  )


def likely(logits, how: Sampling) -> jax.Array:
  """Logits by the temperature, minus infinity for tokens that top_k and top_p leave out."""
  logits = logits / jnp.maximum(how.temperature, jnp.finfo(jnp.float32).tiny)
  order = jnp.argsort(-logits)  # of equal ones, the first
  ranked = jnp.take_along_axis(logits, order, -1)
  rank = jnp.arange(logits.shape[-1])
  ranked = jnp.where((how.top_k == 0) | (rank < how.top_k), ranked, -jnp.inf)
  shares = jax.nn.softmax(ranked)
  before = shares.cumsum(-1) - shares
  ranked = jnp.where((before < how.top_p) | (rank == 0), ranked, -jnp.inf)
  return jnp.take_along_axis(ranked, jnp.argsort(order), -1)
