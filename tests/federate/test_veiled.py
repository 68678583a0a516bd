"""Secure aggregation between processes: the simulator's means, of updates that nobody sees."""

import functools
import secrets
import threading

import numpy as np
import pytest

from reduction import tree
from reduction.errors import DataError
from reduction.federate import keys, secure, serving, veiled, working
from reduction.federate.message import body, pack, unpack
from tests.networks import Wire, done, fedavg, fedkd, networked, rows

SECURE = dict(rules=dict(secure=2))
LIKE = {'params/fc1/kernel': np.zeros((64, 16)), 'params/fc1/bias': np.zeros(16),
        'params/out/kernel': np.zeros((16, 10)), 'params/out/bias': np.zeros(10)}  # fmt: skip
SIZE = sum(x.size for x in LIKE.values())


def near(net, other, steps=4):
  """Whether weights are so many steps of the fixed point apart at most."""
  pairs = zip(tree.leaves(net.params), tree.leaves(other.params), strict=True)
  return max(float(abs(a - b).max()) for a, b in pairs) < steps / secure.SCALE


@pytest.fixture(scope='module')
def simulated(digits):
  return done(fedavg(**SECURE), digits)


@pytest.fixture(scope='module')
def federated(digits):
  return networked(fedavg, digits, **SECURE)


def test_rounds_are_the_simulator_s(simulated, federated):
  net, run, clients, _ = federated
  assert near(net, simulated[0]) and not rows(run, 'refusal')
  for student, _ in clients.values():
    for a, b in zip(tree.leaves(student.params), tree.leaves(net.params), strict=True):
      np.testing.assert_allclose(a, b, atol=1e-6)
  for row in rows(run, 'round'):
    assert (row['clients'], row['void']) == ([3], [0])


def test_no_frame_shows_an_update(federated, digits):
  _, _, _, wire = federated
  _alone, _, _, shown = networked(fedavg, digits)

  def updates(wire):
    found = []
    for client, (head, data) in wire.frames:
      if 'kind' not in head and data:
        try:
          _, message = unpack(data, LIKE)
        except DataError:  # keys and shares
          continue
        flat = np.concatenate([message[n]['dense'].ravel() for n in LIKE])
        found.append((client, flat))
    return found

  hidden, plain = updates(wire), updates(shown)
  assert len(hidden) == len(plain) == 9
  assert all(abs(x).max() < 1 for _, x in plain)
  for _, x in hidden:  # bits that are even in every place
    ones = np.unpackbits(x.view(np.uint8)).reshape(-1, 32).mean(0)
    assert abs(ones - 0.5).max() < 5 * 0.5 / SIZE**0.5
  # and all of a round add up to no more than noise without what lifts the masks
  total = sum(x.view(np.uint32) for _, x in hidden[:3]).view(np.int32) / secure.SCALE
  assert np.median(abs(total)) > 100


def test_all_bytes_are_counted(federated):
  _, run, clients, wire = federated
  up = sum(body(data) for _, (head, data) in wire.frames if data and 'kind' not in head)
  down = sum(body(data) for _, (head, data) in wire.frames if data and 'kind' in head)
  told = lambda run, name: sum(np.sum(row[name]) for row in rows(run, 'round'))
  assert told(run, 'up_bytes') == up
  closing = rows(run, 'closing')[0]['down_bytes']
  assert told(run, 'down_bytes') + closing == down
  besides = 3 * 3 * (veiled.PAIR + 3 * (veiled.SEALED + veiled.SHARE))
  assert up == 3 * 3 * 4 * SIZE + besides
  assert sum(told(of, 'up_bytes') for _, of in clients.values()) == up


@pytest.mark.parametrize('more, rules', [
  (dict(share=0.67), dict(weights='uniform')), (dict(), dict(heaviest=1.0, clip=0.5)),
  (dict(of=dict(proximal=0.1)), {}),
  (dict(of=dict(method='scaffold', optimizer=dict(name='sgd', learning_rate=0.1))), {}),
])  # fmt: skip
def test_other_rules_are_the_simulator_s_too(more, rules, digits):
  given = dict(more, rules=dict(rules, secure=2))
  alone, _ = done(fedavg(**given), digits)
  net, run, _, _ = networked(fedavg, digits, **given)
  assert near(net, alone) and not rows(run, 'refusal')


