"""Losses and metrics on logits: pure functions, float32 inside.

The scale of the distillation loss is one and stated: summed over classes, averaged over examples,
times T^2. Other toolkits differ by up to 160 on the same logits; a test names how.
"""

import warnings

import jax
import jax.numpy as jnp
import optax

from reduction.errors import require


def cross_entropy(logits, labels) -> jax.Array:
  """Mean over examples of -log softmax at the label. logits: [n, classes], labels: int [n].

  Of texts logits are [n, length, classes] and labels [n, length - 1], the token after each but the
  last, whose logits do not count.
  """
  logits = _told(logits, labels).astype(jnp.float32)  # bfloat16 loses the small probabilities
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def accuracy(logits, labels) -> jax.Array:
  """Fraction of examples whose largest logit is the label's. Shapes: of `cross_entropy`."""
  return (_told(logits, labels).argmax(-1) == labels).mean(dtype=jnp.float32)


def _told(logits, labels):
  """The logits that have a label."""
  return logits[:, : labels.shape[1]] if labels.ndim > 1 else logits


def soft_cross_entropy(student, teacher, *, temperature=1.0, scaled=True, stop=True) -> jax.Array:
  """T^2 times the cross-entropy of softmax(student / T) against softmax(teacher / T).

  student, teacher: logits [..., classes]. Summed over classes, averaged over examples; T^2 keeps
  the gradient's size as T grows. temperature: a number, or a traced scalar, which goes unchecked.
  scaled: False leaves T^2 out, and warns where T > 1. stop: the teacher gets no gradient. Raises
  UsageError for T <= 0 or other shapes. Hinton, Vinyals & Dean 2015, section 2.
  """
  soft, logs = _soft(student, teacher, temperature, stop)
  return _scale(temperature, scaled) * _mean(-soft * logs)


def soft_divergence(student, teacher, *, temperature=1.0, scaled=True, stop=True) -> jax.Array:
  """T^2 KL(teacher || student): `soft_cross_entropy` less the teacher's own entropy.

  The same gradient, and 0 where the student has learned all, which makes it the one to look at.
  """
  soft, logs = _soft(student, teacher, temperature, stop)
  own = jnp.where(soft > 0, jnp.log(jnp.where(soft > 0, soft, 1.0)), 0.0)  # 0 log 0 is 0
  return _scale(temperature, scaled) * _mean(soft * (own - logs))


def distillation(
  student, teacher, labels, *, temperature, soft=1.0, hard=0.0, label_mix=0.0, bins=None
) -> tuple[jax.Array, dict]:
  """(loss, what to log): soft * soft_cross_entropy + hard * cross_entropy at T = 1.

  student, teacher: logits [n, classes]; labels: int [n]. soft, hard: weights, numbers or traced
  scalars. label_mix: the soft targets are (1 - label_mix) of the teacher's and label_mix of the
  label's, which Hinton et al. tried and found no better. bins: the student's logits in the classes
  of a teacher that has fewer (`distill.ensembles.at`); by default those of student. Logged: 'kl',
  the divergence from the teacher with T^2, and 'hard_loss'. Raises UsageError for T <= 0, a
  negative weight, a label_mix outside [0, 1] or other classes.
  """
  for name, weight in dict(soft=soft, hard=hard).items():
    require(_unknown(weight) or weight >= 0, f'the {name} weight {weight} must not be negative')
  require(_unknown(label_mix) or 0 <= label_mix <= 1, f'{label_mix=} must lie in [0, 1]')
  hard_loss = cross_entropy(student, labels)
  bins = student if bins is None else bins
  soft_loss = soft_cross_entropy(bins, teacher, temperature=temperature)
  if not (isinstance(label_mix, float | int) and label_mix == 0):
    logs = jax.nn.log_softmax(student.astype(jnp.float32) / temperature)
    of_label = jnp.take_along_axis(_told(logs, labels), labels[..., None], -1)
    at_label = -(temperature**2) * of_label.mean()
    soft_loss = (1 - label_mix) * soft_loss + label_mix * at_label
  kl = soft_divergence(bins, teacher, temperature=temperature)
  return soft * soft_loss + hard * hard_loss, dict(kl=kl, hard_loss=hard_loss)


def _soft(student, teacher, temperature, stop):
  """The teacher's probabilities and the student's log-probabilities at this temperature."""
  require(_unknown(temperature) or temperature > 0, f'{temperature=} must be above 0')
  require(
    student.shape == teacher.shape,
    f'logits of the student {student.shape} and of the teacher {teacher.shape} differ; both need '
    'the same classes',
  )
  teacher = jax.lax.stop_gradient(teacher) if stop else teacher
  soft = jax.nn.softmax(teacher.astype(jnp.float32) / temperature)
  return soft, jax.nn.log_softmax(student.astype(jnp.float32) / temperature)


def _mean(by_class):
  return by_class.sum(-1).mean()


def _scale(temperature, scaled: bool):
  if scaled:
    return temperature**2
  if not _unknown(temperature) and temperature > 1:
    warnings.warn(
      f'without T^2 the soft loss at {temperature=} teaches {temperature**2:g} times less: it will '
      'hardly learn beside hard labels (often seen as "does not converge at T = 20")',
      stacklevel=3,
    )
  return 1.0


def _unknown(value) -> bool:
  """Whether value is traced: its checks belong to who made it."""
  return isinstance(value, jax.core.Tracer)
