"""Several teachers as one: their predictive distributions averaged, at any temperature."""

import math

import jax
import jax.numpy as jnp

from reduction.errors import did_you_mean, require

MEANS = ('arithmetic', 'geometric')


def combined(logits, temperature, *, mean: str = 'arithmetic') -> jax.Array:
  """Logits [..., classes] whose softmax at `temperature` is the mean of the members' at it.

  logits: [members, ..., classes]. mean: 'arithmetic' of the probabilities, which depends on the
  temperature, or 'geometric', normalized: the mean of the logits, whatever the temperature. Hinton,
  Vinyals & Dean 2015, section 2.
  """
  require(mean in MEANS, f'{mean=} is unknown.{did_you_mean(mean, MEANS)}')
  logits = jnp.asarray(logits, jnp.float32)
  if len(logits) == 1 or mean == 'geometric':
    return logits.mean(0)
  logs = jax.nn.log_softmax(logits / temperature)
  return temperature * (jax.nn.logsumexp(logs, 0) - math.log(len(logits)))


def top(logits, k: int, temperature) -> tuple[jax.Array, jax.Array]:
  """(logits [..., k + 1], indices [..., k]) of the k likeliest classes and a bin for all others.

  logits: [..., classes]. At `temperature` the bin has the others' summed probability, so that a
  student cannot please by taking mass out of sight; at another it has not. Raises UsageError
  unless 0 < k < classes.
  """
  classes = logits.shape[-1]
  require(0 < k < classes, f'{k=} of {classes} classes must be from 1 to {classes - 1}')
  values, indices = jax.lax.top_k(logits.astype(jnp.float32), k)
  return _with_tail(logits, values, indices, temperature), indices


def at(logits, indices, temperature) -> jax.Array:
  """A student's logits [..., classes] in the bins of `top`: [..., k + 1]."""
  values = jnp.take_along_axis(logits.astype(jnp.float32), indices, -1)
  return _with_tail(logits, values, indices, temperature)


def _with_tail(logits, values, indices, temperature):
  rest = jnp.put_along_axis(logits.astype(jnp.float32), indices, -jnp.inf, axis=-1, inplace=False)
  tail = temperature * jax.nn.logsumexp(rest / temperature, -1, keepdims=True)
  return jnp.concatenate([values, tail], -1)