def test_noise_is_added_to_a_sum_that_nobody_saw(digits):
  pytest.importorskip('dp_accounting')
  rules = dict(secure=2, clip=1.0, weights='uniform', noise=0.1)
  net, _, _, _ = networked(fedavg, digits, rounds=1, rules=rules)
  other, _, _, _ = networked(fedavg, digits, rounds=1, rules=dict(rules, noise=0.0))
  pairs = zip(tree.leaves(net.params), tree.leaves(other.params), strict=True)
  apart = np.concatenate([(a - b).ravel() for a, b in pairs])
  assert apart.std() == pytest.approx(0.1 * 1.0 / 3, rel=0.1)  # of the mean of three


def away(when):
  """A client 1 whose answer to one exchange of the first round is lost."""
  return lambda client, greeting, answer: (
    None if client == 1 and (greeting[0]['round'], greeting[0]['exchange']) == (0, when) else answer
  )


@pytest.mark.parametrize('when, counts', [(0, [2, 3]), (1, [2, 3]), (2, [2, 3]), (3, [3, 3])])
def test_who_is_lost_in_any_exchange_is_left_out_or_recovered(when, counts, digits, simulated):
  net, run, _, wire = networked(fedavg, digits, change=away(when), rounds=2, **SECURE)
  assert [row['clients'] for row in rows(run, 'round')] == [[n] for n in counts]
  assert 'client 1 did not answer' in rows(run, 'refusal')[0]['reason']
  for x in tree.leaves(net.params):
    assert abs(x).max() < 2  # masks that were not lifted would be hundreds
  if when < 3:  # as if it had not been there
    lost = lambda client, greeting, answer: (
      None if client == 1 and greeting[0]['round'] == 0 else answer
    )
    plain, _, _, _ = networked(fedavg, digits, change=lost, rounds=2)
    assert near(net, plain, 8)
  kinds = [head['kind'] for client, (head, _) in wire.frames if client == 1 and 'kind' in head]
  assert kinds.count('heard') == {0: 3, 1: 4, 2: 5, 3: 6}[when]


def test_below_the_threshold_rounds_are_void_and_nothing_is_told(digits):
  gone = lambda client, greeting, answer: None if client != 0 else answer
  _net, run, _, wire = networked(fedavg, digits, change=gone, rounds=1, **SECURE)
  assert [row['void'] for row in rows(run, 'round')] == [[1]]
  assert all(head.get('exchange', 0) == 0 for _, (head, _) in wire.frames)


def test_an_update_too_long_for_sums_of_integers_is_not_sent(digits, monkeypatch):
  begun = []

  def shared(self, values, own=veiled.Veil.shared):
    begun.append(True)
    return own(self, values)

  def fixed(x, own=secure.fixed):
    return own(x * (1e9 if len(begun) == 3 and begun.pop() else 1))

  monkeypatch.setattr(veiled.Veil, 'shared', shared)
  monkeypatch.setattr(secure, 'fixed', fixed)
  _, run, _, _ = networked(fedavg, digits, rounds=1, **SECURE)
  (refusal,) = rows(run, 'refusal')
  assert 'must be finite and of a norm up to 1024' in refusal['reason']
  assert rows(run, 'round')[0]['clients'] == [2]


def test_fedkd_crosses_under_the_veil_with_whole_updates(digits):
  given = dict(SECURE, codec=dict(name='dense'))
  alone, _ = done(fedkd(**given), digits)
  net, run, _, _ = networked(fedkd, digits, **given)
  assert near(net, alone) and not rows(run, 'refusal')


def changed(client, exchange, how):
  """A client whose answer to one exchange of each round is changed on its way."""

  def change(who, greeting, answer):
    if who != client or greeting[0]['exchange'] != exchange or not answer[1]:
      return answer
    letter, message = unpack(answer[1], veiled.says(exchange, LIKE, 3))
    return {}, pack({n: dict(dense=how(x['dense'])) for n, x in message.items()}, letter)

  return change


def test_who_shows_no_keys_is_left_out_by_name(digits):
  lies = changed(0, 0, np.zeros_like)
  _, run, _, _ = networked(fedavg, digits, change=lies, rounds=1, **SECURE)
  (refusal,) = rows(run, 'refusal')
  assert refusal['client'] == 0 and 'a public key of a client is none' in refusal['reason']
  assert rows(run, 'round')[0]['clients'] == [2]


def test_one_who_tells_wrong_shares_spoils_nothing_where_two_are_enough(digits):
  lies = changed(0, 3, lambda x: np.roll(x, 1, axis=1))
  net, run, _, _ = networked(fedavg, digits, change=lies, rounds=1, **SECURE)
  assert rows(run, 'round')[0]['void'] == [0] and not rows(run, 'refusal')
  plain, _ = done(fedavg(rounds=1, **SECURE), digits)
  assert near(net, plain)


