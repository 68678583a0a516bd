"""Losses and metrics on logits: pure functions, float32 inside."""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits, labels) -> jax.Array:
  """Mean over examples of -log softmax at the label. logits: [n, classes], labels: int [n]."""
  logits = logits.astype(jnp.float32)  # a bfloat16 logsumexp loses the small probabilities
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def accuracy(logits, labels) -> jax.Array:
  """Fraction of examples whose largest logit is the label's. logits: [n, classes]."""
  return (logits.argmax(-1) == labels).mean(dtype=jnp.float32)
