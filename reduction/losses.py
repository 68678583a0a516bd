"""Losses and metrics on logits: pure functions, float32 inside."""

import jax
import jax.numpy as jnp
import optax

from reduction.errors import require


def cross_entropy(logits, labels) -> jax.Array:
  """Mean over examples of -log softmax at the label. logits: [n, classes], labels: int [n]."""
  logits = logits.astype(jnp.float32)  # a bfloat16 logsumexp loses the small probabilities
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def accuracy(logits, labels) -> jax.Array:
  """Fraction of examples whose largest logit is the label's. logits: [n, classes]."""
  return (logits.argmax(-1) == labels).mean(dtype=jnp.float32)


def soft_cross_entropy(student, teacher, *, temperature: float = 1.0) -> jax.Array:
  """T^2 times the cross-entropy of softmax(student / T) against softmax(teacher / T).

  student, teacher: logits [n, classes]. Summed over classes, averaged over examples; T^2 keeps the
  gradient's size as T grows. The teacher gets no gradient. Raises UsageError for T <= 0 or other
  shapes. Hinton, Vinyals & Dean 2015, section 2.
  """
  require(temperature > 0, f'{temperature=} must be above 0')
  require(student.shape == teacher.shape, f'logits {student.shape} and {teacher.shape} differ')
  soft = jax.nn.softmax(jax.lax.stop_gradient(teacher).astype(jnp.float32) / temperature)
  logs = jax.nn.log_softmax(student.astype(jnp.float32) / temperature)
  return -(temperature**2) * (soft * logs).sum(-1).mean()


def mixed(hard, soft, *, weight: float) -> jax.Array:
  """weight * soft + (1 - weight) * hard. Raises UsageError for a weight outside [0, 1]."""
  require(0 <= weight <= 1, f'{weight=} of the soft loss must lie in [0, 1]')
  return weight * soft + (1 - weight) * hard
