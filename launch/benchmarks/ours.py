"""The project's side of the training benchmark: what users run, a job for each line on stdin.

The first line holds the settings; see `launch.benchmarks.training`.
"""

import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from reduction import models, prune
from reduction.config import call
from reduction.net import create, over_replicas
from reduction.run import Run
from reduction.train import train
from reduction.update import classification, classified, optimizer, sgd, start


def nothing(params, stats, split) -> dict:
  """The evaluation that costs no time: what is left is training."""
  del params, stats, split
  return dict(loss=jnp.float32(0), accuracy=jnp.float32(0))


def side(settings: dict):
  """ask(job) -> reply, on the arrays in the file settings['data']."""
  module = call(models, settings['model'], 'model')
  tx = optimizer(**settings['optimizer'])
  update, evaluate = sgd(classification(module), tx), classified(module)
  with np.load(settings['data']) as file:
    data = jax.device_put((file['x'], file['y']))
    watched = dict(validation=jax.device_put((file['validation_x'], file['validation_y'])))
  cut = over_replicas(prune.smallest, (0, 0, None))

  def begin(run: Run):
    net = create(module, run.key('init', 0), data[0][:1])
    fractions = prune.by_name(net.params, (('kernel', 1 - settings['kept']),))
    masks = cut(prune.magnitude(net.params), prune.all_kept(net.params), fractions)
    return start(net.params, net.stats, masks, tx)

  def ask(seeds: list[int], steps: int, evaluated: bool) -> dict:
    run = Run(seeds=seeds)
    state = jax.block_until_ready(begin(run))
    began = time.perf_counter()
    state, best = train(
      update, evaluate if evaluated else nothing, state, data, watched, run,
      steps=steps, batch=settings['batch'], every=settings['every'],
    )  # fmt: skip
    jax.block_until_ready((state, best))
    seconds = time.perf_counter() - began
    losses = [float(loss) if evaluated else None for loss in best.loss]
    return dict(seconds=seconds, validation_loss=losses)

  return ask


def limit(size: int = 2_048) -> float:
  """float32 GFLOP/s of a [size, size] matrix product on all cores."""
  product = jax.jit(jnp.matmul)
  a = jnp.ones((size, size), jnp.float32) / size
  product(a, a).block_until_ready()
  began = time.perf_counter()
  product(a, a).block_until_ready()
  return 2 * size**3 / (time.perf_counter() - began) / 1e9


def answer(ask, **about):
  """Says what this side is, then answers each line of stdin: ask(**job), or the `limit`."""
  print(json.dumps(about), flush=True)
  for line in sys.stdin:
    job = json.loads(line)
    print(json.dumps(dict(gflops=limit()) if 'limit' in job else ask(**job)), flush=True)


def main():
  """The settings are the first line of stdin."""
  ask = side(json.loads(sys.stdin.readline()))
  answer(ask, about=f'jax {jax.__version__}, a thread a core')


if __name__ == '__main__':
  main()
