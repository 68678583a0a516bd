"""Losses beside soft targets: of hidden layers, of relations between examples, of logits.

Pure functions (student, teacher, ...) -> a scalar, float32 inside; the teacher gets no gradient.
Each says what it averages, which decides what a weight means, and whose weight is its default.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from reduction import losses
from reduction.errors import require


def hint(student, teacher) -> jax.Array:
  """Half the squared difference, averaged over all entries. Both [n, ..., width].

  FitNets (Romero et al. 2015, 1412.6550), eq. 3, jointly with the other losses, not before them.
  Weight: mdistiller and RepDistiller give 100 to the square without the half.
  """
  return tinybert(student, teacher) / 2


def attention(student, teacher) -> jax.Array:
  """The mean squared difference of maps: squares averaged over channels, each map of length 1.

  Both [n, ..., channels], such as [n, h, w, channels]; blocks of the larger are averaged to the
  smaller's size. Zagoruyko & Komodakis 2017 (1612.03928), p = 2. Weight 1000: RepDistiller.
  """
  student, teacher = _pair(student, teacher)
  require(
    student.ndim == teacher.ndim > 2,
    f'attention needs maps [n, h, w, channels], not {student.shape} and {teacher.shape}',
  )
  size = tuple(map(min, student.shape[1:-1], teacher.shape[1:-1]))
  maps = [_unit(_flat(jnp.square(_pooled(x, size)).mean(-1))) for x in (student, teacher)]
  return jnp.square(maps[0] - maps[1]).mean()


def rkd_distance(student, teacher) -> jax.Array:
  """Smooth L1 between distances of examples, each net's divided by their mean.

  Both [n, ...], of any widths; averaged over all n^2 pairs. It holds n^2 width numbers: for layers
  of some hundred units. Park et al. 2019 (1904.05068), eq. 6. Weight 25: RepDistiller.
  """
  return optax.huber_loss(*map(_distances, _pair(student, teacher))).mean()


def rkd_angle(student, teacher) -> jax.Array:
  """Smooth L1 between the cosines of the angles that three examples make, over all n^3 triplets.

  Both [n, ...], of any widths; for the memory see `rkd_distance`. Park et al. 2019, eq. 9. Weight
  50: RepDistiller.
  """
  return optax.huber_loss(*map(_angles, _pair(student, teacher))).mean()


def similarity(student, teacher) -> jax.Array:
  """Squared difference of the inner products of examples, rows of length 1, averaged over all n^2.

  Both [n, ...], of any widths. Tung & Mori 2019 (1907.09682), eq. 4. Weight 3000: RepDistiller.
  """
  grams = [_unit(_flat(x) @ _flat(x).T) for x in _pair(student, teacher)]
  return jnp.square(grams[0] - grams[1]).mean()


def patient(student, teacher) -> jax.Array:
  """The squared distance of hidden vectors of length 1, summed over units. Both [n, ..., width].

  BERT-PKD (Sun et al. 2019, 1908.09355), eq. 7. Weight 1: the authors search 10 to 1000, but their
  code averages over the 768 units too, so that it is 0.013 to 1.3 here.
  """
  student, teacher = _pair(student, teacher, equal=True)
  return jnp.square(_unit(student) - _unit(teacher)).sum(-1).mean()


def tinybert(student, teacher) -> jax.Array:
  """The squared difference of hidden states, averaged over all entries. Both [n, ..., width].

  Jiao et al. 2020 (1909.10351), eq. 8. Weight 1: theirs.
  """
  student, teacher = _pair(student, teacher, equal=True)
  return jnp.square(student - teacher).mean()


def attention_scores(student, teacher) -> jax.Array:
  """The squared difference of attention scores before the softmax, averaged over all entries.

  Both [n, heads, queries, keys]. Scores of -100 and less, which are masked, count as 0, as in the
  authors' code. Jiao et al. 2020, eq. 7. Weight 1: theirs.
  """
  student, teacher = _pair(student, teacher, equal=True)
  seen = lambda scores: jnp.where(scores <= -100, 0.0, scores)
  return jnp.square(seen(student) - seen(teacher)).mean()


def cosine(student, teacher) -> jax.Array:
  """1 - the cosine of the angle between hidden states, on average. Both [n, ..., width].

  DistilBERT (Sanh et al. 2019, 1910.01108). Weight 1: theirs, beside 5 of soft targets.
  """
  student, teacher = _pair(student, teacher, equal=True)
  return (1 - (_unit(student) * _unit(teacher)).sum(-1)).mean()


def contrastive(student, teacher, *, temperature: float = 0.07, memory=None) -> jax.Array:
  """Cross-entropy of finding an example's own teacher among all teachers of the batch, by cosine.

  Both [n, ...]; memory: [m, ...] more of the teacher's vectors, of any examples: where one is an
  example's own, it is no negative of it. A light CRD (Tian et al. 2020, 1910.10699): that draws
  16,384 negatives from a bank of all training examples, updated with momentum 0.5, maps both nets
  to 128 units, scores each negative by itself and looks both ways; here the n - 1 others of the
  batch and the m are the negatives of one softmax, from student to teacher. Weight 0.8 and
  temperature: theirs.
  """
  student, teacher = (_unit(_flat(x)) for x in _pair(student, teacher, equal=True))
  found = student @ teacher.T
  if memory is not None:
    more = _unit(_flat(jax.lax.stop_gradient(memory.astype(jnp.float32))))
    own = teacher @ more.T > 1 - 1e-5
    found = jnp.concatenate([found, jnp.where(own, -jnp.inf, student @ more.T)], 1)
  return losses.cross_entropy(found / temperature, jnp.arange(len(student)))


class Loss(NamedTuple):
  """A loss, its default weight, and whether it compares unit by unit: widths must be fitted."""

  function: Callable
  weight: float
  fitted: bool = False


LOSSES = dict(
  hint=Loss(hint, 2 * 100.0, fitted=True),  # theirs stands before the whole square
  attention=Loss(attention, 1000.0),
  rkd_distance=Loss(rkd_distance, 25.0),
  rkd_angle=Loss(rkd_angle, 50.0),
  similarity=Loss(similarity, 3000.0),
  patient=Loss(patient, 1.0, fitted=True),
  tinybert=Loss(tinybert, 1.0, fitted=True),
  attention_scores=Loss(attention_scores, 1.0),
  cosine=Loss(cosine, 1.0, fitted=True),
  contrastive=Loss(contrastive, 0.8, fitted=True),
)


def dkd(student, teacher, labels, *, temperature=4.0, alpha=1.0, beta=8.0) -> jax.Array:
  """T^2 (alpha TCKD + beta NCKD): the label's probability, and the distribution over the others.

  student, teacher: logits [n, classes]; labels: int [n]. At T = 1 the whole divergence is TCKD +
  (1 - the teacher's probability of the label) NCKD, so beta is what a sure teacher would silence.
  Zhao et al. 2022 (2203.08679), eq. 7; defaults: mdistiller, beside hard labels of weight 1, and
  ramped up over 20 epochs. Raises UsageError for T <= 0 and for two classes.
  """
  classes = student.shape[-1]
  require(classes > 2, f"{classes} classes leave dkd one beside the label: no NCKD; use 'soft'")
  label = jax.nn.one_hot(labels, classes, dtype=bool)

  def parts(logs):  # as logarithms: a sure teacher's 1 - p is 0 in float32
    own = jnp.where(label, logs, 0.0).sum(-1)
    rest = jax.nn.logsumexp(logs, -1, where=~label)
    return jnp.stack([own, rest], -1), jnp.where(label, 0.0, logs - rest[..., None])

  of_student, of_teacher = map(parts, _logs(student, teacher, temperature))
  target, others = (_divergence(p, q).mean() for p, q in zip(of_teacher, of_student))
  return temperature**2 * (alpha * target + beta * others)


def reverse_divergence(student, teacher, *, temperature=1.0) -> jax.Array:
  """T^2 KL(student || teacher), averaged over examples or tokens. Logits [..., classes].

  It keeps to some of the teacher's modes where the forward one, `losses.soft_divergence`, covers
  all. MiniLLM (Gu et al. 2024, 2306.08543).
  """
  student, teacher = _logs(student, teacher, temperature)
  return temperature**2 * _divergence(student, teacher).mean()


def jensen_shannon(student, teacher, *, beta: float = 0.5, temperature=1.0) -> jax.Array:
  """T^2 (beta KL(t || m) + (1 - beta) KL(s || m)) where m = beta t + (1 - beta) s.

  t, s: softmax of the logits [..., classes] / T. At most T^2 times the entropy of (beta, 1 - beta).
  Over beta it tends to the forward divergence as beta falls to 0, over 1 - beta to the reverse one
  as it rises to 1. GKD (Agarwal et al. 2024, 2306.13649), section 3.
  """
  require(0 < beta < 1, f"{beta=} must lie in (0, 1); its limits are 'soft' and 'reverse'")
  student, teacher = _logs(student, teacher, temperature)
  mean = jnp.logaddexp(jnp.log(beta) + teacher, jnp.log1p(-beta) + student)
  both = beta * _divergence(teacher, mean) + (1 - beta) * _divergence(student, mean)
  return temperature**2 * both.mean()


def standardized_divergence(student, teacher, *, temperature=1.0) -> jax.Array:
  """`losses.soft_divergence` of logits that have mean 0 and variance 1 over their classes.

  [..., classes]: a student need not have its teacher's range. Sun et al. 2024 (2403.01643).
  """
  return losses.soft_divergence(*map(standardized, (student, teacher)), temperature=temperature)


def standardized(logits) -> jax.Array:
  """(z - mean) / (1e-7 + std) over the classes [..., classes]; std divides by their number."""
  logits = logits.astype(jnp.float32)
  return (logits - logits.mean(-1, keepdims=True)) / (1e-7 + logits.std(-1, keepdims=True))


def _pair(student, teacher, equal: bool = False):
  """Both in float32, the teacher without gradient; UsageError where shapes do not fit."""
  same = student.shape == teacher.shape if equal else len(student) == len(teacher)
  require(same, f'shapes {student.shape} of the student and {teacher.shape} of the teacher differ')
  return student.astype(jnp.float32), jax.lax.stop_gradient(teacher.astype(jnp.float32))


def _logs(student, teacher, temperature):
  """Log-probabilities of both at this temperature."""
  traced = isinstance(temperature, jax.core.Tracer)
  require(traced or temperature > 0, f'{temperature=} must be above 0')
  return [jax.nn.log_softmax(x / temperature) for x in _pair(student, teacher, equal=True)]


def _divergence(p, q):
  """KL(p || q) of log-probabilities [..., classes]."""
  return (jnp.exp(p) * (p - q)).sum(-1)


_flat = lambda x: x.reshape(len(x), -1)
_differences = lambda x: _flat(x)[None] - _flat(x)[:, None]  # [n, n, width]


def _unit(x):
  """Rows of length 1; one of zeros stays, and has no gradient instead of an infinite one."""
  square = jnp.square(x).sum(-1, keepdims=True)
  some = square > 1e-24
  return some * x * jax.lax.rsqrt(jnp.where(some, square, 1.0))


def _pooled(x, size: tuple[int, ...]):
  """x [n, ..., channels] with the axes between averaged, in blocks, to size."""
  for axis, (have, want) in enumerate(zip(x.shape[1:-1], size), 1):
    require(have % want == 0, f'a map of size {have} has no even blocks for size {want}')
    x = x.reshape(*x.shape[:axis], want, have // want, *x.shape[axis + 1 :]).mean(axis + 1)
  return x


def _distances(x):
  square = jnp.square(_differences(x)).sum(-1)
  some = square > 0  # the root of 0 has an infinite gradient
  distances = some * jnp.sqrt(jnp.where(some, square, 1.0))
  return distances * some.sum() / jnp.maximum(distances.sum(), 1e-12)


def _angles(x):
  directions = _unit(_differences(x))
  return jnp.einsum('abd,acd->abc', directions, directions)
