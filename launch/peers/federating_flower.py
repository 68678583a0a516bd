"""Rounds of FedAvg as Flower simulates them, a peer of configs/bench/federate.py.

Needs flwr[simulation] and jax. The first line of stdin holds the settings, each further line a job.
Digits are replaced by random numbers of their shape: only the time counts. Clients train as ours
do, by one compiled scan, which each of Ray's actors compiles once.
"""

import importlib.metadata
import itertools
import json
import os
import sys
import time

os.environ.update(FLWR_TELEMETRY_ENABLED='0', FLWR_DISABLE_UPDATE_CHECK='1')
os.environ.update(RAY_USAGE_STATS_ENABLED='0', RAY_DEDUP_LOGS='0', JAX_PLATFORMS='cpu')
os.environ |= {'RAY_worker_niceness': '0'}  # else actors give way to all that runs beside them
PIXELS, CLASSES = 64, 10


def parameters(widths):
  """Weights and biases of an MLP."""
  import numpy as np

  rng, sizes = np.random.default_rng(0), (PIXELS, *widths, CLASSES)
  made = []
  for rows, columns in itertools.pairwise(sizes):
    made.append(rng.standard_normal((rows, columns), np.float32) / np.float32(rows**0.5))
    made.append(np.zeros(columns, np.float32))
  return made


def trainer():
  """train(weights, x [steps, batch, pixels], y): SGD of 0.1, compiled."""
  import jax
  import jax.numpy as jnp

  def loss(weights, x, y):
    for i in range(0, len(weights), 2):
      x = x @ weights[i] + weights[i + 1]
      x = jax.nn.relu(x) if i + 2 < len(weights) else x
    return -jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], 1).mean()

  def step(weights, batch):
    grads = jax.grad(loss)(weights, *batch)
    return [w - 0.1 * g for w, g in zip(weights, grads)], None

  return jax.jit(lambda weights, x, y: jax.lax.scan(step, weights, (x, y))[0])


_trainers = []  # one a process, as one would write it for Ray's actors


def apps(settings, clients, rounds, seen):
  """(server, client) of a simulation; seen: takes the time after each round."""
  from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
  from flwr.clientapp import ClientApp
  from flwr.serverapp import ServerApp
  from flwr.serverapp.strategy import FedAvg

  client, server = ClientApp(), ServerApp()
  steps = max(1, settings['examples'] // settings['batch'])

  @client.train()
  def train(message, context):
    import numpy as np

    if not _trainers:
      _trainers.append(trainer())
    rng = np.random.default_rng(context.node_config['partition-id'])
    x = rng.random((steps, settings['batch'], PIXELS), np.float32)
    y = rng.integers(0, CLASSES, (steps, settings['batch']), np.int32)
    weights = message.content['arrays'].to_numpy_ndarrays()
    new = [np.asarray(w) for w in _trainers[0](weights, x, y)]
    content = RecordDict({
      'arrays': ArrayRecord(new), 'metrics': MetricRecord({'num-examples': settings['examples']}),
    })  # fmt: skip
    return Message(content=content, reply_to=message)

  @server.main()
  def main(grid, context):
    del context
    strategy = FedAvg(
      fraction_evaluate=0.0, min_available_nodes=clients, min_train_nodes=clients
    )
    strategy.start(
      grid=grid, initial_arrays=ArrayRecord(parameters(settings['widths'])), num_rounds=rounds,
      evaluate_fn=lambda number, arrays: seen.append(time.perf_counter()),
    )  # fmt: skip

  return server, client


def simulated(settings, clients, rounds) -> dict:
  """Seconds of `rounds` rounds; the first, in which actors start and compile, does not count."""
  from flwr.simulation import run_simulation

  seen = []
  server, client = apps(settings, clients, rounds + 1, seen)
  resources = dict(client_resources=dict(num_cpus=1, num_gpus=0.0))
  run_simulation(server, client, num_supernodes=clients, backend_config=resources)
  return dict(seconds=seen[-1] - seen[1], rounds=rounds)


def main():
  """Answers each job with its seconds, or with what is missing."""
  settings = json.loads(sys.stdin.readline())
  answers = os.fdopen(os.dup(1), 'w')  # Flower and Ray write to stdout
  os.dup2(2, 1)
  found = importlib.metadata.distributions(name='flwr')
  about = ', '.join(f'{x.name} {x.version}' for x in found)
  print(json.dumps(dict(about=about)), file=answers, flush=True)
  for line in sys.stdin:
    job = json.loads(line)
    try:
      reply = simulated(settings, job['clients'], job['rounds'])
    except (ModuleNotFoundError, ImportError) as error:
      reply = dict(missing=error.name or str(error))
    print(json.dumps(reply), file=answers, flush=True)


if __name__ == '__main__':
  main()
