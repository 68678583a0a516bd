"""FedKD's losses: the paper's equations, and which gradients go where."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction.errors import UsageError
from reduction.federate import mutual

LABELS = jnp.array([0, 2])
LOGITS = dict(
  teacher=jnp.array([[2.0, 0.5, -1.0], [0.0, 1.0, 1.5]]),
  student=jnp.array([[0.3, 0.2, 0.1], [1.0, -1.0, 0.0]]),
)  # fmt: skip
SEEN = dict(
  teacher={'h': jnp.array([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]])},
  student={'s': jnp.array([[1.0, 0.0], [2.0, 1.0]])},
)  # fmt: skip
W = {'hidden s': jnp.array([[1.0, 1.0, 0.0], [0.0, 1.0, 2.0]])}
PAIRS = (dict(student='s', teacher='h'),)


def parts(logits=LOGITS):
  """(task losses, KLs and squared distance by numpy, the paper's formulas)"""
  p = {n: np.asarray(jax.nn.softmax(x)) for n, x in logits.items()}
  task = {n: -np.log(p[n][[0, 1], np.asarray(LABELS)]).mean() for n in p}
  kl = lambda target, own: (p[target] * np.log(p[target] / p[own])).sum(1).mean()
  apart = np.mean((np.asarray(SEEN['student']['s'] @ W['hidden s']) - SEEN['teacher']['h']) ** 2)
  return task, dict(teacher=kl('student', 'teacher'), student=kl('teacher', 'student')), apart


def total(how, logits=LOGITS, seen=SEEN, w=W):
  return mutual.learned(logits, LABELS, seen, w, how)[0]


@pytest.mark.parametrize('adaptive', [True, False])
def test_the_values_are_the_papers(adaptive):
  task, kl, apart = parts()
  divisor = sum(task.values()) + 1e-2 if adaptive else 1.0
  wanted = sum(task.values()) + (sum(kl.values()) + 2 * apart) / divisor
  how = mutual.lesson(pairs=PAIRS, adaptive=adaptive)
  value, told = mutual.learned(LOGITS, LABELS, SEEN, W, how)
  np.testing.assert_allclose(value, wanted, rtol=1e-5)
  np.testing.assert_allclose(told['teacher_kl'], kl['teacher'], rtol=1e-5)
  np.testing.assert_allclose(told['hidden s'], apart, rtol=1e-5)


def test_each_net_has_the_gradient_of_its_own_loss_alone():
  task, _, _ = parts()
  divisor = sum(task.values()) + 1e-2
  how = mutual.lesson(pairs=PAIRS)
  p = jax.tree.map(jax.nn.softmax, LOGITS)
  hot = jax.nn.one_hot(LABELS, 3)
  got = jax.grad(lambda x: total(how, x))(LOGITS)
  for own, other in ('teacher', 'student'), ('student', 'teacher'):
    wanted = ((p[own] - hot) + (p[own] - p[other]) / divisor) / 2
    np.testing.assert_allclose(got[own], wanted, atol=1e-6)
  ours = SEEN['student']['s'] @ W['hidden s'] - SEEN['teacher']['h']
  got = jax.grad(lambda s: total(how, seen=s))(SEEN)
  np.testing.assert_allclose(got['teacher']['h'], -2 * ours / 6 / divisor, atol=1e-6)
  wanted = 2 * ours @ W['hidden s'].T / 6 / divisor
  np.testing.assert_allclose(got['student']['s'], wanted, atol=1e-6)
  got = jax.grad(lambda w: total(how, w=w))(W)['hidden s']
  np.testing.assert_allclose(got, 2 * SEEN['student']['s'].T @ ours / 6 / divisor, atol=1e-6)


def test_the_authors_joint_loss_has_gradients_through_everything():
  task, kl, _ = parts()
  how = mutual.lesson(authors_code=True, epsilon=0.0)
  wanted = sum(task.values()) + sum(kl.values()) / 3 / sum(task.values())
  np.testing.assert_allclose(total(how), wanted, rtol=1e-5)
  got = jax.grad(lambda x: total(how, x))(LOGITS)['student']
  moved = dict(LOGITS, student=LOGITS['student'].at[0, 1].add(1e-2))
  back = dict(LOGITS, student=LOGITS['student'].at[0, 1].add(-1e-2))
  np.testing.assert_allclose(got[0, 1], (total(how, moved) - total(how, back)) / 2e-2, rtol=1e-2)
  plain = jax.grad(lambda x: total(mutual.lesson(), x))(LOGITS)['student']
  assert abs(float(got[0, 1] - plain[0, 1])) > 1e-3


def test_the_authors_joint_loss_compares_layers_as_they_are():
  """All of it written down: one sum, nothing held still, neither targets nor the divisor, no W."""
  how = mutual.lesson(pairs=(dict(student='s', teacher='h'),), authors_code=True, epsilon=0.0)
  seen = dict(teacher=SEEN['teacher'], student={'s': jnp.array([[0.0, 2.0, 1.0], [1.0, 1.0, 3.0]])})
  assert mutual.projections(how, (), (), None, None, None) == {}

  def joint(logits, seen):
    logs = {n: x - jnp.log(jnp.exp(x).sum(1, keepdims=True)) for n, x in logits.items()}
    one, two = (-(x[0, 0] + x[1, 2]) / 2 for x in logs.values())  # of labels 0 and 2
    t, s = logs['teacher'], logs['student']
    kls = (jnp.exp(s) * (s - t)).sum() + (jnp.exp(t) * (t - s)).sum()
    apart = ((seen['teacher']['h'] - seen['student']['s']) ** 2).sum() / 6
    return one + two + (kls / 2 / 3 + 2 * apart) / (one + two)  # a mean over examples and classes

  found = jax.value_and_grad(lambda x, h: total(how, x, h, {}), (0, 1))(LOGITS, seen)
  wanted = jax.value_and_grad(joint, (0, 1))(LOGITS, seen)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  by_hand = 0.42272 + 1.20477 + (0.17834 + 0.22680 + 2 * 15 / 6) / 1.62750
  assert found[0] == pytest.approx(by_hand, rel=1e-4)


def test_a_task_that_is_learned_does_not_blow_up():
  sure = jnp.array([[999.0, 0, 0], [0, 0, 999.0]])  # both losses are 0, and so is D
  both = lambda how: jax.value_and_grad(lambda x: total(how, x, w={}))(
    dict(teacher=sure, student=2 * sure)
  )
  value, grads = both(mutual.lesson())
  assert np.isfinite(value) and all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
  assert not np.isfinite(both(mutual.lesson(epsilon=0.0))[0])


def test_heatmaps_are_shares_of_attention():
  how = mutual.lesson(pairs=(dict(student='a/scores', teacher='b/scores', kind='attention'),))
  scores = jnp.zeros((1, 2, 2, 2)).at[0, 0, 0, 0].set(jnp.log(3.0))
  seen = dict(teacher={'b/scores': scores + 5.0}, student={'a/scores': jnp.zeros((1, 2, 2, 2))})
  _, told = mutual.learned(LOGITS, LABELS, seen, {}, how)
  np.testing.assert_allclose(told['attention a/scores'], 2 * 0.25**2 / 8, rtol=1e-5)


def test_layers_of_one_width_begin_as_they_are():
  how = mutual.lesson(pairs=(dict(student='h', teacher='h'),))
  look = lambda width, params, stats, x: (None, {'h': jnp.ones((1, width))})
  made = lambda width: mutual.projections(
    how, (4, {}, {}), (width, {}, {}), None, jax.random.key(0), look
  )['hidden h']
  np.testing.assert_array_equal(made(4), np.eye(4))
  assert made(3).shape == (3, 4) and np.asarray(made(3)).std() > 0.1


def test_wrong_lessons_are_refused():
  for wrong, says in (
    (dict(pairs=(dict(student='a'),)), 'must name student and teacher'),
    (dict(pairs=(dict(student='a', teacher='b', loss='x'),)), "no 'loss'"),
    (dict(pairs=PAIRS * 2), 'a layer twice'), (dict(weight=-1.0), 'weight=-1.0'),
    (dict(pairs=(dict(PAIRS[0], kind='map'),)), "'map' must be one of"),
  ):  # fmt: skip
    with pytest.raises(UsageError, match=says):
      mutual.lesson(**wrong)
  with pytest.raises(UsageError, match='differ; authors_code'):
    total(mutual.lesson(pairs=PAIRS), w={})
