"""What the server makes of updates, and that a bad one changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction.errors import UsageError
from reduction.federate import codecs, secure, server

KEY = jax.random.key(0)
ONES = jnp.ones(5)
X = dict(w=jnp.array([[1.0, 0.0], [2.0, 4.0], [6.0, 8.0], [3.0, 1.0], [1e6, -1e6]]))  # [5, 2]


def combined(fine=(1, 1, 1, 1, 1), counts=ONES, **how):
  fine = jnp.array(fine, bool)
  return np.asarray(server.combined(X, counts, fine, server.rules(**how), KEY)['w'])


def test_means_by_hand():
  four = (1, 1, 1, 1, 0)
  np.testing.assert_allclose(combined(four), [3, 3.25])
  np.testing.assert_allclose(combined(four, jnp.array([1.0, 1, 2, 0, 9])), [15 / 4, 5])
  uniform = combined(four, jnp.array([1.0, 1, 2, 0, 9]), weights='uniform')
  np.testing.assert_allclose(uniform, [3, 3.25])


def test_no_client_owns_the_mean_by_what_it_says_it_has():
  liar = jnp.array([1.0, 1, 1, 1, 1e8])
  assert combined(counts=liar).max() > 9e5  # the fifth's entries of a million
  np.testing.assert_allclose(combined(counts=liar, heaviest=1.0), combined())
  four = jnp.array([1.0, 1, 2, 0, 1e8])  # of those that are fine the median is 1
  np.testing.assert_allclose(combined((1, 1, 1, 1, 0), four, heaviest=1.0), [3, 4], rtol=1e-6)
  assert (combined((0, 0, 0, 0, 0), heaviest=2.0) == 0).all()


def test_middles_by_hand_take_no_harm_from_a_liar():
  np.testing.assert_allclose(combined(combine='median'), [3, 1])
  np.testing.assert_allclose(combined((1, 1, 1, 1, 0), combine='median'), [2.5, 2.5])
  np.testing.assert_allclose(combined(combine='trimmed', trim=0.2), [11 / 3, 5 / 3], rtol=1e-6)
  np.testing.assert_allclose(combined((1, 1, 1, 1, 0), combine='trimmed', trim=0.0), [3, 3.25])
  np.testing.assert_allclose(combined((0, 0, 0, 0, 0), combine='median'), [0, 0])
  assert np.abs(combined()).max() > 1e5  # which a mean does


def test_entries_that_nobody_sent_do_not_count():
  np.testing.assert_allclose(combined((1, 1, 1, 1, 0), combine='present'), [3, 13 / 3], rtol=1e-6)


def test_a_sound_update_is_finite_weighs_something_and_is_not_too_long():
  update = dict(w=jnp.array([3.0, 4.0]))
  good = lambda u, weight=1.0, longest=0.0: bool(server.sound(u, jnp.float32(weight), longest))
  assert good(update) and good(update, longest=5.0) and not good(update, longest=4.9)
  for weight in 0.0, -1.0, float('nan'), float('inf'):
    assert not good(update, weight)
  for bad in jnp.nan, jnp.inf:
    assert not good(dict(update, b=jnp.array([0.0, bad])))
  assert server.clipped(update, 1.0)['w'].tolist() == pytest.approx([0.6, 0.8])
  assert server.clipped(update, 9.0)['w'].tolist() == [3, 4]


def test_private_sums_are_clipped_and_noisy():
  how = server.rules(clip=1.0, noise=2.0, weights='uniform')
  many = dict(w=jnp.zeros((4, 10_000)))
  got = np.asarray(server.combined(many, jnp.ones(4), jnp.ones(4, bool), how, KEY)['w'])
  assert got.std() == pytest.approx(2.0 / 4, rel=0.03) and abs(got.mean()) < 0.02


def test_no_codec_lengthens_a_clipped_update():
  """What arrives is clipped again: here every message arrives doubled, up and down."""
  dense = codecs.dense()
  double = lambda message, like: {n: 2 * x for n, x in dense.decode(message, like).items()}
  run = server.exchange(dense._replace(decode=double), server.rules(clip=0.1), server.plain)
  shared = dict(shared_with(jnp.zeros((2, 3))), masks=dict(w=jnp.ones((2, 3), bool)))
  new, _, _, _ = run(
    shared, dict(wire={}, step={}), {'params/w': jnp.ones((1, 2, 3))}, {}, jnp.ones(1),
    jnp.ones(1, bool), jnp.float32(0), KEY,
  )  # fmt: skip
  assert float(jnp.linalg.norm(new['params']['w'])) == pytest.approx(0.2, rel=1e-5)


def test_a_secure_mean_is_what_secure_aggregation_gives():
  x, share = np.asarray(X['w'])[:4], np.array([0.4, 0.3, 0.2, 0.1], np.float32)
  own = dict(enumerate(range(4)))
  sent = {i: secure.hidden(share[i] * x[i], i, own[i], {}) for i in range(4)}
  counts = jnp.array([4.0, 3, 2, 1, 5])
  got = combined((1, 1, 1, 1, 0), counts, secure=3)
  np.testing.assert_allclose(got, secure.total(sent, own, {}), atol=1e-6)
  assert server.rules(secure=3).least == 3


@pytest.mark.parametrize('codec', [codecs.power(rank=2), codecs.sketch(columns=64, top=8)])
def test_codecs_that_add_up_have_secure_rounds_or_void_ones(codec):
  updates = jnp.asarray(np.random.default_rng(5).normal(size=(4, 8, 6)), jnp.float32)
  like = {'params/w': updates[0]}
  shared = dict(params=dict(w=jnp.ones((8, 6))), stats={}, step=jnp.int32(0))
  shared['masks'] = dict(w=jnp.ones((8, 6), bool))
  senders = jax.tree.map(lambda x: jnp.stack([x] * 4), codec.start(like))

  def after(arrives, **how):
    run = server.exchange(codec, server.rules(**how), server.plain)
    new, _, _, told = run(
      shared, dict(wire=codec.serve(like), step={}), {'params/w': updates}, senders, jnp.ones(4),
      jnp.array(arrives, bool), jnp.float32(0), KEY,
    )  # fmt: skip
    return np.asarray(new['params']['w']), bool(told['void'])

  plain, _ = after([1, 1, 1, 0])
  found, void = after([1, 1, 1, 0], secure=3)
  assert not void and (found != 1).any() and not np.array_equal(found, plain)
  np.testing.assert_allclose(found, plain, atol=1e-3)  # sums of integers, in fixed point
  found, void = after([1, 1, 0, 0], secure=3)
  assert void and (found == 1).all()
  updates = updates.at[3].mul(1e4)  # beyond integers of 32 bits, if added up in steps of 1 / 65,536
  found, void = after([1, 1, 1, 1], secure=3)
  assert not void
  np.testing.assert_allclose(found, plain, atol=1e-3)


def shared_with(w):
  masks = dict(w=jnp.array([[True, True, False], [True, True, True]]))
  return dict(params=dict(w=w), stats={}, masks=masks, step=jnp.int32(0))


def test_one_inf_neither_hangs_nor_changes_a_round_and_a_void_one_changes_nothing():
  codec, shared = codecs.low_rank(feedback=True), shared_with(jnp.ones((2, 3)) * 1.0)
  rng = np.random.default_rng(0)
  good = rng.normal(size=(3, 2, 3)).astype(np.float32)
  bad = good.copy()
  bad[1] = np.inf
  senders = {'params/w': jnp.zeros((3, 2, 3))}
  start = dict(wire={'params/w': jnp.zeros((2, 3))}, step={})

  def gone(x, arrives, **how):
    run = jax.jit(server.exchange(codec, server.rules(**how), server.plain))
    return run(shared, start, {'params/w': jnp.asarray(x)}, senders, jnp.ones(3),
               jnp.array(arrives), jnp.float32(0), KEY)  # fmt: skip

  with_bad, _, kept, told = gone(bad, (1, 1, 1))
  without, _, _, _ = gone(good, (1, 0, 1))
  assert told['fine'].tolist() == [True, False, True] and not told['void']
  np.testing.assert_allclose(with_bad['params']['w'], without['params']['w'], atol=1e-6)
  assert told['up']['params/w'].tolist()[1] == 0 and not np.asarray(kept['params/w'])[1].any()
  assert np.asarray(with_bad['params']['w'])[0, 2] == 0  # a pruned weight, whatever the factors say
  same, server_state, kept, told = gone(good, (1, 0, 0), least=2)
  assert told['void'] and np.array_equal(same['params']['w'], shared['params']['w'])
  assert not np.asarray(kept['params/w']).any() and not server_state['wire']['params/w'].any()


@pytest.mark.parametrize('feedback', [False, True])
def test_what_overflows_is_never_decomposed(feedback):
  """A client's finite numbers whose squares are not, and what the server's step makes."""
  shared, like = shared_with(jnp.ones((2, 3))), {'params/w': jnp.zeros((2, 3))}
  senders = {'params/w': jnp.zeros((2, 2, 3))} if feedback else {}
  start = dict(wire=like if feedback else {}, step={})
  codec = codecs.low_rank(feedback=feedback)
  far = jnp.stack([jnp.full((2, 3), 3e38), jnp.full((2, 3), 1e10)])

  def gone(step):
    run = jax.jit(server.exchange(codec, server.rules(), step))
    return run(shared, start, {'params/w': far}, senders, jnp.ones(2), jnp.array([True, True]),
               jnp.float32(0), KEY)  # fmt: skip

  moved, _, _, told = gone(server.plain)
  assert told['fine'].tolist() == [False, True] and not told['void']
  np.testing.assert_allclose(moved['params']['w'][0, 0], 1e10, rtol=1e-5)
  steep = lambda shared, update, state: ({name: 1e30 * x for name, x in update.items()}, state)
  same, kept, _, told = gone(steep)
  assert told['void'] and np.array_equal(same['params']['w'], shared['params']['w'])
  assert all(not x.any() for x in kept['wire'].values())


def test_rules_that_cannot_be_kept_are_refused():
  for wrong, says in (
    (dict(combine='mode'), "combine='mode'"), (dict(trim=0.5), 'trim=0.5'),
    (dict(clip=-1.0), 'clip=-1.0'), (dict(noise=1.0), 'needs clip'), (dict(least=0), 'least=0'),
    (dict(weights='size'), "weights='size'"), (dict(secure=2, longest=1.0), 'secure=2'),
  ):  # fmt: skip
    with pytest.raises(UsageError, match=says):
      server.rules(**wrong)
  with pytest.raises(UsageError, match='averages messages before they are decoded'):
    server.exchange(codecs.power(), server.rules(combine='median'), server.plain)
