"""A federation over a network, by Flower: a server and clients, each with the same config.

    python -m launch.federate keys --keys=runs/keys --clients=4 --address=127.0.0.1:9290
    python -m launch.federate server --config=configs/fedkd/digits.py:quick --workdir=runs/server \\
      --keys=runs/keys/server --address=127.0.0.1:9290
    python -m launch.federate client --config=configs/fedkd/digits.py:quick --workdir=runs/0 \\
      --keys=runs/keys/0 --number=0 --address=127.0.0.1:9290

The config has four clients: there is one more line for each. Client number i holds the i-th part of
the config's partition; partition=dict(name='own', ...) where each has data of its own. All of the
config's stages run at every party, those with a federation over the network. TLS and keys of the
clients are always on, what Flower tells its makers and installs by itself always off. Run a line
again and it goes on where it was. Needs pip install 'reduction[flower]'; read SECURITY.md before
you open a port.
"""

import inspect
import json
import pathlib
import sys
import tempfile

from absl import flags

from launch import cli

FLAGS = flags.FLAGS
cli.define('config', 'workdir', 'data_dir', 'platform')
flags.DEFINE_string('keys', None, 'A folder that `keys` made: its server, 0, 1...')
flags.DEFINE_string('address', '127.0.0.1:9290', 'HOST:PORT at which clients reach the server.')
flags.DEFINE_integer('clients', 2, 'Of `keys`: how many clients.')
flags.DEFINE_integer('number', None, 'Of `client`: its number, from 0.')
flags.DEFINE_float(
  'patience', 3600, 'Seconds that a round waits for answers, a client for a server.'
)
COMMANDS = 'keys', 'server', 'client'


def check(config: dict):
  """Raises UsageError for a config whose federations cannot all cross a network."""
  from launch.run import check as check_parts
  from reduction import stages
  from reduction.config import bound
  from reduction.errors import require

  check_parts(config)
  federated = [name for name in config['stages'] if 'federation' in config[name]]
  require(federated, f'none of the stages {", ".join(config["stages"])} is a federation')
  require(len(config['seeds']) == 1, f'a network trains one seed, not seeds={config["seeds"]}')
  for name in federated:
    function, _ = bound(stages, config[name], name, key='stage')
    able = 'learn' in inspect.signature(function).parameters
    require(able, f'config.{name}: {function.__name__} crosses no network; leave it out')


def check_clients(config: dict, keys: pathlib.Path, number: int | None):
  """Raises UsageError unless the server has a key of every client, or number is one of them."""
  from reduction.errors import require

  for name in (name for name in config['stages'] if 'federation' in config[name]):
    count = config[name]['federation']['partition']['clients']
    told = f'config.{name} has {count} clients'
    if number is not None:
      require(0 <= number < count, f'{told}: --number={number} must be from 0 to {count - 1}')
      continue
    absent = [i for i in range(count) if not (keys / f'{i}.pub').is_file()]
    way = f'make all with `launch.federate keys --clients={count}`'
    require(not absent, f'{told}, {keys} has no key of {", ".join(map(str, absent))}: {way}')


def agreed(config: dict) -> str:
  """A digest of what all parties must have: model, stages and seeds, and data that are shared out
  among them, not where each has its own."""
  from reduction.tree import digest_of

  federations = [config[name].get('federation', {}) for name in config['stages']]
  own = all(one.get('partition', {}).get('name') == 'own' for one in federations if one)
  names = 'model', 'stages', 'seeds', *config['stages'], *(() if own else ('data',))
  parts = {name: config[name] for name in names}
  return digest_of({'config': json.dumps(parts, sort_keys=True)})


def serve(config: dict, workdir: pathlib.Path, keys: pathlib.Path, home: pathlib.Path):
  """The server's part of every federation of a config; see `launch.run.run`."""
  from launch.run import run
  from launch.superlink import Server, asking, listening
  from reduction.federate.serving import serving

  listener, path = listening(home)
  server = Server(FLAGS.address, keys, home, workdir)
  try:
    with listener, server.start(listener, path) as line:
      ask = asking(line, server.nodes, FLAGS.patience)
      run(config, workdir, FLAGS.data_dir, learn=serving(ask, agreed(config)), save_every=0)
  finally:
    server.link.end()


def work(config: dict, workdir: pathlib.Path, keys: pathlib.Path, home: pathlib.Path):
  """A client's part of every federation of a config."""
  from launch.run import run
  from launch.superlink import Node
  from reduction.federate.working import working

  node = Node(FLAGS.address, keys, home, workdir, FLAGS.patience)
  learn = working(node.wait, FLAGS.number, agreed(config))
  try:
    with node.listener:
      run(config, workdir, FLAGS.data_dir, learn=learn, save_every=0)
  finally:
    node.process.end()


def main(argv):
  from launch import certificates
  from reduction import checkpoint, report
  from reduction.errors import require

  command = argv[1] if len(argv) == 2 else None
  require(command in COMMANDS, f'python -m launch.federate {"|".join(COMMANDS)} --keys=...')
  require(FLAGS.keys, '--keys is needed: a folder, which `launch.federate keys` makes')
  keys = pathlib.Path(FLAGS.keys)
  if command == 'keys':
    require(FLAGS.clients > 0, f'--clients={FLAGS.clients} must be above 0')
    require(not keys.exists(), f'{keys} is there already; remove it to make new keys')
    hosts = (FLAGS.address.rsplit(':', 1)[0], 'localhost')
    certificates.write(keys, tuple(dict.fromkeys(hosts)), FLAGS.clients)
    print(f"{keys}/server is the server's; give each client its own of {keys}/0...")
    return
  require(FLAGS.workdir, '--workdir is needed: where the run is kept, such as runs/server')
  needed = ('ca.pem', 'server.pem', 'server.key') if command == 'server' else ('ca.pem', 'key')
  for name in needed:
    require((keys / name).is_file(), f'--keys={keys} has no {name}; see `launch.federate keys`')
  require(command == 'server' or FLAGS.number is not None, "--number is needed: this client's")
  cli.set_platform(FLAGS.platform)
  config, workdir = cli.config(), pathlib.Path(FLAGS.workdir)
  check(config)
  check_clients(config, keys, FLAGS.number if command == 'client' else None)
  with checkpoint.lock(workdir), tempfile.TemporaryDirectory(prefix='reduction-') as home:
    cli.log_to(workdir)
    (serve if command == 'server' else work)(config, workdir, keys, pathlib.Path(home))
    _, page = report.write(workdir)
  report.show(workdir)
  print(f'\nReport: {page}', file=sys.stdout)


if __name__ == '__main__':
  cli.run(main)
