"""Losses against numbers by hand."""

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from reduction import losses
from reduction.errors import UsageError

LOGITS = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]))
LABELS = jnp.array([0, 1])


def test_cross_entropy_and_accuracy_by_hand():
  labels = jnp.array([0, 1])
  assert losses.cross_entropy(LOGITS, labels) == pytest.approx(-np.log([0.5, 0.2]).mean())
  assert losses.accuracy(LOGITS, labels) == 0.5


def test_the_last_token_of_a_text_has_no_label():
  logits = np.random.default_rng(0).normal(size=(2, 4, 5)).astype(np.float32)
  labels = np.array([[0, 3, 1], [4, 4, 2]])
  flat = logits[:, :3].reshape(6, 5), labels.reshape(6)
  np.testing.assert_allclose(losses.cross_entropy(logits, labels), losses.cross_entropy(*flat))
  assert losses.accuracy(logits, labels) == losses.accuracy(*flat)
  value, told = losses.distillation(logits, -logits, labels, temperature=2.0, label_mix=0.5)
  logs = jax.nn.log_softmax(logits / 2)
  at_label = -4 * np.mean([logs[i, j, labels[i, j]] for i in range(2) for j in range(3)])
  soft = losses.soft_cross_entropy(logits, -logits, temperature=2.0)
  np.testing.assert_allclose(value, 0.5 * soft + 0.5 * at_label, rtol=1e-6)
  np.testing.assert_allclose(told['hard_loss'], losses.cross_entropy(*flat), rtol=1e-6)


def test_half_precision_logits_are_summed_in_float32():
  logits = jnp.zeros((1, 4096), jnp.bfloat16)
  value = losses.cross_entropy(logits, jnp.array([0]))
  assert value.dtype == jnp.float32 and value == pytest.approx(np.log(4096))


@pytest.mark.parametrize('loss', [
  lambda z, t: losses.soft_cross_entropy(z, t, temperature=4.0),
  lambda z, t: losses.soft_divergence(z, t, temperature=4.0),
  lambda z, t: losses.distillation(z, t, jnp.array([7]), temperature=4.0, hard=0.5)[0],
])  # fmt: skip
def test_half_precision_soft_losses_are_those_of_float32(loss):
  student, teacher = (
    jnp.asarray(np.random.default_rng(i).normal(size=(1, 4096)), jnp.bfloat16) for i in (0, 1)
  )
  value = loss(student, teacher)
  exact = loss(*(z.astype(jnp.float32) for z in (student, teacher)))
  assert value.dtype == jnp.float32 and value == pytest.approx(float(exact), rel=1e-6)


def test_soft_cross_entropy_by_hand_and_against_hard_labels():
  teacher = jnp.log(jnp.array([[0.8, 0.1, 0.1], [0.2, 0.2, 0.6]]))
  p, q = np.exp(np.asarray(teacher)), np.exp(np.asarray(LOGITS))
  assert losses.soft_cross_entropy(LOGITS, teacher) == pytest.approx(-(p * np.log(q)).sum(1).mean())
  sure = 1e3 * jax.nn.one_hot(jnp.array([0, 1]), 3)
  assert losses.soft_cross_entropy(LOGITS, sure) == pytest.approx(
    float(losses.cross_entropy(LOGITS, jnp.array([0, 1])))
  )


def test_the_temperature_keeps_the_size_of_the_gradient():
  teacher = jnp.array([[0.3, -0.2, 0.1]])
  grad = lambda t: jax.grad(lambda z: losses.soft_cross_entropy(z, teacher, temperature=t))(
    jnp.array([[0.1, 0.0, -0.2]])
  )
  # for T far above the logits the gradient is (z - v) / classes, whatever T is: section 2.1
  z, v = np.array([0.1, 0.0, -0.2]), np.array([0.3, -0.2, 0.1])
  limit = ((z - z.mean()) - (v - v.mean())) / 3
  for t in 50.0, 500.0:
    np.testing.assert_allclose(grad(t)[0], limit, atol=2e-3)


