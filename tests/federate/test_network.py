"""A server and clients that exchange bytes: the simulator's bits, and whatever may go wrong."""

import functools
import itertools
import threading

import numpy as np
import pytest

from reduction import models, tree
from reduction.errors import DataError, UsageError
from reduction.federate import clients, network, serving, working
from reduction.federate.message import Letter, body, pack, unpack
from reduction.net import create
from reduction.run import Run
from tests.networks import Wire, done, fedavg, fedkd, networked, rows


@pytest.fixture(scope='module')
def simulated(digits):
  return done(fedkd(), digits)


@pytest.fixture(scope='module')
def federated(digits):
  return networked(fedkd, digits)


def test_fedkd_over_a_network_is_the_simulator_bit_for_bit(simulated, federated, same):
  net, run, clients, _ = federated
  assert same(net, simulated[0])
  for student, _ in clients.values():
    assert same(student, net)
  shown = 'up_bytes', 'down_bytes', 'clients', 'void', 'refused', 'validation_accuracy'
  told = lambda run: [[row[name] for name in shown] for row in rows(run, 'round')]
  assert told(run) == told(simulated[1])
  for kind, count in dict(sent=3, rank=2 * 3).items():  # of each tensor; each matrix and round
    assert rows(run, kind) == rows(simulated[1], kind) and len(rows(run, kind)) == count
  (here,), (there,) = rows(run, 'federated'), rows(simulated[1], 'federated')
  for name in 'up_bytes', 'down_bytes', 'of_dense', 'test_accuracy':
    assert here[name] == there[name]
  known = [rows(of, 'federated')[0]['teacher_accuracy'][0] for _, of in clients.values()]
  np.testing.assert_allclose(np.mean(known), there['teacher_accuracy'], rtol=1e-6)


def test_no_frame_holds_a_teacher(federated):
  _, _, _, wire = federated
  shared = {'params/fc1/kernel', 'params/fc1/bias', 'params/out/kernel', 'params/out/bias'}
  student = 64 * 16 + 16 + 16 * 10 + 10
  seen = 0
  for _, (head, data) in wire.frames:
    assert set(head) <= set(network.HEAD)
    if not data:
      continue
    seen += 1
    like = {n: np.zeros(s) for n, s in zip(sorted(shared), [16, (64, 16), 10, (16, 10)])}
    letter, message = unpack(data, like)  # of these tensors and no others
    assert set(message) == shared and len(data) <= 4 * student + 1_000
    assert isinstance(letter, Letter)
  assert seen == 3 * 3 * 2 + 3


@pytest.mark.slow
@pytest.mark.parametrize('settings', [
  dict(codec=dict(name='quantized', bits=5)), dict(codec=dict(name='low_rank', feedback=True)),
  dict(share=0.67, rules=dict(clip=0.5, combine='median')),
])  # fmt: skip
def test_other_settings_are_the_simulator_too(settings, digits, same):
  alone, run = done(fedavg(**settings), digits)
  net, there, _, _ = networked(fedavg, digits, **settings)
  assert same(net, alone)
  assert rows(run, 'federated')[0]['up_bytes'] == rows(there, 'federated')[0]['up_bytes']


@pytest.mark.parametrize('of', [
  dict(proximal=0.1), dict(server_optimizer=dict(name='adam', learning_rate=0.01)),
  dict(method='scaffold', optimizer=dict(name='sgd', learning_rate=0.1)),
], ids=['fedprox', 'fedopt', 'scaffold'])  # fmt: skip
def test_other_algorithms_are_the_simulator_too(of, digits, same):
  alone, run = done(fedavg(of=of), digits)
  net, there, _, _ = networked(fedavg, digits, of=of)
  plain, _ = done(fedavg(), digits)
  assert same(net, alone) and not same(net, plain)
  assert rows(run, 'federated')[0]['up_bytes'] == rows(there, 'federated')[0]['up_bytes']


def lies(client, greeting, answer):
  """What a liar, numbered 2, and a man in the middle make of answers of three rounds."""
  head, number = greeting[0], greeting[0]['round']
  if client != 2 or number == 3:
    return answer
  like = {'params/fc1/kernel': np.zeros((64, 16)), 'params/fc1/bias': np.zeros(16),
          'params/out/kernel': np.zeros((16, 10)), 'params/out/bias': np.zeros(10)}  # fmt: skip
  letter, message = unpack(answer[1], like)
  if number == 0:  # not a number
    message['params/fc1/bias'] = dict(dense=np.full(16, np.nan))
  letter = [letter, letter._replace(client=1), letter._replace(round=0)][number]
  return head and {}, pack(message, letter)


