"""Each loss against a plain form or a number by hand, and what it must not see."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from reduction import losses
from reduction.distill import features
from reduction.distill.features import LOSSES
from reduction.errors import UsageError

RNG = np.random.default_rng(0)
N, WIDTH, CLASSES = 5, 4, 6


def draw(*shape):
  return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


SHAPES = dict(attention=(N, 3, 3, WIDTH), attention_scores=(N, 2, 3, 3))
PAIRS = {name: (draw(*SHAPES.get(name, (N, WIDTH))), draw(*SHAPES.get(name, (N, WIDTH))))
         for name in LOSSES}  # fmt: skip
LOGITS, TAUGHT, LABELS = 2 * draw(N, CLASSES), 2 * draw(N, CLASSES), jnp.arange(N)
ROTATION = jnp.asarray(np.linalg.qr(RNG.standard_normal((WIDTH, WIDTH)))[0], jnp.float32)


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def smooth(a, b):
  d = np.abs(np.array(a) - np.array(b))
  return np.where(d < 1, d * d / 2, d - 0.5).sum()


def attention_map(x):
  return unit((x**2).mean(-1).reshape(len(x), -1))


def distances(x):
  each = np.array([[np.sqrt(((a - b) ** 2).sum()) for b in x] for a in x])
  return each / each[each > 0].mean()


def angles(x):
  """Cosines at the first of three different examples."""
  return [unit(b - a) @ unit(c - a)
          for i, a in enumerate(x) for j, b in enumerate(x) for k, c in enumerate(x)
          if i not in (j, k)]  # fmt: skip


def found_by_softmax(s, t):
  scores = unit(s) @ unit(t).T / 0.07
  return np.mean([np.log(np.exp(row - row[i]).sum()) for i, row in enumerate(scores)])


PLAIN = dict(
  hint=lambda s, t: ((s - t) ** 2).sum() / (2 * N * WIDTH),
  attention=lambda s, t: ((attention_map(s) - attention_map(t)) ** 2).sum() / (N * 9),
  rkd_distance=lambda s, t: smooth(distances(s), distances(t)) / N**2,
  rkd_angle=lambda s, t: smooth(angles(s), angles(t)) / N**3,
  similarity=lambda s, t: np.linalg.norm(unit(s @ s.T) - unit(t @ t.T)) ** 2 / N**2,
  patient=lambda s, t: ((unit(s) - unit(t)) ** 2).sum() / N,
  tinybert=lambda s, t: ((s - t) ** 2).sum() / (N * WIDTH),
  attention_scores=lambda s, t: ((s - t) ** 2).sum() / s.size,
  cosine=lambda s, t: 1 - np.mean([a @ b for a, b in zip(unit(s), unit(t))]),
  contrastive=found_by_softmax,
)
LOGIT_LOSSES = dict(
  dkd=lambda s, t: features.dkd(s, t, LABELS),
  reverse=lambda s, t: features.reverse_divergence(s, t, temperature=2.0),
  jsd=lambda s, t: features.jensen_shannon(s, t, beta=0.3, temperature=2.0),
)
FUNCTIONS = {name: loss.function for name, loss in LOSSES.items()} | LOGIT_LOSSES
PAIRS |= dict.fromkeys(LOGIT_LOSSES, (LOGITS, TAUGHT))


@functools.cache
def program(name):
  """(student, teacher) -> (loss, gradients of both), compiled once for all tests."""
  return jax.jit(jax.value_and_grad(FUNCTIONS[name], (0, 1)))


def value(name, student, teacher):
  return float(program(name)(student, teacher)[0])


@pytest.mark.parametrize('name', LOSSES)
def test_a_loss_is_its_plain_form(name):
  plain = PLAIN[name](*(np.asarray(x, np.float64) for x in PAIRS[name]))
  assert value(name, *PAIRS[name]) == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize('name', FUNCTIONS)
def test_the_teacher_gets_no_gradient_and_the_student_a_right_one(name):
  student, teacher = PAIRS[name]
  slope, none = program(name)(student, teacher)[1]
  assert not np.asarray(none).any()
  toward = draw(*student.shape)
  ahead, behind = (value(name, student + h * toward, teacher) for h in (1e-2, -1e-2))
  assert (ahead - behind) / 2e-2 == pytest.approx(float((slope * toward).sum()), rel=2e-2, abs=1e-4)


@pytest.mark.parametrize('name', ['similarity', 'dkd', 'jsd'])
def test_gradients_hold_in_every_direction(name):
  function, (student, teacher) = jax.jit(FUNCTIONS[name]), PAIRS[name]
  check_grads(lambda s: function(s, teacher), (student,), 1, ('rev',), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize('name', sorted(set(FUNCTIONS) - {'contrastive'}))
def test_a_student_that_is_its_teacher_has_no_loss(name):
  teacher = PAIRS[name][1]
  assert value(name, teacher, teacher) == pytest.approx(0, abs=2e-6)
  assert value(name, teacher + 0.3 * jnp.sin(7 * teacher), teacher) > 1e-5


@pytest.mark.parametrize('name', ['tinybert', 'similarity', 'contrastive', 'reverse'])
def test_bfloat16_is_computed_in_float32(name):
  coarse = [x.astype(jnp.bfloat16) for x in PAIRS[name]]
  found = jax.jit(FUNCTIONS[name])(*coarse)
  assert found.dtype == jnp.float32
  fine = value(name, *(x.astype(jnp.float32) for x in coarse))
  assert found == pytest.approx(fine, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize('name', LOSSES)
def test_dead_units_and_equal_examples_have_finite_gradients(name):
  student, teacher = PAIRS[name]
  for dead in (jnp.zeros_like(student), student.at[0].set(0.0), student.at[1].set(student[0])):
    assert np.isfinite(program(name)(dead, teacher)[1][0]).all()


@pytest.mark.parametrize(
  'name, change',
  [
    ('rkd_distance', lambda x: 3 * x @ ROTATION + 2),
    ('rkd_angle', lambda x: 3 * x @ ROTATION + 2),
    ('similarity', lambda x: 3 * x @ ROTATION),
    ('attention', lambda x: x * jnp.arange(1.0, N + 1)[:, None, None, None]),
    ('attention', lambda x: x @ ROTATION),  # channels may be named otherwise
    ('patient', lambda x: x * jnp.arange(1.0, N + 1)[:, None]),
    ('cosine', lambda x: x * jnp.arange(1.0, N + 1)[:, None]),
    ('contrastive', lambda x: x * jnp.arange(1.0, N + 1)[:, None]),
  ],
)
def test_what_a_loss_does_not_see(name, change):
  student, teacher = PAIRS[name]
  before = value(name, student, teacher)
  assert value(name, change(student), teacher) == pytest.approx(before, rel=1e-3)
  assert value(name, student, change(teacher)) == pytest.approx(before, rel=1e-3)
  assert before > 1e-3


def test_relations_compare_nets_of_any_width():
  teacher = PAIRS['similarity'][1]
  wide = jnp.concatenate([teacher, jnp.zeros((N, 3))], 1)  # the same relations
  for name in ('rkd_distance', 'rkd_angle', 'similarity'):
    assert jax.jit(FUNCTIONS[name])(wide, teacher) == pytest.approx(0, abs=1e-6)
  for name in (n for n, loss in LOSSES.items() if loss.fitted):
    with pytest.raises(UsageError, match=r'shapes \(5, 7\) of the student and \(5, 4\)'):
      LOSSES[name].function(wide, teacher)


def test_the_larger_map_is_averaged_to_the_smaller():
  small, large = draw(2, 2, 3, 4), draw(2, 4, 3, 5)
  pooled = (large[:, ::2] + large[:, 1::2]) / 2
  attention = jax.jit(features.attention)
  for pair in (small, large), (large, small):
    assert attention(*pair) == pytest.approx(float(attention(small, pooled)), rel=1e-5)
  with pytest.raises(UsageError, match='size 3 has no even blocks for size 2'):
    features.attention(draw(2, 3, 3, 4), draw(2, 2, 2, 4))
  with pytest.raises(UsageError, match=r'attention needs maps \[n, h, w, channels\], not \(5, 4\)'):
    features.attention(*PAIRS['hint'])


def test_masked_attention_scores_teach_nothing():
  student, teacher = PAIRS['attention_scores']
  hide = lambda x, low: x.at[..., -1].set(low)
  seen = value('attention_scores', hide(student, 0.0), hide(teacher, 0.0))
  assert value('attention_scores', hide(student, -1e4), hide(teacher, -jnp.inf)) == seen


def test_the_own_teacher_is_the_one_to_find():
  teacher = draw(5, 16)
  orders = jnp.array(list(itertools.permutations(range(5))))
  found = jax.jit(jax.vmap(lambda order: features.contrastive(teacher[order], teacher)))(orders)
  assert found.argmin() == 0  # the first order changes nothing
  # n equal vectors cannot be told apart: log n
  same = jnp.ones((N, WIDTH))
  assert value('contrastive', same, same) == pytest.approx(np.log(N), rel=1e-6)


def test_remembered_teachers_are_more_to_tell_apart():
  student, teacher = PAIRS['contrastive']
  program = jax.jit(jax.value_and_grad(
    lambda memory: features.contrastive(student, teacher, memory=memory)
  ))  # fmt: skip
  harder, slope = program(draw(7, WIDTH))
  assert harder > value('contrastive', student, teacher) and not np.asarray(slope).any()
  # of the teachers of the batch, each example leaves out its own: the others count twice
  unit = lambda x: np.asarray(x) / np.linalg.norm(x, axis=1, keepdims=True)
  logits = np.exp(unit(student) @ unit(teacher).T / 0.07)
  own = np.diag(logits)
  by_hand = -np.log(own / (2 * logits.sum(1) - own)).mean()
  assert features.contrastive(student, teacher, memory=teacher) == pytest.approx(by_hand, rel=1e-4)


def test_decoupled_parts_are_the_whole_divergence():
  def both(s, t, y):
    weight = 1 - jax.nn.softmax(t)[y]
    parts = features.dkd(s[None], t[None], y[None], temperature=1.0, beta=weight)
    return parts, losses.soft_divergence(s, t)

  parts, whole = jax.jit(jax.vmap(both))(LOGITS, TAUGHT, LABELS)
  np.testing.assert_allclose(parts, whole, rtol=1e-5)


def test_decoupled_parts_by_hand():
  teacher, student = jnp.log(jnp.array([[0.5, 0.375, 0.125]])), jnp.zeros((1, 3))
  program = jax.jit(features.dkd)
  dkd = lambda **settings: program(student, teacher, jnp.array([0]), **settings)
  target = 0.5 * np.log(0.5 * 3) + 0.5 * np.log(0.5 / (2 / 3))
  others = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
  assert dkd(temperature=1.0, beta=0.0) == pytest.approx(target, rel=1e-5)
  assert dkd(temperature=1.0, alpha=0.0, beta=1.0) == pytest.approx(others, rel=1e-5)
  assert dkd(temperature=1.0) == pytest.approx(target + 8 * others, rel=1e-5)
  hot = program(2 * student, 2 * teacher, jnp.array([0]), temperature=2.0)
  assert hot == pytest.approx(4 * (target + 8 * others), rel=1e-5)


def test_a_sure_teacher_and_a_sure_student_are_finite():
  sure = 300 * jax.nn.one_hot(LABELS, CLASSES)
  for student, teacher in (LOGITS, sure), (sure, TAUGHT), (sure, -sure), (-sure, sure):
    for name in LOGIT_LOSSES:
      found, (slope, _) = program(name)(student, teacher)
      assert np.isfinite(found) and np.isfinite(slope).all()


def test_what_decoupling_cannot_do_is_refused():
  with pytest.raises(UsageError, match='2 classes leave dkd one beside the label'):
    features.dkd(LOGITS[:, :2], TAUGHT[:, :2], LABELS % 2)
  with pytest.raises(UsageError, match='temperature=0 must be above 0'):
    features.dkd(LOGITS, TAUGHT, LABELS, temperature=0)
  traced = jax.jit(lambda t: features.dkd(LOGITS, TAUGHT, LABELS, temperature=t))(4.0)
  assert traced == pytest.approx(value('dkd', LOGITS, TAUGHT), rel=1e-5)


@pytest.mark.parametrize('t', [1.0, 3.0])
def test_the_reverse_divergence_is_the_forward_one_of_the_other(t):
  found = features.reverse_divergence(LOGITS, TAUGHT, temperature=t)
  other = losses.soft_divergence(TAUGHT, LOGITS, temperature=t)
  assert found == pytest.approx(float(other), rel=1e-5)


@pytest.mark.parametrize('beta', [0.1, 0.5, 0.8])
def test_the_jensen_shannon_divergence_is_bounded(beta):
  bound = -(beta * np.log(beta) + (1 - beta) * np.log(1 - beta))
  programs = {b: jax.jit(functools.partial(features.jensen_shannon, beta=b))
              for b in (beta, 1 - beta)}  # fmt: skip
  jsd = lambda s, t, beta=beta: float(programs[beta](s, t))
  assert 0 < jsd(LOGITS, TAUGHT) < bound
  apart, others = 200 * jnp.eye(CLASSES)[:N], 200 * jnp.eye(CLASSES)[1:]
  assert jsd(apart, others) == pytest.approx(bound, rel=1e-5)
  assert jsd(LOGITS, TAUGHT) == pytest.approx(jsd(TAUGHT, LOGITS, beta=1 - beta), rel=1e-4)


def test_the_limits_of_the_jensen_shannon_divergence():
  small = 1e-3
  jsd = jax.jit(lambda beta: features.jensen_shannon(LOGITS, TAUGHT, beta=beta), static_argnums=0)
  forward = losses.soft_divergence(LOGITS, TAUGHT)
  reverse = features.reverse_divergence(LOGITS, TAUGHT)
  assert forward != pytest.approx(float(reverse), rel=0.05)
  assert jsd(small) / small == pytest.approx(float(forward), rel=0.02)
  assert jsd(1 - small) / small == pytest.approx(float(reverse), rel=0.02)
  with pytest.raises(UsageError, match=r"beta=1 must lie in \(0, 1\); its limits are 'soft'"):
    features.jensen_shannon(LOGITS, TAUGHT, beta=1)


def test_standardized_logits_keep_only_their_shape():
  found = np.asarray(features.standardized(LOGITS))
  np.testing.assert_allclose(found.mean(-1), 0, atol=1e-6)
  np.testing.assert_allclose(found.std(-1), 1, rtol=1e-5)
  np.testing.assert_allclose(features.standardized(5 * LOGITS + 3), found, rtol=1e-4, atol=1e-5)
  assert not np.asarray(features.standardized(jnp.ones((1, 4)))).any()


def test_default_weights_are_those_of_their_sources():
  weights = {name: loss.weight for name, loss in LOSSES.items()}
  student, teacher = PAIRS['hint']
  # mdistiller's and RepDistiller's 100 mean((s - t)^2), whatever our half
  whole = 100 * float(jnp.square(student - teacher).mean())
  assert weights['hint'] * features.hint(student, teacher) == pytest.approx(whole, rel=1e-6)
  known = dict(attention=1000, rkd_distance=25, rkd_angle=50, similarity=3000, contrastive=0.8)
  known |= dict(patient=1, tinybert=1, attention_scores=1, cosine=1)
  assert weights == known | dict(hint=200)
