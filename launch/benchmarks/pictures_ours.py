"""The project's side of the pictures benchmark; see `launch.benchmarks.pictures`."""

import json
import sys
import time

import jax
import numpy as np

from launch.benchmarks.ours import answer
from reduction import models, prune, tree
from reduction.config import call
from reduction.cost import cost
from reduction.kernels import conv, depthwise
from reduction.models import mobile
from reduction.net import create, over_replicas
from reduction.run import Run
from reduction.update import classification, optimizer, sgd, start

EXAMPLES = 1_024


def side(settings: dict):
  """(ask(steps) -> reply, multiply-adds of one image forward), on random images."""
  if settings['xla']:
    # this process measures what the forms of CPUs would otherwise avoid
    conv.chunked, mobile.convolve = conv.reference, depthwise.reference
  rng = np.random.default_rng(0)
  x = jax.device_put(rng.random((EXAMPLES, 32, 32, 3), np.float32))
  y = jax.device_put(rng.integers(0, 10, EXAMPLES, np.int32))
  run, module = Run(seeds=(0,)), call(models, settings['model'], 'model')
  net = create(module, run.key('init', 0), x[:1])
  tx = optimizer('sgd', learning_rate=0.01, momentum=0.9, l2=1e-4)
  update = sgd(classification(module), tx)
  state = tree.strong(start(net.params, net.stats, prune.all_kept(net.params), tx))

  def step(state, indices):
    return update(state, (x[indices], y[indices]), jax.random.key(0))[0], None

  # XLA's convolution is called step by step: inside a scan it is up to 90 times slower
  once = over_replicas(lambda state, indices: step(state, indices)[0], (0, None))
  many = over_replicas(lambda state, indices: jax.lax.scan(step, state, indices)[0], (0, None))

  def ask(steps: int) -> dict:
    indices = rng.integers(0, EXAMPLES, (steps, settings['batch']))
    began, now = time.perf_counter(), state
    if settings['xla']:
      for chosen in indices:
        now = once(now, chosen)
    else:
      now = many(now, indices)
    jax.block_until_ready(now)
    return dict(seconds=time.perf_counter() - began)

  return ask, cost(net, x[:1])['macs']


def main():
  """The settings are the first line of stdin."""
  ask, macs = side(json.loads(sys.stdin.readline()))
  answer(ask, about=f'jax {jax.__version__}', macs=macs)


if __name__ == '__main__':
  main()
