"""AWQ followed by GPTQ as qwix does them: the peer of configs/bench/awq.py.

Needs qwix alone. The first line of stdin holds the settings, each further line a job. What
`qwix.contrib`'s providers and `quantize_params` compute is called directly, each input's statistics
once; as there, nothing is jitted.
"""

import json
import sys
import time

try:
  import jax
  import jax.numpy as jnp
  import numpy as np
  from qwix._src.core import qarray
  from qwix.contrib import awq_core, gptq_core
except ModuleNotFoundError as error:
  print(json.dumps(dict(missing=error.name)), flush=True)
  sys.exit()


def quantize(kernels, x, group):
  """Kernels [out, rows] that stand for what they were rounded to. x: [rows, tokens]."""
  how = qarray.HowToQuantize(qtype=jnp.int4, channelwise_axes=[0], tiled_axes={1: group})
  most, hessian = awq_core.compute_act_scale(x, axis=1), gptq_core.compute_hessian(x)
  new = []
  for w in kernels:
    scale = awq_core.search_optimal_scales(w, most, how)
    by = scale.reshape(-1)
    q, _ = gptq_core.quantize_weight(w * scale, hessian / jnp.outer(by, by), how)
    new.append(qarray.dequantize(q) / scale)
  return jax.block_until_ready(new)


def main():
  """Answers each job with its seconds and the errors of all outputs."""
  settings = json.loads(sys.stdin.readline())
  random, inputs = np.random.default_rng(0), []
  for rows, columns in settings['layers']:  # as `launch.benchmarks.quantizing_ours.layers`
    by = np.exp(random.standard_normal(rows)).astype(np.float32)
    x = by * random.standard_normal((settings['tokens'], rows), np.float32)
    kernels = [random.standard_normal((rows, n), np.float32) / 16 for n in columns]
    inputs.append((jnp.asarray(x.T), [jnp.asarray(w.T) for w in kernels]))
  print(json.dumps(dict(about=f'jax {jax.__version__}')), flush=True)
  for _ in sys.stdin:
    began = time.perf_counter()
    found = [quantize(kernels, x, settings['group']) for x, kernels in inputs]
    seconds = time.perf_counter() - began
    errors = [
      float((((new - w) @ x) ** 2).sum() / ((w @ x) ** 2).sum())
      for (x, kernels), news in zip(inputs, found) for w, new in zip(kernels, news)
    ]  # fmt: skip
    print(json.dumps(dict(seconds=seconds, error=float(np.mean(errors)))), flush=True)


if __name__ == '__main__':
  main()