def test_a_liar_is_refused_and_counted_and_the_round_goes_on(digits):
  net, run, _, _ = networked(fedavg, digits, change=lies)
  found = [(row['step'], row['client'], row['reason']) for row in rows(run, 'refusal')]
  assert [one[:2] for one in found] == [(1, 2), (2, 2), (3, 2)]
  for (_, _, reason), says in zip(found, ('not finite', 'sends for client 1', 'of round 0 in')):
    assert says in reason
  assert [row['clients'] for row in rows(run, 'round')] == [[2], [2], [2]]
  assert [row['refused'] for row in rows(run, 'round')] == [[1], [1], [1]]
  assert all(np.isfinite(x).all() for x in tree.leaves(net.params))
  sent = 3 * 4 * (64 * 16 + 16 + 16 * 10 + 10)  # what is refused has travelled
  assert [row['up_bytes'] for row in rows(run, 'round')] == [[sent]] * 3


@pytest.mark.parametrize('settings', [
  dict(rules=dict(longest=1.2)), dict(rules=dict(longest=1.1, clip=1.15)),
  dict(codec=dict(name='quantized', bits=8), rules=dict(longest=1.2)),
])  # fmt: skip
def test_what_is_refused_for_its_length_has_travelled(settings, digits, same):
  alone, run = done(fedavg(**settings), digits)
  net, there, _, _ = networked(fedavg, digits, **settings)
  shown = 'up_bytes', 'down_bytes', 'clients', 'void', 'refused'
  told = lambda run: [[row[name] for name in shown] for row in rows(run, 'round')]
  assert same(net, alone) and told(there) == told(run)
  assert 0 < sum(row['refused'][0] for row in rows(run, 'round')) < 9
  (whole,) = {row['up_bytes'][0] for row in rows(run, 'round')}  # whoever was refused
  assert whole > 0 and rows(run, 'sent') == rows(there, 'sent')
  assert rows(run, 'federated')[0]['of_dense'] == rows(there, 'federated')[0]['of_dense']


def lost(monkeypatch, when):
  """Makes client 1's update of a round never arrive, here and over a network: its `change`."""
  real = clients.choose

  def choose(key, number, *given):
    ids, arrives = real(key, number, *given)
    return ids, arrives & ~((ids == 1) & (number == when))

  monkeypatch.setattr(clients, 'choose', choose)
  return lambda client, greeting, answer: (
    None if client == 1 and greeting[0]['round'] == when else answer
  )


SCAFFOLD = dict(method='scaffold', optimizer=dict(name='sgd', learning_rate=0.1))


@pytest.mark.parametrize('settings', [
  dict(of=SCAFFOLD), dict(of=SCAFFOLD, rules=dict(least=3)), dict(of=SCAFFOLD, disk=True),
  dict(codec=dict(name='low_rank', start=0.5, end=0.5, feedback=True), rules=dict(least=3)),
], ids=['lost', 'void', 'disk', 'feedback'])  # fmt: skip
def test_what_clients_keep_moves_where_their_update_was_taken(settings, digits, same, monkeypatch):
  change = lost(monkeypatch, 1)
  alone, run = done(fedavg(**settings), digits)
  net, there, _, _ = networked(fedavg, digits, change=change, **settings)
  assert same(net, alone)
  void = int('rules' in settings)
  for of in run, there:
    assert [row['void'][0] for row in rows(of, 'round')] == [0, void, 0]


def test_a_variate_of_a_client_that_was_refused_stays(digits, monkeypatch):
  from reduction.federate import rounds

  honest, kept = rounds.train, []

  def broken(*args):
    updates, own, told = honest(*args)
    return {name: x.at[:, 2].set(np.inf) for name, x in updates.items()}, own, told

  def learn(*given, **more):
    carry, own = rounds.learn(*given, **more)
    kept.append((carry['shared']['control'], own[0][1]['control']))
    return carry, own

  monkeypatch.setattr(rounds, 'train', broken)
  done(fedavg(learn, of=SCAFFOLD, rules=dict(weights='uniform'), rounds=1), digits)
  ((server, clients_),) = kept
  for c, mine in zip(tree.leaves(server), tree.leaves(clients_), strict=True):
    assert not np.asarray(mine[0, 2]).any() and np.asarray(mine[0, :2]).any()
    np.testing.assert_allclose(c[0], mine[0, :2].mean(0), atol=1e-6)  # of those that were taken


def test_a_teacher_goes_on_where_its_students_update_was_lost(digits):
  taught = lambda **rules: rows(done(fedkd(rounds=1, rules=rules), digits)[1], 'federated')[0]
  arrived, void = taught(), taught(least=4)
  assert void['teacher_accuracy'] == arrived['teacher_accuracy'] > [0.2]  # untrained: 0.1
  assert void['test_accuracy'] != arrived['test_accuracy']


