"""FedKD by Flower on loopback: the bits of the frames alone; who is not let in, nor believed."""

import importlib
import json
import math
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types

import numpy as np
import pytest

from reduction.errors import TryAgain, UsageError
from reduction.federate import frames, serving, veiled, working
from reduction.federate.message import Letter, pack, unpack
from tests.networks import done, fedkd, networked, rows

federate = importlib.import_module('launch.federate')
superlink = importlib.import_module('launch.superlink')
WIDE = dict(name='mlp', widths=(1024, 512))  # 2.4 MB
LIKE = {
  'params/fc1/kernel': (64, 1024), 'params/fc1/bias': (1024,), 'params/fc2/kernel': (1024, 512),
  'params/fc2/bias': (512,), 'params/out/kernel': (512, 10), 'params/out/bias': (10,),
}  # fmt: skip
SETTINGS = dict(
  student=WIDE, codec=dict(name='low_rank', method='gram'), batch=64,
  partition=dict(name='iid', clients=3),
)  # fmt: skip
SECURE = """
from configs.fedkd import digits

def get_config():
  c = digits.get_config('quick')
  with c.unlocked():
    c.fedavg.federation.rules.secure = 2
  return c
"""
PATIENCE = 240  # long before that Flower says that a node is gone


def free() -> str:
  with socket.socket() as one:
    one.bind(('127.0.0.1', 0))
    return f'127.0.0.1:{one.getsockname()[1]}'


class Proxy:
  """Counts the bytes between one SuperNode and the SuperLink, both ways."""

  def __init__(self, address: str):
    host, port = address.split(':')
    self.there, self.listener = (host, int(port)), socket.create_server(('127.0.0.1', 0))
    self.address = f'127.0.0.1:{self.listener.getsockname()[1]}'
    self.bytes = dict(up=0, down=0)
    threading.Thread(target=self._accept, daemon=True).start()

  def _accept(self):
    while True:
      try:
        near = self.listener.accept()[0]
        far = socket.create_connection(self.there)
      except OSError:
        return
      for of, to, way in (near, far, 'up'), (far, near, 'down'):
        threading.Thread(target=self._pass_on, args=(of, to, way), daemon=True).start()

  def _pass_on(self, of, to, way):
    try:
      while data := of.recv(2**16):
        self.bytes[way] += len(data)
        to.sendall(data)
      to.shutdown(socket.SHUT_WR)
    except OSError:
      of.close()


def lie(node: superlink.Node):
  """Client 2: not a number, then an update of another round, then killed before it answers."""
  like = {name: np.zeros(shape) for name, shape in LIKE.items()}
  for number in range(3):
    (head, data), reply = node.wait()
    assert head['round'] == number
    if number == 2:
      os.killpg(node.process.child.pid, signal.SIGKILL)
      return
    _, message = unpack(data, like) if number == 0 else (None, None)
    message = message or {name: dict(dense=np.zeros(shape)) for name, shape in LIKE.items()}
    letter = Letter(2, 0, 'guessed', 9.0)
    if number == 0:
      letter = unpack(data, like)[0]._replace(weight=9.0)
      message['params/out/bias'] = dict(dense=np.full(10, np.nan))
    reply(({}, pack(message, letter)))


@pytest.fixture(scope='module')
def carried(digits, tmp_path_factory):
  """dict(net, run, clients, proxy, refused) of one federation of three clients over Flower."""
  pytest.importorskip('flwr')
  from launch import certificates

  keys, address, logs = tmp_path_factory.mktemp('k'), free(), tmp_path_factory.mktemp('logs')
  certificates.write(keys, ('127.0.0.1',), 4)
  (keys / 'server' / '3.pub').unlink()  # whom the server does not know
  homes = [pathlib.Path(tempfile.mkdtemp(prefix='reduction-')) for _ in range(5)]
  for name in range(5):
    (logs / f'{name}').mkdir()
  listener, path = superlink.listening(homes[4])
  server, nodes, found = superlink.Server(address, keys / 'server', homes[4], logs / '4'), [], {}
  proxy, others = Proxy(address), [server.link]

  def work(client, node):
    learn = working.working(node.wait, client, 'c')
    found[client] = done(fedkd(learn, **SETTINGS), digits)

  try:
    with listener, server.start(listener, path) as line:
      for i in range(4):
        to = proxy.address if i == 0 else address
        nodes.append(
          superlink.Node(to, keys / f'{i}', homes[i], logs / f'{i}', 3600 if i < 3 else 0)
        )
      plain = superlink.Process('flower-supernode', [
        '--insecure', '--superlink', address, '--max-wait-time', '5', '--host', '127.0.0.1',
        '--port', free().split(':')[1],
      ], homes[3], logs / 'plain.log')  # fmt: skip
      others.append(plain)
      threads = [threading.Thread(target=work, args=(i, nodes[i]), daemon=True) for i in (0, 1)]
      threads.append(threading.Thread(target=lie, args=(nodes[2],), daemon=True))
      for thread in threads:
        thread.start()
      ask = superlink.asking(line, server.nodes, PATIENCE)
      net, run = done(fedkd(serving.serving(ask, 'c'), **SETTINGS), digits)
      for thread in threads:
        thread.join(120)
      with pytest.raises(TryAgain) as stranger:
        nodes[3].wait()
      ends = dict(stranger=str(stranger.value), plain=plain.child.wait(60), said=plain.why())
    yield dict(net=net, run=run, clients=found, proxy=proxy, **ends)
  finally:
    for process in (*(node.process for node in nodes), *others):
      process.end(grace=5)
    for home in homes:
      shutil.rmtree(home, ignore_errors=True)


