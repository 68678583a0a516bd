"""Draws against their probabilities, worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction.chat.sampling import Sampling, drawn, likely
from reduction.errors import UsageError

SHARES = np.array([0.1, 0.4, 0.2, 0.3])
LOGITS = jnp.log(jnp.asarray([SHARES], jnp.float32))
NONE = jnp.zeros((1, 4), bool)


def shares(how, seen=NONE, draws=4_000):
  draw = jax.jit(jax.vmap(lambda key: drawn(LOGITS, seen, key, how)[0]))
  found = draw(jax.random.split(jax.random.key(0), draws))
  return np.bincount(found, minlength=4) / draws


@pytest.mark.parametrize(
  'how, wanted',
  [
    (Sampling(temperature=1.0), SHARES),
    (Sampling(temperature=0.5), SHARES**2 / (SHARES**2).sum()),
    (Sampling(temperature=1.0, top_k=2), [0, 4 / 7, 0, 3 / 7]),
    (Sampling(temperature=1.0, top_p=0.6), [0, 4 / 7, 0, 3 / 7]),
    (Sampling(temperature=1.0, top_p=0.75), [0, 4 / 9, 2 / 9, 3 / 9]),
    (Sampling(temperature=1.0, top_p=1e-6), [0, 1, 0, 0]),
    (Sampling(temperature=1.0, top_k=3, top_p=0.5), [0, 4 / 7, 0, 3 / 7]),
    (Sampling(), [0, 1, 0, 0]),
  ],
)
def test_draws_follow_the_shares(how, wanted):
  np.testing.assert_allclose(shares(how), wanted, atol=0.03)


def test_what_was_there_is_less_likely():
  seen = jnp.asarray([[False, True, False, False]])
  # log 0.4 is negative: twice that is log 0.16
  wanted = np.array([0.1, 0.16, 0.2, 0.3]) / 0.76
  found = shares(Sampling(temperature=1.0, repetition=2.0), seen)
  np.testing.assert_allclose(found, wanted, atol=0.03)
  assert drawn(jnp.asarray([[3.0, 4.0]]), jnp.asarray([[False, True]]), jax.random.key(0),
               Sampling(repetition=2.0))[0] == 0  # fmt: skip


def test_equal_logits_are_no_more_than_top_k():
  kept = jnp.isfinite(likely(jnp.zeros((1, 8)), Sampling(temperature=1.0, top_k=3)))
  assert kept.sum() == 3


def test_other_values_compile_nothing():
  traced = []

  @jax.jit
  def draw(key, how):
    traced.append(1)
    return drawn(LOGITS, NONE, key, how)

  for how in Sampling(), Sampling(0.7), Sampling(0.7, 40, 0.9, 1.1):
    draw(jax.random.key(0), how)
  assert len(traced) == 1


@pytest.mark.parametrize(
  'how, line',
  [
    (Sampling(temperature=-1.0), 'temperature=-1.0'),
    (Sampling(top_k=-1), 'top_k=-1'),
    (Sampling(top_p=0.0), 'top_p=0.0'),
    (Sampling(top_p=1.1), 'top_p=1.1'),
    (Sampling(repetition=0.0), 'repetition=0.0'),
  ],
)
def test_what_is_no_draw_is_refused(how, line):
  with pytest.raises(UsageError, match=line):
    how.check()
