"""Products with INT4 weights as others do them: peers of configs/bench/packed.py.

Needs torch, onnx and onnxruntime, llama-cpp-python, or some of them. The first line of stdin holds
the settings, each further line a job. Weights are random: only the time counts. ONNX Runtime gets
one graph of all copies and one session: many sessions spin against each other.
"""

import importlib.metadata
import json
import sys
import tempfile
import time

import numpy as np
from packed_ggml import q4_0  # beside this file, which runs as a program


def torch_int4(rows, columns, count, copies, group):
  """run() -> all products of PyTorch's own INT4 linear, bfloat16 inputs."""
  import torch

  random = torch.randint(0, 256, (columns, rows // 2), dtype=torch.uint8)
  codes = torch.stack([random & 15, random >> 4], -1).reshape(columns, rows).to(torch.int32)
  packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 2)
  scales = torch.rand(rows // group, columns, 2).to(torch.bfloat16)
  weights = [(packed.clone(), scales.clone()) for _ in range(copies)]
  x = torch.rand(count, rows).to(torch.bfloat16)
  product = torch.ops.aten._weight_int4pack_mm_for_cpu

  def run():
    for w, s in weights:
      product(x, w, group, s)

  return run


def onnx_int4(rows, columns, count, copies, group, level):
  """run() -> all products of MatMulNBits. level: accuracy_level, 4 for int8 inputs."""
  import onnx
  import onnxruntime
  from onnx import TensorProto, helper, numpy_helper

  random, nodes, weights = np.random.default_rng(0), [], []
  groups = rows // group
  codes = random.integers(0, 256, (columns, groups, group // 2), np.uint8)
  scales = random.random((columns, groups), np.float32)
  zeros = random.integers(0, 256, (columns, (groups + 1) // 2), np.uint8)
  how = dict(K=rows, N=columns, bits=4, block_size=group, accuracy_level=level)
  for i in range(copies):
    names = [f'{part}{i}' for part in ('codes', 'scales', 'zeros')]
    for name, array in zip(names, (codes ^ np.uint8(i), scales, zeros)):  # alike, they are shared
      weights.append(numpy_helper.from_array(array, name))
    nodes.append(helper.make_node(
      'MatMulNBits', ['x', *names], [f'y{i}'], domain='com.microsoft', **how
    ))  # fmt: skip
  value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
  outputs = [value(f'y{i}', (count, columns)) for i in range(copies)]
  graph = helper.make_graph(nodes, 'products', [value('x', (count, rows))], outputs, weights)
  opsets = [helper.make_opsetid('', 21), helper.make_opsetid('com.microsoft', 1)]
  model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
  with tempfile.NamedTemporaryFile(suffix='.onnx') as file:
    onnx.save(model, file.name)
    session = onnxruntime.InferenceSession(file.name, providers=['CPUExecutionProvider'])
  x = random.random((count, rows), np.float32)
  return lambda: session.run(None, {'x': x})


KINDS = {
  'torch int4': torch_int4,
  'onnxruntime, level 0': lambda *shape: onnx_int4(*shape, 0),
  'onnxruntime, level 4': lambda *shape: onnx_int4(*shape, 4),
  'ggml Q4_0': q4_0,
}


def installed():
  """The peers that are there, with their versions."""
  for name in 'torch', 'onnxruntime', 'llama-cpp-python':
    for found in importlib.metadata.distributions(name=name):
      yield f'{name} {found.version}'


def main():
  """Answers each job with the seconds of a product, or with what is missing."""
  settings = json.loads(sys.stdin.readline())
  print(json.dumps(dict(kinds=list(KINDS), about=', '.join(installed()))), flush=True)
  made = {}
  for line in sys.stdin:
    job = json.loads(line)
    shape = job['rows'], job['columns'], job['count']
    copies = max(2, settings['bytes'] * 2 // (shape[0] * shape[1]))
    try:
      key = job['kind'], *shape
      if key not in made:
        made = {k: run for k, run in made.items() if k[1:] == shape}
        made[key] = KINDS[job['kind']](*shape, copies, settings['group'])
        made[key]()
      began = time.perf_counter()
      made[key]()
      reply = dict(seconds=(time.perf_counter() - began) / copies)
    except ModuleNotFoundError as error:
      reply = dict(missing=error.name)
    print(json.dumps(reply), flush=True)


if __name__ == '__main__':
  main()
