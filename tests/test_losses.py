"""Losses against numbers by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from reduction import losses
from reduction.errors import UsageError

LOGITS = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]))


def test_cross_entropy_and_accuracy_by_hand():
  labels = jnp.array([0, 1])
  assert losses.cross_entropy(LOGITS, labels) == pytest.approx(-np.log([0.5, 0.2]).mean())
  assert losses.accuracy(LOGITS, labels) == 0.5


def test_half_precision_logits_are_summed_in_float32():
  logits = jnp.zeros((1, 4096), jnp.bfloat16)
  value = losses.cross_entropy(logits, jnp.array([0]))
  assert value.dtype == jnp.float32 and value == pytest.approx(np.log(4096))


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


@pytest.mark.parametrize('weight', [-0.1, 1.5, float('nan')])
def test_a_weight_outside_0_1_is_refused(weight):  # fault 18
  with pytest.raises(UsageError, match=r'weight=.* must lie in \[0, 1\]'):
    losses.mixed(1.0, 2.0, weight=weight)
  assert losses.mixed(1.0, 2.0, weight=0.25) == 1.25


def test_other_classes_are_refused():
  with pytest.raises(UsageError, match=r'\(2, 3\) and \(2, 4\) differ'):
    losses.soft_cross_entropy(LOGITS, jnp.zeros((2, 4)))
