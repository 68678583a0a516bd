"""Language models taught on their own words: the drawing and the loss, by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction.distill.policy import DIRECTIONS, on_policy, sampled
from reduction.errors import UsageError
from reduction.update import optimizer, sgd

WORDS = 5


class Bigram(nn.Module):
  """The next token by the last one alone."""

  @nn.compact
  def __call__(self, tokens, train=False):
    return nn.Embed(WORDS, WORDS, name='next')(tokens)


def params(table):
  return dict(next=dict(embedding=jnp.asarray(table, jnp.float32)))


TABLE = np.random.default_rng(0).standard_normal((WORDS, WORDS))
OTHER = np.random.default_rng(1).standard_normal((WORDS, WORDS))
TOKENS = jnp.array([[0, 1, 2, 3, 4, 0], [3, 3, 1, 0, 2, 4]])
FIRST = jnp.array([2, 4])


def test_what_is_given_stays_and_each_word_follows_from_the_last():
  sure = jnp.full((WORDS, WORDS), -50.0).at[jnp.arange(WORDS), (jnp.arange(WORDS) + 2) % 5].set(50)
  got = jax.jit(lambda key: sampled(lambda t: sure[t], TOKENS, FIRST, key))(jax.random.key(0))
  assert got.tolist() == [[0, 1, 3, 0, 2, 4], [3, 3, 1, 0, 2, 4]]  # from 1: 3, 0, 2, 4; from 0: 2


@pytest.mark.parametrize('temperature', [1.0, 2.0])
def test_words_are_drawn_as_often_as_the_student_says(temperature):
  tokens = jnp.zeros((20_000, 3), jnp.int32)
  draw = jax.jit(lambda key: sampled(
    lambda t: jnp.asarray(TABLE)[t], tokens, jnp.ones(20_000, int), key, temperature=temperature
  ))  # fmt: skip
  got = np.asarray(draw(jax.random.key(0)))
  p = np.asarray(jax.nn.softmax(TABLE / temperature))
  once = np.bincount(got[:, 1], minlength=WORDS) / len(got)
  twice = np.bincount(got[:, 2], minlength=WORDS) / len(got)
  np.testing.assert_allclose(once, p[0], atol=0.02)
  np.testing.assert_allclose(twice, p[0] @ p, atol=0.02)


def by_hand(direction, tokens):
  """The divergence averaged over what is told from FIRST on: tokens 2..5 and 4..5."""
  pairs = [(0, p) for p in (1, 2, 3, 4)] + [(1, p) for p in (3, 4)]
  total = 0.0
  for row, place in pairs:
    word = int(tokens[row, place])
    s, t = jnp.asarray(TABLE)[word][None], jnp.asarray(OTHER)[word][None]
    total += float(DIRECTIONS[direction](s, t))
  return total / len(pairs)


@pytest.mark.parametrize('direction', sorted(DIRECTIONS))
def test_given_texts_are_judged_token_by_token(direction):
  loss = on_policy(Bigram(), Bigram(), share=0.0, direction=direction)
  batch = TOKENS, FIRST, dict(live=(params(OTHER), {}))
  value, _ = jax.jit(loss)(params(TABLE), {}, batch, jax.random.key(0))
  assert value == pytest.approx(by_hand(direction, TOKENS), rel=1e-5)


def test_own_texts_are_judged_and_the_drawing_has_no_gradient():
  key, batch = jax.random.key(3), (TOKENS, FIRST, dict(live=(params(OTHER), {})))
  grad = lambda share, batch: jax.jit(jax.value_and_grad(
    lambda p: on_policy(Bigram(), Bigram(), share=share)(p, {}, batch, key)[0]
  ))(params(TABLE))  # fmt: skip
  spoken = sampled(lambda t: jnp.asarray(TABLE)[t], TOKENS, FIRST, jax.random.split(key, 3)[1])
  assert not np.array_equal(spoken, TOKENS)
  value, own = grad(1.0, batch)
  same, fixed = grad(0.0, (spoken, *batch[1:]))
  assert value == pytest.approx(float(same), rel=1e-6)
  table = lambda tree: tree['next']['embedding']
  np.testing.assert_allclose(table(own), table(fixed), atol=1e-6)


def test_a_student_comes_to_speak_like_its_teacher():
  loss, tx = on_policy(Bigram(), Bigram(), share=0.5), optimizer('adam', learning_rate=0.1)
  update, student = sgd(loss, tx), params(TABLE)
  state = dict(params=student, stats={}, masks=None, opt=tx.init(student), skipped=0, step=0)
  batch = TOKENS, FIRST, dict(live=(params(OTHER), {}))
  step = lambda state, key: update(state, batch, key)
  state, _ = jax.jit(lambda s, keys: jax.lax.scan(step, s, keys))(
    jax.tree.map(jnp.asarray, state), jax.random.split(jax.random.key(0), 150)
  )
  logits = jnp.asarray(state['params']['next']['embedding'])
  forward, target = DIRECTIONS['forward'], jnp.asarray(OTHER)
  before, after = forward(jnp.asarray(TABLE), target), forward(logits, target)
  assert after < before / 20


@pytest.mark.parametrize(
  'how, says', [(dict(share=1.5), 'share=1.5 must lie'), (dict(direction='back'), "'back' is unk")]
)
def test_wrong_settings_are_refused(how, says):
  with pytest.raises(UsageError, match=says):
    on_policy(Bigram(), Bigram(), **how)
