"""Messages as bytes: what is packed arrives, what is damaged or a lie is refused before use."""

import json
import socket
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from reduction.errors import DataError
from reduction.federate import codecs, frames
from reduction.federate.intake import Expected, Taken, take
from reduction.federate.message import MAGIC, Letter, body, pack, unpack

RNG = np.random.default_rng(0)
STEEP = (RNG.normal(size=(30, 2)) @ RNG.normal(size=(2, 20))).astype(np.float32)
UPDATE = dict(
  b=RNG.normal(size=20).astype(np.float32), flat=RNG.normal(size=(5, 6)).astype(np.float32),
  k=RNG.normal(size=(3, 3, 2, 4)).astype(np.float32), w=STEEP,
)  # fmt: skip
LIKE = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in UPDATE.items()}
CODECS = dict(
  dense=codecs.dense(), low_rank=codecs.low_rank(), quantized=codecs.quantized(bits=3),
)  # fmt: skip
LETTER = Letter(client=3, round=7, nonce='a1', weight=12.0)
EXPECTED = Expected(round=7, clients=frozenset({2, 3}), size=10_000, longest=0.0, like=LIKE)


def encoded(name, update=UPDATE):
  codec = CODECS[name]
  update = {n: jnp.asarray(x) for n, x in update.items()}
  return codec, codec.encode(update, codec.start(update), 0.0, jax.random.key(1))[0]


def letter(update=UPDATE, codec='low_rank', **changes):
  """The bytes of a message; changes: of its letter."""
  bits = dict(bits=3) if codec == 'quantized' else {}
  return pack(encoded(codec, update)[1], LETTER._replace(**changes), **bits)


@pytest.mark.parametrize('codec', CODECS)
@pytest.mark.parametrize('sent', CODECS)
def test_tensors_of_any_kind_meet_any_codec_without_harm(codec, sent):
  """Taken or refused, a client's message never raises: it would end the server's round."""
  if sent == codec:
    return
  taken = take(Taken.nothing(), letter(codec=sent), CODECS[codec], EXPECTED)
  if taken.updates:  # whole tensors are of more than one codec
    shapes = lambda tree: {n: x.shape for n, x in tree.items()}
    assert shapes(taken.updates[3]) == shapes(LIKE)
  else:
    assert 'of a kind that this federation does not send' in taken.refused[3][0]


def test_a_weight_of_any_length_is_refused():
  manifest = dict(LETTER._asdict(), weight=10**400, tensors=[[n, 'dense', 0] for n in UPDATE])
  text = json.dumps(manifest).encode()
  body = bytes(4 * sum(x.size for x in UPDATE.values()))
  data = MAGIC + struct.pack('<I', len(text)) + text + body
  taken = take(Taken.nothing(), data, CODECS['dense'], EXPECTED, sender=3)
  assert 'damaged (OverflowError)' in taken.refused[3][0]


@pytest.mark.parametrize('name', CODECS)
def test_what_is_packed_arrives_in_as_many_bytes_as_are_counted(name):
  codec, message = encoded(name)
  data = letter(codec=name)
  who, got = unpack(data, LIKE)
  assert who == LETTER
  here, there = codec.decode(message, LIKE), codec.decode(got, LIKE)
  for tensor in UPDATE:
    np.testing.assert_allclose(here[tensor], there[tensor], atol=1e-6)
  (manifest,) = struct.unpack('<I', data[6:10])
  counted = sum(int(n) for n in codec.count(message).values())
  assert len(data) - 10 - manifest == counted


def test_low_rank_counts_by_hand():
  codec, message = encoded('low_rank')
  count = {name: int(n) for name, n in codec.count(message).items()}
  k = int(message['w']['rank'])
  assert k in (1, 2) and count['w'] == 4 * k * 50 and count['b'] == 80
  assert count['flat'] == 4 * 30 and count['k'] <= 4 * 72


@settings(max_examples=60, deadline=None)
@given(data=some.data())
def test_damaged_bytes_never_pass_as_another_shape(data):
  whole = letter()
  kind = data.draw(some.sampled_from(['cut', 'flip', 'grow', 'noise']))
  at = data.draw(some.integers(0, len(whole) - 1))
  damaged = dict(
    cut=whole[:at], flip=whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :],
    grow=whole + bytes(at % 50 + 1), noise=data.draw(some.binary(max_size=200)),
  )[kind]  # fmt: skip
  try:
    _, message = unpack(damaged, LIKE)
  except DataError:
    return
  got = CODECS['low_rank'].decode(message, LIKE)
  assert {n: x.shape for n, x in got.items()} == {n: x.shape for n, x in UPDATE.items()}


