"""The project's side of the teaching benchmark; see `launch.benchmarks.teaching`."""

import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from launch.benchmarks.ours import answer, nothing
from reduction import models, prune
from reduction.data.augment import jitter
from reduction.distill.student import distilled
from reduction.net import create
from reduction.run import Run
from reduction.train import train
from reduction.update import classification, optimizer, sgd, start

EXAMPLES = 60_000


def side(settings: dict):
  """ask(lesson, steps) -> reply, on random images."""
  rng = np.random.default_rng(0)
  x = jax.device_put(rng.random((EXAMPLES, 28, 28, 1), np.float32))
  y = jax.device_put(rng.integers(0, 10, EXAMPLES, np.int32))
  logits = jnp.asarray(5 * rng.standard_normal((1, EXAMPLES, 1, 10)), jnp.float32)
  numbers = dict(temperature=20.0, soft=1.0, hard=0.1, label_mix=0.0)
  given = dict(teacher=logits), {name: jnp.full(1, value) for name, value in numbers.items()}
  adam = optimizer('adam', learning_rate=1e-3, cosine=100_000)
  limited = optimizer('adam', learning_rate=1e-3, cosine=100_000, max_norm=3.87)
  teacher = models.mlp(widths=settings['teacher'], dropout=0.5, input_dropout=0.2)
  student = models.mlp(widths=settings['student'])
  lessons = dict(
    teacher=(teacher, classification(teacher), limited, dict(augment=jitter)),
    hard=(student, classification(student), adam, {}),
    soft=(student, distilled(student), adam, dict(given=given)),
  )

  def ask(lesson: str, steps: int) -> dict:
    module, loss, tx, more = lessons[lesson]
    run = Run(seeds=(0,))
    net = create(module, run.key('init', 0), x[:1])
    state = start(net.params, net.stats, prune.all_kept(net.params), tx)
    jax.block_until_ready(state)
    began = time.perf_counter()
    found = train(
      sgd(loss, tx), nothing, state, (x, y), {}, run, steps=steps, every=steps,
      batch=settings['batch'], **more,
    )  # fmt: skip
    jax.block_until_ready(found)
    return dict(seconds=time.perf_counter() - began)

  return ask


def main():
  """The settings are the first line of stdin."""
  settings = json.loads(sys.stdin.readline())
  ask = side({k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})
  answer(ask, about=f'jax {jax.__version__}')


if __name__ == '__main__':
  main()
