"""The project's side of the quantization benchmarks; see `launch.benchmarks.quantizing`."""

import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from launch.benchmarks.ours import answer
from reduction import language, opened, tree
from reduction.data import passages
from reduction.models.decoder import parts
from reduction.qtensor import Scheme
from reduction.quantize import awq, replay
from reduction.quantize import plan as plans
from reduction.quantize.calibrate import added, calibrate, empty
from reduction.quantize.gptq import gptq
from reduction.quantize.inputs import find
from reduction.quantize.method import Method
from reduction.quantize.preflight import preflight

BATCH, HELD, TOKENS = 4, 0.25, 512  # as in `stages.awq`


class Clock:
  """Seconds since the last call, once what is given is there."""

  def __init__(self):
    self.at = time.perf_counter()

  def __call__(self, *given) -> float:
    jax.block_until_ready(given)
    before, self.at = self.at, time.perf_counter()
    return self.at - before


def model(settings: dict):
  """(ask(block) -> seconds of each phase, what is known of the model)."""
  found = opened.language_model(settings['model'], settings['data_dir'])
  net, scheme = found.net, Scheme(4, settings['group'])
  data = passages(
    calibration=settings['calibration'], test=settings['calibration'], test_passages=1,
    examples=settings['examples'], length=settings['length'], encode=found.encode,
    vocabulary=net.module.vocabulary, data_dir=settings['data_dir'],
  )  # fmt: skip
  method = Method(scheme, 'awq', clip=True, tokens=TOKENS)
  embed, _, _ = language.programs(net.module)
  layer, x = parts(net.module)[1], data.train.x
  first = language.block(net, 'layer0')
  inputs = find(layer, first, jax.ShapeDtypeStruct((1, 2, net.module.width), jnp.float32))
  outside = language.outside(net, 'embed', 'positions')
  cut = range(0, len(x), BATCH)
  late = len(cut) - int(HELD * len(cut))
  cut_at = lambda batches: (batches[:late], batches[late:])  # those that search, those that judge
  states = [language.through(embed, outside, [x[i : i + BATCH] for i in cut])]
  row = preflight(net, x.shape, (0, 2), method=method, batch=BATCH, held=HELD)

  def ask(block: int) -> dict:
    batches, seconds, clock = [states[0][i : i + BATCH] for i in cut], {}, Clock()
    params = language.block(net, f'layer{block}')
    flat = {name: w.astype(jnp.float32) for name, w in tree.named(params)}
    clock(flat)
    after = []
    look = lambda part: calibrate(layer, params, part, inputs, passed=after.append)
    sums, others = (look(part) if part else None for part in cut_at(batches))
    states[0] = np.concatenate(after)
    seconds['calibrating'] = clock(sums, others)
    judges = replay.judges(layer, params, inputs, TOKENS, *cut_at(batches))
    plan = plans.search(flat, inputs, sums, method, others, judges)
    seconds['searching'] = clock(plan)
    every = plans.after(plans.joined(sums, others), plan)
    new = plans.apply(flat, inputs, plan, method, lambda one, so_far: every[one.linears[0]])
    seconds['rounding'] = clock(new)
    return dict(seconds=seconds)

  told = {name: row[f'{name}_flops'] for name in ('calibrating', 'searching', 'rounding')}
  return ask, dict(
    layers=net.module.layers, flops=told, parameters=row['params'], foreseen=row['memory_bytes']
  )


def layers(settings: dict):
  """ask(gptq) -> seconds, of AWQ followed by GPTQ on random layers, or of one GPTQ."""
  random, inputs = np.random.default_rng(0), []
  for rows, columns in settings['layers']:
    by = np.exp(random.standard_normal(rows)).astype(np.float32)
    x = by * random.standard_normal((settings['tokens'], rows), np.float32)
    kernels = [random.standard_normal((rows, n), np.float32) / 16 for n in columns]
    inputs.append((jnp.asarray(x), [jnp.asarray(w) for w in kernels]))
  size, scheme = settings['size'], Scheme(4, settings['group'], symmetric=True)
  summed = jax.jit(lambda x: added(empty(x.shape[-1]), x))

  def both(x, kernels):
    sums = summed(x)
    found = awq.search(kernels, sums, jnp.arange(len(sums.total)), scheme=scheme).scale
    gram = awq.scaled(sums, found).gram[0]
    packed = [gptq(w * found[:, None], gram, scheme=scheme) for w in kernels]
    return [(q.kernel, found) for q in packed]

  def ask(alone: bool) -> dict:
    if alone:
      x = jnp.asarray(random.standard_normal((size, size), np.float32))
      given = jax.block_until_ready((x, x @ x.T / size))
      clock = Clock()
      return dict(seconds=clock(gptq(*given, scheme=Scheme(4, settings['group']))))
    clock = Clock()
    found = [both(x, kernels) for x, kernels in inputs]
    seconds = clock(found)
    errors = [
      float(((x @ (new / scale[:, None] - w)) ** 2).sum() / ((x @ w) ** 2).sum())
      for (x, kernels), news in zip(inputs, found) for w, (new, scale) in zip(kernels, news)
    ]  # fmt: skip
    return dict(seconds=seconds, error=float(np.mean(errors)))

  return ask, {}


def main():
  """The settings are the first line of stdin."""
  settings = json.loads(sys.stdin.readline())
  ask, about = (model if 'model' in settings else layers)(settings)
  answer(ask, about=f'jax {jax.__version__}', **about)


if __name__ == '__main__':
  main()
