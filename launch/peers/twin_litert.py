"""int8 networks as LiteRT runs them: the peer of configs/bench/twin.py.

Needs ai-edge-litert. The first line of stdin holds the settings, each further line a job.
"""

import importlib.metadata
import json
import sys
import time

import numpy as np


def runner(file, kind, count, threads):
  """run(x int8 [count, h, w, c]) -> int8 outputs. kind: 'reference' or 'XNNPACK'."""
  from ai_edge_litert import interpreter as litert

  types = litert.OpResolverType
  how = types.BUILTIN_REF if kind == 'reference' else types.AUTO
  net = litert.Interpreter(model_path=file, num_threads=threads, experimental_op_resolver_type=how)
  given = net.get_input_details()[0]
  net.resize_tensor_input(given['index'], [count, *given['shape'][1:]])
  net.allocate_tensors()
  output = net.get_output_details()[0]['index']

  def run(x):
    net.set_tensor(given['index'], x)
    net.invoke()
    return net.get_tensor(output)

  return run


def main():
  """Answers each job with the seconds of a batch, or with what is missing."""
  settings = json.loads(sys.stdin.readline())
  found = importlib.metadata.distributions(name='ai-edge-litert')
  print(json.dumps(dict(about=', '.join(f'{x.name} {x.version}' for x in found))), flush=True)
  made = {}
  for line in sys.stdin:
    job = json.loads(line)
    x, count, key = np.load(job['images']), job['count'], (job['file'], job['kind'], job['count'])
    try:
      if key not in made:
        made[key] = runner(*key, settings['threads'])
        made[key](x[:count])
      began = time.perf_counter()
      found = [made[key](x[i : i + count]) for i in range(0, len(x), count)]
      seconds = time.perf_counter() - began
      outputs = np.concatenate(found).tobytes().hex()
      reply = dict(seconds=seconds, images=len(x), outputs=outputs)
    except ModuleNotFoundError as error:
      reply = dict(missing=error.name)
    print(json.dumps(reply), flush=True)


if __name__ == '__main__':
  main()