def test_a_frame_is_the_only_array_of_a_message():
  """Each further one takes kilobytes of HTTP; so factors lie in one frame with their manifest."""
  pytest.importorskip('flwr')
  flower = importlib.import_module('reduction.federate.flower')
  content = flower.packed(b'a frame')
  assert [list(record) for record in content.values()] == [[flower.NAME]]
  assert flower.frame(content) == b'a frame'


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_flower_carries_what_frames_carry_bit_for_bit(carried, digits, same):
  """Beside the liar, whom the other federation never hears of."""
  net, run, clients, _ = networked(fedkd, digits, clients=(0, 1), **SETTINGS)
  assert same(carried['net'], net)
  for client, (student, _) in carried['clients'].items():
    assert same(student, net) and same(clients[client][0], net)
  assert set(carried['clients']) == {0, 1}
  told = lambda run: [(row['up_bytes'][0], row['clients']) for row in rows(run, 'round')]
  lies = 4 * sum(math.prod(shape) for shape in LIKE.values())  # of two rounds: they have travelled
  sent = [(up + more, clients) for (up, clients), more in zip(told(run), (lies, lies, 0))]
  assert told(carried['run']) == sent and [clients for _, clients in sent] == [[2]] * 3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_liars_stale_and_killed_clients_are_refused_by_name(carried):
  found = {row['step']: row for row in rows(carried['run'], 'refusal')}
  assert {row['client'] for row in found.values()} == {2}
  assert 'not finite' in found[1]['reason'] and 'of round 0 in round 1' in found[2]['reason']
  assert 'in time' in found[3]['reason'] or 'went away' in found[3]['reason']


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_strangers_and_plain_text_are_not_let_in(carried):
  assert carried['plain'] not in (0, None), carried['said']
  assert 'could not establish a connection to the SuperLink' in carried['said']
  assert 'Failed to activate' in carried['stranger'], carried['stranger']


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_bytes_on_the_wire_are_those_that_are_counted(carried):
  """Within 2 %, TLS, HTTP and the polling of an idle SuperNode included."""
  _, run = carried['clients'][0]
  (row,) = rows(run, 'federated')
  last = next(r for r in rows(carried['run'], 'closing'))
  counted = row['up_bytes'][0] + row['down_bytes'][0] + rows(run, 'closed')[0]['down_bytes']
  assert counted > 2**20 and last['clients'] == 2
  wire = carried['proxy'].bytes
  assert counted <= sum(wire.values()) <= 1.02 * counted, (wire, counted)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_three_commands_make_the_federation_that_launch_run_makes(launch, tmp_path):
  """FedAvg by secure aggregation, in four exchanges a round, then FedKD."""
  pytest.importorskip('flwr')
  keys, address = tmp_path / 'keys', f'--address={free()}'
  (tmp_path / 'secure.py').write_text(SECURE)
  chosen = [f'--config={tmp_path / "secure.py"}']
  chosen += [
    f'--config.{name}.federation.partition.clients=2' for name in ('fedavg', 'fedkd')
  ]

  def start(command, name, *more):
    places = f'--workdir={tmp_path / name}', f'--keys={keys / name}'
    return launch.start(command, *chosen, *places, address, *more, module='launch.federate')

  made = launch('keys', f'--keys={keys}', '--clients=2', address, module='launch.federate')
  assert made.code == 0, made.err
  for party in start('server', 'server'), *(start('client', n, f'--number={n}') for n in '01'):
    ended = party.wait()
    assert ended.code == 0, ended.err
  assert launch(*chosen, f'--workdir={tmp_path / "alone"}').code == 0

  def told(name):
    lines = (tmp_path / name / 'metrics.jsonl').read_text().splitlines()
    found = [row for row in map(json.loads, lines) if row['kind'] == 'federated']
    return [[row[key] for key in ('up_bytes', 'down_bytes', 'test_accuracy')] for row in found]

  (hidden, distilled), (plain, wanted) = told('server'), told('alone')
  assert distilled == wanted
  # of each of two clients in each of three rounds: keys, shares, what lifts the masks
  size = lambda shapes: 4 * sum(x.size for x in shapes.values())
  up = sum(size(veiled.says(exchange, {}, 2)) for exchange in (0, 1, 3))
  down = sum(size(veiled.hears(exchange, 2)) for exchange in (1, 2, 3))
  assert hidden[0][0] == plain[0][0] + 3 * up and hidden[1][0] == plain[1][0] + 3 * down
  assert hidden[2] == pytest.approx(plain[2], abs=0.01)