def test_who_does_not_answer_is_missed_and_gets_the_whole_student_again(digits):
  away = lambda client, greeting, answer: (
    None if client == 1 and greeting[0]['round'] == 0 else answer
  )
  _, run, _, wire = networked(fedavg, digits, change=away)
  kinds = [head['kind'] for client, (head, _) in wire.frames if client == 1 and 'kind' in head]
  assert kinds == ['whole', 'whole', 'change', 'change']
  assert 'did not answer in time' in rows(run, 'refusal')[0]['reason']
  assert [row['clients'] for row in rows(run, 'round')] == [[2], [3], [3]]


def test_rounds_that_nobody_answers_change_nothing(digits):
  net, run, _, _ = networked(fedavg, digits, clients=())
  fresh = create(models.mlp(widths=(16,)), run.key('init', 0), digits.train.x[:1])
  assert [row['void'] for row in rows(run, 'round')] == [[1]] * 3
  for a, b in zip(tree.leaves(net.params), tree.leaves(fresh.params), strict=True):
    assert np.array_equal(a, b)


def test_a_server_that_asks_again_hears_the_same(digits):
  """A server that died before it saved a round greets for it again, with another nonce."""
  wire, heard = Wire((0,)), []
  one = dict(partition=dict(name='iid', clients=1), rounds=2)

  def twice(greetings, most):
    for client, frame in greetings.items():
      for _ in range(2 if frame[0]['round'] < 2 else 1):
        heard.extend(answer for _, answer in wire.ask({client: frame}, most))
      yield client, heard[-1]

  def work():
    learn = working.working(functools.partial(wire.wait, 0), 0, 'c')
    done(fedavg(learn, **one), digits)

  thread = threading.Thread(target=work)
  thread.start()
  net, _ = done(fedavg(serving.serving(twice, 'c'), **one), digits)
  thread.join(200)
  assert heard[0] == heard[1] and heard[2] == heard[3] and heard[0] != heard[2]
  alone, _ = done(fedavg(**one), digits)
  for a, b in zip(tree.leaves(net.params), tree.leaves(alone.params), strict=True):
    assert np.array_equal(a, b)


HEAD = dict(where='fed', config='c', round=0, exchange=0, row=0, of=1, kind='whole', step=0,
            heard=0)  # fmt: skip


@pytest.mark.parametrize('head, says', [
  (dict(HEAD, config='d'), "config='d', this client 'c'"), (dict(HEAD, where='x'), "where='x'"),
  (dict(HEAD, round='0'), "round='0', not int"), (dict(HEAD, kind='new'), 'no known kind'),
  (dict(HEAD, of=2**40), 'no known kind'), ({}, 'where='),
])  # fmt: skip
def test_a_greeting_that_is_none_is_refused(head, says):
  assert network.read(HEAD, dict(where='fed', config='c')) == HEAD
  with pytest.raises(DataError, match=says):
    network.read(head, dict(where='fed', config='c'))


def test_what_a_network_does_not_carry_is_refused(digits):
  serve = serving.serving(lambda greetings, most: iter(()), 'c')
  for settings, says in (
    (dict(codec=dict(name='power', rank=2), rules=dict(longest=1.0)), 'no update by itself'),
    (dict(codec=dict(name='power', rank=2), rules=dict(secure=2)), 'adds whole updates up'),
  ):
    with pytest.raises(UsageError, match=says):
      done(fedavg(serve, **settings), digits)
  with pytest.raises(UsageError, match='one seed'):
    run = Run(digits, (0, 1))
    net = create(models.mlp(widths=(4,)), run.key('init', 0), digits.train.x[:1])
    fedavg(serve)(net, run)


AVERAGED = [  # codecs whose messages are averaged before they are decoded; parts of a model
  dict(codec=dict(name='power', rank=2)), dict(codec=dict(name='sketch', columns=200, top=50)),
  dict(thin=0.4, of=dict(feeds=(('fc1', 'out'),))),
]  # fmt: skip


@pytest.mark.parametrize('settings', AVERAGED)
def test_other_messages_are_the_simulator_too(settings, digits):
  alone, run = done(fedavg(**settings), digits)
  net, there, clients, wire = networked(fedavg, digits, **settings)
  for student, _ in clients.values():
    for a, b, c in zip(*(tree.leaves(n.params) for n in (net, alone, student)), strict=True):
      np.testing.assert_allclose(a, b, atol=2e-6)
      np.testing.assert_allclose(a, c, atol=2e-7)
  assert not rows(there, 'refusal')
  (here,), (simulated,) = rows(there, 'federated'), rows(run, 'federated')
  assert here['up_bytes'] == simulated['up_bytes'] and here['down_bytes'] == simulated['down_bytes']
  assert rows(there, 'sent') == rows(run, 'sent')
  up = sum(body(data) for _, (head, data) in wire.frames if data and 'kind' not in head)
  assert up == 3 * here['up_bytes'][0]