def test_the_teacher_gets_no_gradient():
  soft = lambda teacher: losses.soft_cross_entropy(LOGITS, teacher, temperature=4.0)
  assert not jax.grad(soft)(LOGITS).any()
  check_grads(lambda z: losses.soft_cross_entropy(z, LOGITS, temperature=4.0), (LOGITS + 1,), 1)


@pytest.mark.parametrize('temperature', [0.0, -1.0, float('nan')])
def test_a_temperature_that_is_none_is_refused(temperature):  # fault 18
  with pytest.raises(UsageError, match=r'temperature=.* must be above 0'):
    losses.soft_cross_entropy(LOGITS, LOGITS, temperature=temperature)


@pytest.mark.parametrize('weight', [-0.1, float('nan')])
@pytest.mark.parametrize('name', ['soft', 'hard'])
def test_a_negative_weight_is_refused(name, weight):  # fault 18
  with pytest.raises(UsageError, match=f'the {name} weight {weight} must not be negative'):
    losses.distillation(LOGITS, LOGITS, LABELS, temperature=1.0, **{name: weight})


@pytest.mark.parametrize('mix', [-0.1, 1.1])
def test_a_label_mix_outside_0_1_is_refused(mix):
  with pytest.raises(UsageError, match=r'label_mix=.* must lie in'):
    losses.distillation(LOGITS, LOGITS, LABELS, temperature=1.0, label_mix=mix)


def test_other_classes_are_refused():
  with pytest.raises(UsageError, match=r'student \(2, 3\) and of the teacher \(2, 4\) differ'):
    losses.soft_cross_entropy(LOGITS, jnp.zeros((2, 4)))


def test_a_soft_loss_without_its_scale_warns_above_1():
  with pytest.warns(UserWarning, match='without T.2 the soft loss at temperature=20.0 teaches 400'):
    losses.soft_cross_entropy(LOGITS, LOGITS, temperature=20.0, scaled=False)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    losses.soft_cross_entropy(LOGITS, LOGITS, temperature=1.0, scaled=False)


RANDOM = np.random.default_rng(0)
STUDENT = jnp.asarray(2 * RANDOM.standard_normal((8, 10)), jnp.float32)
TEACHER = jnp.asarray(6 * RANDOM.standard_normal((8, 10)), jnp.float32)
T = 4.0


def plainly():
  """(p log p, p log q) [n, classes] at T, in float64 and without the functions under test."""
  p, q = (np.exp(np.asarray(z, np.float64) / T) for z in (TEACHER, STUDENT))
  p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
  return p * np.log(p), p * np.log(q)


@pytest.mark.parametrize(
  'toolkit, theirs, ours',
  [
    # KLDivLoss(reduction='sum') * T^2 / batch
    ('RepDistiller', lambda own, cross: T**2 * (own - cross).sum() / 8, 1.0),
    # the sum over classes, its mean over examples, times T^2: mdistiller and big_vision too
    ('tunix', lambda own, cross: (own - cross).sum(1).mean() * T**2, 1.0),
    # 'batchmean' and T^2, but only beside a hard loss; alone it drops T^2
    ('torchdistill with labels', lambda own, cross: T**2 * (own - cross).sum(1).mean(), 1.0),
    ('torchdistill without', lambda own, cross: (own - cross).sum(1).mean(), 1 / T**2),
    # KLDivLoss() averages over classes too: FedKD's authors, PFLlib, AIJack
    ('element mean', lambda own, cross: (own - cross).mean(), 1 / (10 * T**2)),
  ],
)
def test_the_scale_beside_that_of_other_toolkits(toolkit, theirs, ours):
  divergence = float(losses.soft_divergence(STUDENT, TEACHER, temperature=T))
  assert theirs(*plainly()) == pytest.approx(ours * divergence, rel=1e-5), toolkit
  if toolkit == 'torchdistill without':
    bare = losses.soft_divergence(STUDENT, TEACHER, temperature=1.0, scaled=False)
    assert bare == losses.soft_divergence(STUDENT, TEACHER, temperature=1.0)