def test_shares_that_do_not_fit_make_the_round_void(digits):
  lies = changed(2, 3, lambda x: np.roll(x, 1, axis=1))
  _, run, _, _ = networked(fedavg, digits, change=lies, rounds=1, rules=dict(secure=3))
  assert 'do not fit together' in rows(run, 'refusal')[0]['reason']
  assert rows(run, 'round')[0]['void'] == [1]


@pytest.mark.parametrize('exchange', [2, 3])
def test_a_client_that_is_there_says_nothing_twice(exchange, digits):
  """Asked once more, with another set of clients, whose other secrets would unmask who sent."""
  wire, one, said = Wire((0, 1, 2)), dict(SECURE, rounds=1), []

  def ask(frames, most):
    yield from wire.ask(frames, most)
    head, data = frames[0]
    if head['exchange'] == exchange:
      letter, message = unpack(data, veiled.hears(exchange, 3))
      others = dict(message, there=dict(dense=np.array([1, 1, 0], np.float32)))
      for again in message, others:
        said.extend(answer for _, answer in wire.ask({0: (head, pack(again, letter))}, most))

  def work(client):
    learn = working.working(functools.partial(wire.wait, client), client, 'c')
    done(fedavg(learn, **one), digits)

  threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(3)]
  for thread in threads:
    thread.start()
  net, run = done(fedavg(serving.serving(ask, 'c'), **one), digits)
  for thread in threads:
    thread.join(200)
  assert len(said) == 2 and not any(data for _, data in said)
  assert all(f'not at exchange {exchange} of round 1' in head['error'] for head, _ in said)
  plain, _ = done(fedavg(rounds=1, **SECURE), digits)
  assert rows(run, 'round')[0]['clients'] == [3] and near(net, plain)


# what a client lets itself be told


def veils(count=3, threshold=2):
  """Clients who have shared their secrets."""
  made = [veiled.Veil(i, count, threshold, b'round 1') for i in range(count)]
  there = np.ones(count, np.float32)
  public = np.stack([veil.keys()['keys'] for veil in made])
  said = [veil.shared(dict(there=there, keys=public))['sealed'] for veil in made]
  for_each = [np.stack([one[i] for one in said]) for i in range(count)]
  return made, there, for_each


def test_a_client_says_no_more_below_the_threshold():
  made, there, sealed = veils()
  x = np.zeros(5)
  with pytest.raises(DataError, match='1 clients are left, I say no more below 2'):
    made[0].masked(dict(there=np.array([1, 0, 0.0]), sealed=sealed[0]), x)
  made[0].masked(dict(there=there, sealed=sealed[0]), x)
  with pytest.raises(DataError, match='1 clients are left'):
    made[0].lifted(dict(there=np.array([1, 0, 0.0])))
  with pytest.raises(DataError, match='are left'):
    made[0].lifted(dict(there=np.array([0, 1, 1.0])))  # without me


def test_a_client_tells_one_of_two_secrets_of_each():
  made, there, sealed = veils()
  for veil, one in zip(made, sealed):
    veil.masked(dict(there=there, sealed=one), np.zeros(5))
  told = [veil.lifted(dict(there=np.array([1, 1, 0.0])))['shares'] for veil in made[:2]]
  number = lambda words: int.from_bytes(words.tobytes(), 'little')
  secret = lambda row: secure.recovered([(i + 1, number(one[row])) for i, one in enumerate(told)])
  assert [secret(0), secret(1)] == [made[0].own, made[1].own]
  assert secret(2).to_bytes(32, 'little') == made[2].masking


def test_shares_that_were_changed_or_sent_to_another_are_refused():
  made, there, sealed = veils()
  for wrong in sealed[0][[0, 2, 1]], sealed[1], np.zeros_like(sealed[0]):
    with pytest.raises(DataError, match='not sealed for this one'):
      made[0].masked(dict(there=there, sealed=wrong), np.zeros(5))


def test_keys_agree_and_seal():
  one, two, three = (secrets.token_bytes(32) for _ in range(3))
  shown = keys.public(one), keys.public(two)
  assert keys.seed(one, shown[1], b'a') == keys.seed(two, shown[0], b'a') < 2**128
  assert keys.seed(one, shown[1], b'a') != keys.seed(one, shown[1], b'b')
  data = keys.sealed(one, shown[1], b'text', b'a')
  assert len(data) == 4 + keys.SEALED and keys.opened(two, shown[0], data, b'a') == b'text'
  for private, about in ((three, b'a'), (two, b'b')):
    with pytest.raises(DataError, match='not sealed'):
      keys.opened(private, shown[0], data, about)
  with pytest.raises(DataError, match='is none'):
    keys.seed(one, bytes(32), b'a')