def test_who_is_away_between_two_exchanges_is_missed_and_told_the_basis(digits):
  away = lambda client, greeting, answer: (
    None if client == 1 and (greeting[0]['round'], greeting[0]['exchange']) == (0, 1) else answer
  )
  _, run, _, wire = networked(fedavg, digits, change=away, codec=dict(name='power', rank=2))
  kinds = [head['kind'] for client, (head, _) in wire.frames if client == 1 and 'kind' in head]
  assert kinds == ['whole', 'heard', 'whole', 'heard', 'change', 'heard', 'change']
  assert [row['clients'] for row in rows(run, 'round')] == [[2], [3], [3]]
  assert [row['reason'] for row in rows(run, 'refusal')] == ['client 1 did not answer in time']


def test_a_client_and_a_server_that_die_go_on_where_they_were(digits, tmp_path):
  """The client in round 2 with the greeting in its hand, the server before it sends that of 3."""
  wire, one = Wire((0,)), dict(partition=dict(name='iid', clients=1))
  died = []

  def wait(most):
    frame, reply = wire.wait(0, most)
    if frame[0]['round'] == 1 and 'client' not in died:
      died.append('client')
      wire.boxes[0].put((frame, reply.__self__))  # Flower's node asks the next process
      raise RuntimeError('client')
    return frame, reply

  def ask(greetings, most):
    if greetings[0][0]['round'] == 2 and 'server' not in died:
      died.append('server')
      raise RuntimeError('server')
    return wire.ask(greetings, most)

  def work():
    learn = working.working(wait, 0, 'c')
    with pytest.raises(RuntimeError, match='client'):
      done(fedavg(learn, **one), digits, tmp_path / 'client')
    done(fedavg(learn, **one), digits, tmp_path / 'client')

  thread = threading.Thread(target=work, daemon=True)
  thread.start()
  learn = serving.serving(ask, 'c')
  with pytest.raises(RuntimeError, match='server'):
    done(fedavg(learn, **one), digits, tmp_path / 'server')
  net, run = done(fedavg(learn, **one), digits, tmp_path / 'server')
  thread.join(200)
  assert died == ['client', 'server'] and not rows(run, 'refusal')
  alone, there = done(fedavg(**one), digits)
  for a, b in zip(tree.leaves(net.params), tree.leaves(alone.params), strict=True):
    assert np.array_equal(a, b)
  told = lambda run: [row['up_bytes'] for row in rows(run, 'round')]
  assert told(run) == told(there)


def test_a_server_that_dies_between_exchanges_begins_the_round_again(digits, tmp_path):
  wire, died = Wire((0,)), []
  one = dict(partition=dict(name='iid', clients=1), codec=dict(name='power', rank=2))

  def ask(greetings, most):
    head = greetings[0][0]
    if (head['round'], head['exchange']) == (1, 1) and not died:
      died.append(head)
      raise RuntimeError('server')
    return wire.ask(greetings, most)

  def work():
    done(fedavg(working.working(functools.partial(wire.wait, 0), 0, 'c'), **one), digits)

  thread = threading.Thread(target=work, daemon=True)
  thread.start()
  learn = serving.serving(ask, 'c')
  with pytest.raises(RuntimeError, match='server'):
    done(fedavg(learn, **one), digits, tmp_path)
  net, run = done(fedavg(learn, **one), digits, tmp_path)
  thread.join(200)
  assert died and not rows(run, 'refusal')
  alone, _ = done(fedavg(**one), digits)
  for a, b in zip(tree.leaves(net.params), tree.leaves(alone.params), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.parametrize('rules', [{}, dict(rules=dict(secure=2))])
def test_clients_whose_training_diverges_say_so_and_stay(rules, digits, same):
  given = dict(of=dict(optimizer=dict(name='sgd', learning_rate=1e30)), rounds=2, **rules)
  net, run, clients, _ = networked(fedavg, digits, **given)
  alone, _ = done(fedavg(**given), digits)
  assert same(net, alone) and set(clients) == {0, 1, 2}
  assert [row['void'] for row in rows(run, 'round')] == [[1], [1]]
  assert all('not finite' in row['reason'] for row in rows(run, 'refusal'))
  assert len(rows(run, 'refusal')) == 6


def test_who_failed_is_sent_the_whole_student_in_the_simulator_too(digits):
  given = dict(codec=dict(name='quantized', bits=8), failing=0.5, rounds=5)
  _, run = done(fedavg(**given), digits)
  told = [(row['clients'][0], row['down_bytes'][0]) for row in rows(run, 'round')]
  size = 64 * 16 + 16 + 16 * 10 + 10
  assert len({fine for fine, _ in told}) > 1
  for (fine, _), (_, down) in itertools.pairwise(told):
    assert down == (3 - fine) * 4 * size + fine * (size + 4 * 4)  # a scale each of four tensors