@pytest.mark.skipif(not shutil.which('setpriv'), reason='no setpriv')
def test_a_command_that_is_killed_leaves_no_process_of_flowers(tmp_path, monkeypatch):
  """Here sleep stands for one of them."""
  script = tmp_path / 'command.py'
  script.write_text(f"""
import pathlib, time
from launch import superlink
superlink.program = lambda name: '/bin/sleep'
home = pathlib.Path({str(tmp_path)!r})
made = superlink.Process('flower-supernode', [600], home, home / 'log')
print(made.child.pid, flush=True)
time.sleep(600)
""")
  root = str(superlink.ROOT)
  command = subprocess.Popen(
    [sys.executable, str(script)], stdout=subprocess.PIPE, text=True,
    env=os.environ | {'PYTHONPATH': root},
  )  # fmt: skip
  child = pathlib.Path('/proc') / command.stdout.readline().strip()
  until = time.monotonic() + 30
  while not (child / 'cmdline').read_text().startswith('/bin/sleep'):
    assert time.monotonic() < until  # it is still setpriv
    time.sleep(0.05)
  command.kill()
  command.wait()
  while child.exists() and '(sleep) Z' not in (child / 'stat').read_text():
    assert time.monotonic() < until, 'it goes on'
    time.sleep(0.05)


def config(**changes):
  stage = dict(stage='fedkd', federation=dict(rounds=1, batch=8, partition=dict(name='own')))
  return dict(data=dict(name='digits'), model=WIDE, stages=('kd',), seeds=(0,), kd=stage) | changes


@pytest.mark.parametrize('changes, says', [
  (dict(seeds=(0, 1)), 'one seed'), (dict(kd=dict(stage='tune')), 'is a federation'),
  (dict(kd=dict(stage='fedmd', federation={}, optimizer={})), 'fedmd crosses no network'),
])  # fmt: skip
def test_configs_that_cross_no_network_are_refused(changes, says):
  with pytest.raises(UsageError, match=says):
    federate.check(config(**changes))


def test_parties_that_would_wait_for_each_other_in_vain_are_refused(tmp_path):
  four = dict(stage='fedkd', federation=dict(partition=dict(name='iid', clients=4)))
  for number in 0, 2:
    (tmp_path / f'{number}.pub').touch()
  with pytest.raises(UsageError, match=r'4 clients, .* no key of 1, 3: make all'):
    federate.check_clients(config(kd=four), tmp_path, None)
  with pytest.raises(UsageError, match='--number=4 must be from 0 to 3'):
    federate.check_clients(config(kd=four), tmp_path, 4)
  federate.check_clients(config(kd=four), tmp_path, 3)


def test_what_parties_must_agree_in_is_not_data_of_their_own():
  one = federate.agreed(config())
  assert one == federate.agreed(config(data=dict(name='mnist'), title='other'))
  assert one != federate.agreed(config(seeds=(1,)))
  dealt = dict(stage='fedkd', federation=dict(rounds=1, batch=8, partition=dict(name='iid')))
  one = federate.agreed(config(kd=dealt))
  assert one != federate.agreed(config(kd=dealt, data=dict(name='mnist')))


def test_answers_that_are_no_frames_are_errors():
  good = frames.joined(dict(a=1), b'body')
  assert superlink.opened(good) == (dict(a=1), b'body')
  for bad in (b'', good[:-1], good + b'x', frames.LENGTHS.pack(2, 0) + b'[]', b'\xff' * 40):
    head, body = superlink.opened(bad)
    assert 'no frame' in head['error'] and not body


def test_flower_tells_nobody_and_installs_nothing(tmp_path):
  found = superlink.environment(tmp_path)
  assert found['FLWR_TELEMETRY_ENABLED'] == '0' and found['FLWR_DISABLE_UPDATE_CHECK'] == '1'
  assert found['FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION'] == '1'


def test_long_answers_stay_behind(tmp_path, monkeypatch):
  """What a node says beyond the bytes that its round can have reaches no server."""
  pytest.importorskip('flwr')
  flower = importlib.import_module('reduction.federate.flower')
  said = [(1, bytes(101)), (2, bytes(100))]
  monkeypatch.setattr(flower, 'exchanged', lambda *given: iter(said))
  listener, path = superlink.listening(tmp_path)
  where = types.SimpleNamespace(run_config=dict(socket=str(path)))
  thread = threading.Thread(target=flower.serve, args=(None, where), daemon=True)
  with listener:
    thread.start()
    with listener.accept()[0] as line:
      frames.send(line, dict(nodes=[], seconds=1, gather=False, most=100))
      found = [frames.parted(frames.receive(line, 100)) for _ in range(3)]
  thread.join(20)
  assert [head['node'] for head, _ in found] == [1, 2, None] and found[1][1] == bytes(100)
  assert superlink.opened(found[0][1])[0] == dict(error='101 bytes, above 100')