def test_the_scale_beside_textbrewers_cross_entropy():  # kd_ce_loss: no T^2, entropy included
  ours = float(losses.soft_cross_entropy(STUDENT, TEACHER, temperature=T))
  assert -plainly()[1].sum(1).mean() == pytest.approx(ours / T**2, rel=1e-5)


def test_divergence_is_cross_entropy_less_the_teachers_own():
  own, _ = plainly()
  both = [f(STUDENT, TEACHER, temperature=T) for f in (
    losses.soft_cross_entropy, losses.soft_divergence)]  # fmt: skip
  assert float(both[0] - both[1]) == pytest.approx(-(T**2) * own.sum(1).mean(), rel=1e-5)
  assert losses.soft_divergence(TEACHER, TEACHER, temperature=T) == pytest.approx(0, abs=1e-5)
  assert both[1] >= 0
  sure = jnp.array([[200.0, 0.0, -200.0]])  # a probability that underflows
  assert np.isfinite(losses.soft_divergence(jnp.zeros((1, 3)), sure))


def test_the_gradient_converges_to_that_of_matching_logits():
  centered = lambda z: z - z.mean(1, keepdims=True)
  limit = (centered(STUDENT) - centered(TEACHER)) / 10 / 8  # (z - v) / (N T^2), T^2 taken out
  gaps = []
  for t in (8.0, 20.0, 100.0, 1000.0):
    grad = jax.grad(lambda z, t=t: losses.soft_cross_entropy(z, TEACHER, temperature=t))(STUDENT)
    gaps.append(float(jnp.linalg.norm(grad - limit) / jnp.linalg.norm(limit)))
  assert gaps[-1] < 0.01
  assert all(3 < a / b < 15 for a, b in itertools.pairwise(gaps[1:]))  # falls as 1 / T
  matched = 0.5 * float(((centered(STUDENT) - centered(TEACHER)) ** 2).sum(1).mean()) / 10
  far = float(losses.soft_divergence(STUDENT, TEACHER, temperature=300.0))
  assert far == pytest.approx(matched, rel=0.05)


def test_distillation_mixes_by_its_weights_and_logs_what_it_mixed():
  labels = jnp.arange(8)
  mix = lambda **weights: losses.distillation(STUDENT, TEACHER, labels, temperature=T, **weights)
  hard, soft = losses.cross_entropy(STUDENT, labels), losses.soft_cross_entropy(
    STUDENT, TEACHER, temperature=T)  # fmt: skip
  value, told = mix(soft=0.7, hard=0.3)
  assert value == pytest.approx(0.7 * float(soft) + 0.3 * float(hard), rel=1e-6)
  assert told['hard_loss'] == hard and told['kl'] > 0
  assert mix(soft=0.0, hard=1.0)[0] == hard and mix()[0] == soft
  # targets that are all label: T^2 times the cross-entropy at T
  labels_only = mix(label_mix=1.0)[0]
  assert labels_only == pytest.approx(T**2 * float(losses.cross_entropy(STUDENT / T, labels)))


def test_traced_temperatures_and_weights_compile_once():
  traced = []

  @jax.jit
  def loss(z, temperature, weight):
    traced.append(1)
    return losses.distillation(z, TEACHER, jnp.arange(8), temperature=temperature, soft=weight)[0]

  values = [float(loss(STUDENT, t, 0.5)) for t in (1.0, 4.0)]
  alone = losses.soft_cross_entropy(STUDENT, TEACHER, temperature=4.0)
  assert len(traced) == 1 and values[1] == pytest.approx(0.5 * float(alone), rel=1e-6)


def test_the_students_gradient_reaches_a_teacher_only_where_asked():
  soft = lambda teacher, stop: losses.soft_divergence(STUDENT, teacher, stop=stop)
  assert not jax.grad(soft)(TEACHER, True).any() and jax.grad(soft)(TEACHER, False).any()