@pytest.mark.parametrize('rank', [0, -1, 21, 2**40, '2', True])
def test_a_rank_that_cannot_be_is_refused(rank):
  tensors = [[n, 'dense', 0] for n in ('b', 'flat', 'k')] + [['w', 'factors', rank]]
  manifest = json.dumps(dict(LETTER._asdict(), tensors=tensors)).encode()
  with pytest.raises(DataError):
    unpack(MAGIC + struct.pack('<I', len(manifest)) + manifest + bytes(400), LIKE)


@pytest.mark.parametrize('name, rank', [('w', 21), ('w', -1), ('b', 1), ('k', 5)])
def test_a_whole_matrix_says_no_rank_that_cannot_be(name, rank):
  tensors = [[n, 'dense', rank if n == name else 0] for n in UPDATE]
  manifest = json.dumps(dict(LETTER._asdict(), tensors=tensors)).encode()
  whole = bytes(4 * sum(x.size for x in UPDATE.values()))
  with pytest.raises(DataError, match=f'{name} of shape .* would be of rank {rank}'):
    unpack(MAGIC + struct.pack('<I', len(manifest)) + manifest + whole, LIKE)


def test_every_lie_is_refused_counted_and_leaves_the_round_alone():
  nan = dict(UPDATE, b=UPDATE['b'] * np.nan)
  inf = dict(UPDATE, w=np.where(np.arange(20) == 3, np.inf, UPDATE['w']).astype(np.float32))
  missing = {n: x for n, x in UPDATE.items() if n != 'b'}
  extra = dict(UPDATE, more=UPDATE['b'])
  turned = dict(UPDATE, w=UPDATE['w'].T[:, :5])
  huge = dict(UPDATE, b=UPDATE['b'] * 1e6)
  lies = [
    (letter(nan, 'dense'), 'not finite'), (letter(inf, 'dense'), 'not finite'),
    (letter(missing), 'other tensors'), (letter(extra), 'other tensors'),
    (letter(turned, 'dense'), 'declares'), (letter(huge, 'dense'), 'norm'),
    (letter(weight=0.0), 'weight'), (letter(weight=-1.0), 'weight'),
    (letter(weight=float('nan')), 'weight'), (letter(weight=1e9), 'weight'),
    (letter(round=6), 'round 6 in round 7'), (letter(client=9), 'not known'),
    (letter(UPDATE, 'dense') + bytes(4 * 50), 'declares'),  # numbers are float32, never of 8 bytes
    (b'x' * 20_000, 'at most 10,000'), (b'', 'no federated message'),
  ]  # fmt: skip
  taken, expected = Taken.nothing({'old'}), EXPECTED._replace(longest=1e3)
  for data, says in [*lies, (letter(nonce='old'), 'used before')]:
    before = sum(map(len, taken.refused.values()))
    taken = take(taken, data, CODECS['low_rank'], expected)
    reasons = [r for of_one in taken.refused.values() for r in of_one]
    assert len(reasons) == before + 1 and any(says in r for r in reasons), says
  assert not taken.updates and set(taken.refused) == {3, None}
  model = [data for data, says in lies if says not in ('other tensors', 'declares', 'not known')]
  came = sum(body(data) for data in model[:-2]) + body(letter(nonce='old'))
  assert sum(taken.counts[3].values()) == came and set(taken.counts) == {3}
  taken = take(taken, letter(), CODECS['low_rank'], expected)
  taken = take(taken, letter(nonce='b'), CODECS['low_rank'], expected)  # the same client again
  taken = take(taken, letter(client=2, nonce='c'), CODECS['low_rank'], expected)
  assert set(taken.updates) == {2, 3} and taken.weights == {2: 12, 3: 12}
  assert 'sent twice' in taken.refused[3][-1] and taken.nonces == {'old', 'a1', 'c'}
  for update in taken.updates.values():
    np.testing.assert_allclose(update['b'], UPDATE['b'], rtol=1e-6)


def test_a_frame_that_lies_of_its_length_is_refused_before_it_is_read():
  """The other side still waits with its gigabytes: nothing but the lengths was taken of it."""
  lies = ((2, 65), 'at most'), ((2, 2**33), '8,589,934,592'), ((2**20 + 1, 0), '1,048,577')
  for lengths, says in lies:
    here, there = socket.socketpair()
    with here, there:
      there.sendall(frames.LENGTHS.pack(*lengths) + b'{}')
      with pytest.raises(DataError, match=says):
        frames.receive(here, 64)
      assert here.recv(64) == b'{}'
  here, there = socket.socketpair()
  with here, there:
    frames.send(there, dict(a=1), bytes(64))
    assert frames.parted(frames.receive(here, 64)) == (dict(a=1), bytes(64))
