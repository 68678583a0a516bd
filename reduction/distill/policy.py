"""On-policy distillation of language models: the student learns where its own words lead it.

A module here is causal: tokens int32 [n, length] -> logits [n, length, vocabulary] of the next
token, position by position. Agarwal et al. 2024 (GKD, 2306.13649), algorithm 1.
"""

import functools

import jax
import jax.numpy as jnp

from reduction import losses
from reduction.distill.student import DIVERGENCES
from reduction.errors import did_you_mean, require
from reduction.net import apply

DIRECTIONS = dict(forward=losses.soft_divergence, **DIVERGENCES)


def sampled(predict, tokens, first, key, *, temperature: float = 1.0) -> jax.Array:
  """tokens [n, length] with all from position first [n] on drawn, each given those before it.

  predict: tokens [n, length] -> logits [n, length, vocabulary]; it runs length - 1 times on all
  positions, for there is no cache here. first: at least 1.
  """
  count = tokens.shape[1]

  def draw(tokens, at):
    place, key = at
    logits = predict(tokens)[:, place - 1]
    drawn = jax.random.categorical(key, logits.astype(jnp.float32) / temperature)
    kept = jnp.where(place < first, tokens[:, place], drawn)
    return tokens.at[:, place].set(kept.astype(tokens.dtype)), None

  places = jnp.arange(1, count)
  return jax.lax.scan(draw, tokens, (places, jax.random.split(key, count - 1)))[0]


@functools.lru_cache(maxsize=64)
def on_policy(
  student, teacher, *, share: float = 1.0, direction: str = 'reverse', temperature: float = 1.0
):
  """The loss of a student, a function for `update.sgd`.

  batch: (tokens [n, length], first [n], given). Of each batch either all texts go on, from position
  first, as the student would, which happens in the share of steps, or they are taken as they are;
  then the divergence between teacher and student is averaged over the tokens from first on. No
  gradient goes through the drawing. direction: 'forward', 'reverse', 'jsd' or 'standardized'.
  given: dict(live=(teacher's params, stats)). Raises UsageError for a share outside [0, 1].
  """
  require(0 <= share <= 1, f'{share=} must lie in [0, 1]')
  require(direction in DIRECTIONS, f'{direction=} is unknown.{did_you_mean(direction, DIRECTIONS)}')

  def loss(params, stats, batch, key):
    tokens, first, given = batch
    coin, draws, dropout = jax.random.split(key, 3)
    speak = lambda: sampled(lambda t: apply(student, params, stats, t), tokens, first, draws)
    tokens = jax.lax.cond(jax.random.uniform(coin) < share, speak, lambda: tokens)
    logits, new = apply(student, params, stats, tokens, train=True, rngs={'dropout': dropout})
    target = apply(teacher, *given['live'], tokens)
    # the token at position p is told at p - 1
    told = jnp.arange(tokens.shape[1]) + 1 >= first[:, None]
    told = told.at[:, -1].set(False)[..., None]
    seen = lambda z: jnp.where(told, z, 0.0)  # equal logits diverge by nothing
    value = DIRECTIONS[direction](seen(logits), seen(target), temperature=temperature)
    return value * told.size / jnp.maximum(told.sum(), 1), (new, {})

  return loss
