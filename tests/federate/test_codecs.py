"""The other codecs: what arrives, in how many bytes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction.errors import UsageError
from reduction.federate import codecs, network, server
from reduction.federate.codecs.codec import joined
from reduction.federate.codecs.columns import columns
from reduction.federate.codecs.sketch import estimated, sketched

RNG = np.random.default_rng(0)
LOW = (RNG.normal(size=(3, 24, 2)) @ RNG.normal(size=(2, 18))).astype(np.float32)  # 3 of rank 2
SHARES = jnp.array([0.5, 0.3, 0.2])


def together(codec, updates, share, senders=None, wire=None):
  """(update, senders, wire, bytes up, bytes down) of a round of a codec that averages messages."""
  like = {name: x[0] for name, x in updates.items()}
  count = len(share)
  senders = senders or jax.tree.map(lambda x: jnp.stack([x] * count), codec.start(like))
  wire, heard, up, down = wire or codec.serve(like), {}, {}, {}
  encode = lambda update, state: codec.encode(update, state, 0.0, None)
  for number in range(len(codec.answers)):
    messages, senders = (
      jax.vmap(functools.partial(codec.replies[number - 1], heard))(senders) if number
      else jax.vmap(encode)(updates, senders)
    )  # fmt: skip
    message, wire = server.answer(codec, number, messages, share, wire, like)
    heard = joined(heard, message)
    for so_far, sent in (up, jax.tree.map(lambda x: x[0], messages)), (down, message):
      for name, bytes_ in codec.count(sent).items():
        so_far[name] = so_far.get(name, 0) + bytes_
  return codec.decode(heard, like), senders, wire, up, down


def test_dense_is_what_it_was():
  codec, update = codecs.dense(), dict(w=jnp.asarray(LOW[0]), b=jnp.ones(3))
  message, _ = codec.encode(update, {}, 0.0, jax.random.key(0))
  assert codec.count(message) == dict(w=4 * 24 * 18, b=12)
  assert all(np.array_equal(codec.decode(message, update)[n], update[n]) for n in update)


@pytest.mark.parametrize('bits', [2, 4, 8])
def test_few_bits_are_off_by_less_than_a_step_and_right_on_average(bits):
  codec, x = codecs.quantized(bits=bits), jnp.asarray(LOW[0])
  send = lambda key: codec.decode(codec.encode(dict(w=x), {}, 0.0, key)[0], None)['w']
  got = jax.vmap(send)(jax.random.split(jax.random.key(1), 400))
  step = float(jnp.abs(x).max()) / (2 ** (bits - 1) - 1)
  assert float(jnp.abs(got - x).max()) < step * (1 + 1e-5)
  assert float(jnp.abs(got.mean(0) - x).max()) < 5 * step * 0.5 / 20
  message, _ = codec.encode(dict(w=x), {}, 0.0, jax.random.key(0))
  assert codec.count(message)['w'] == -(-x.size * bits // 8) + 4
  nothing = codec.encode(dict(w=jnp.zeros(3)), {}, 0.0, jax.random.key(0))[0]
  assert not np.asarray(codec.decode(nothing, None)['w']).any()


def test_columns_count_the_part_that_is_trained():
  codec, x = columns(share=0.4, layers='fc'), jnp.asarray(LOW[0][:, :15])
  update = {'params/fc/kernel': x, 'params/out/kernel': x, 'params/fc/bias': x[0]}
  message, _ = codec.encode(update, {}, 0.0, jax.random.key(0))
  # 6 of 15 units are left out: 0.60 of the bytes, as in the paper's tables
  sizes = 4 * 24 * 9, 4 * 24 * 15, 4 * 9
  assert codec.count(message) == dict(zip(update, sizes))
  assert codec.part and np.array_equal(codec.decode(message, None)['params/fc/kernel'], x)


def test_power_keeps_the_mean_of_what_has_its_rank_and_feeds_the_rest_back():
  codec = codecs.power(rank=2)
  same = jnp.asarray(np.stack([LOW[0]] * 3) * np.array([1, 2, -1])[:, None, None], jnp.float32)
  updates = dict(w=same, b=jnp.stack([jnp.full(4, i) for i in (1.0, 2, 3)]))
  got, senders, wire, up, down = together(codec, updates, SHARES)
  mean = np.tensordot(SHARES, same, 1)
  np.testing.assert_allclose(got['w'], mean, atol=1e-4)
  np.testing.assert_allclose(got['b'], np.full(4, 1.7), rtol=1e-6)
  np.testing.assert_allclose(senders['w']['rest'], 0, atol=1e-4)
  assert up == down == dict(w=4 * 2 * (24 + 18), b=16) and wire['w']['right'].shape == (18, 2)
  full = dict(w=jnp.asarray(RNG.normal(size=(3, 24, 18)), jnp.float32))
  got, senders, *_ = together(codec, full, SHARES)
  left = np.tensordot(SHARES, np.asarray(senders['w']['rest']), 1)
  np.testing.assert_allclose(got['w'] + left, np.tensordot(SHARES, full['w'], 1), atol=1e-4)


def test_who_missed_a_round_is_told_the_basis_that_the_others_have():
  codec, updates = codecs.power(rank=2), dict(w=jnp.asarray(LOW))
  wire = together(codec, updates, SHARES)[2]
  late = codec.told(codec.start(dict(w=LOW[0])), codec.public(wire))
  message, _ = codec.encode(dict(w=updates['w'][0]), late, 0.5, None)
  found = message['w']['left']
  np.testing.assert_allclose(found, LOW[0] @ np.asarray(wire['w']['right']), rtol=1e-4, atol=1e-4)
  before, _ = codec.encode(dict(w=updates['w'][0]), codec.start(dict(w=LOW[0])), 0.5, None)
  assert not np.allclose(found, before['w']['left'])


def test_power_sends_whole_what_it_would_not_shorten():
  codec, like = codecs.power(rank=9), dict(w=jnp.ones((24, 12)))
  assert codec.start(like) == codec.serve(like) == {}


def test_a_sketch_is_linear_and_finds_the_heavy_entries():
  x = RNG.normal(size=2_000).astype(np.float32) * 0.01
  y = np.zeros(2_000, np.float32)
  y[[5, 77, 1999]] = 4.0, -3.0, 5.0
  both = sketched(jnp.asarray(x + y), 5, 400)
  np.testing.assert_allclose(
    both, sketched(jnp.asarray(x), 5, 400) + sketched(jnp.asarray(y), 5, 400), atol=1e-5
  )
  got = np.asarray(estimated(both, 2_000))
  assert set(np.argsort(-abs(got))[:3]) == {5, 77, 1999}
  np.testing.assert_allclose(got[[5, 77, 1999]], [4, -3, 5], atol=0.2)


def test_fetchsgd_sends_the_largest_and_keeps_the_rest_for_later():
  codec = codecs.sketch(rows=5, columns=300, top=4, momentum=0.0)
  x = np.zeros((1, 10, 10), np.float32)
  x[0, 0, :8] = [8, 7, 6, 5, 4, 3, 2, 1]
  updates, wire = dict(w=jnp.asarray(x)), codec.serve(None)
  first, _, wire, up, down = together(codec, updates, jnp.ones(1), wire=wire)
  np.testing.assert_allclose(np.asarray(first['w'])[0, :8], [8, 7, 6, 5, 0, 0, 0, 0], atol=1e-4)
  second, *_ = together(codec, dict(w=jnp.zeros((1, 10, 10))), jnp.ones(1), wire=wire)
  np.testing.assert_allclose(np.asarray(second['w'])[0, :8], [0, 0, 0, 0, 4, 3, 2, 1], atol=1e-4)
  assert up == dict(sketch=4 * 5 * 300) and down == dict(top=8 * 4)


def test_fetchsgd_s_momentum_goes_on_after_the_gradient_has_gone():
  """Where all entries come down at once and none collide, the update is momentum SGD's."""
  codec = codecs.sketch(rows=5, columns=4_096, top=8, momentum=0.5)
  x = jnp.asarray([[8.0, -7, 6, 5, 4, 3, -2, 1]])
  wire, still = codec.serve(None), dict(w=jnp.zeros((1, 8)))
  for updates, share in (dict(w=x), 1.0), (still, 0.5), (still, 0.25), (dict(w=x), 1.125):
    got, _, wire, _, _ = together(codec, updates, jnp.ones(1), wire=wire)
    np.testing.assert_allclose(got['w'], share * x[0], atol=1e-5)
    np.testing.assert_allclose(wire['error'], 0, atol=1e-5)


def test_wrong_settings_are_refused():
  for make, says in (
    (lambda: codecs.quantized(bits=1), 'bits=1'), (lambda: codecs.power(rank=0), 'rank=0'),
    (lambda: codecs.sketch(columns=0, top=1), 'columns=0'),
    (lambda: codecs.sketch(columns=1, top=1, momentum=1.0), 'momentum=1.0'),
  ):  # fmt: skip
    with pytest.raises(UsageError, match=says):
      make()


def test_rows_of_units_left_out_stay_away_too():
  """A convolution feeds a dense layer at four places, which feeds the outputs: counted by hand."""
  sizes = {'conv/kernel': (3, 3, 2, 10), 'conv/bias': (10,), 'fc/kernel': (40, 5), 'fc/bias': (5,),
           'out/kernel': (5, 3)}  # fmt: skip
  like = {f'params/{name}': jnp.ones(shape) for name, shape in sizes.items()}
  feeds = ('conv', 'fc'), ('fc', 'out')
  codec, key = columns(share=0.4, layers='conv|fc', feeds=feeds), jax.random.key(0)
  message, _ = codec.encode(like, {}, 0.0, key)
  assert codec.count(message) == {
    'params/conv/kernel': 4 * 9 * 2 * 6, 'params/conv/bias': 4 * 6,
    'params/fc/kernel': 4 * (4 * 6) * 3, 'params/fc/bias': 4 * 3, 'params/out/kernel': 4 * 3 * 3,
  }  # fmt: skip
  part = codec.part(like, key)
  (rows, here), (after, _) = part['params/fc/kernel'], part['params/out/kernel']
  assert rows.reshape(4, 10).tolist() == [part['params/conv/bias'][0].tolist()] * 4
  assert here.tolist() == part['params/fc/bias'][0].tolist() == after.tolist()
  left = network.cut(like, part)
  assert {n: 4 * x.size for n, x in left.items()} == codec.count(message)
  back = network.spread(left, part, like)
  for name, of in part.items():
    keeps = functools.reduce(lambda a, b: a[:, None] & b, of)
    assert np.array_equal(back[name], np.broadcast_to(keeps, back[name].shape))
  for wrong, says in ((('fc', 'conv'), 'feed'), (('fc', 'more'), 'both be layers'),
                      (('out', 'fc'), 'must have the pattern')):  # fmt: skip
    with pytest.raises(UsageError, match=says):
      columns(share=0.4, layers='conv|fc', feeds=(wrong,)).part(like, key)
