"""What LiteRT and TensorFlow Lite for Microcontrollers say of a .tflite file, where installed."""

import numpy as np
import pytest

from reduction.mcu import graph as g
from reduction.mcu import interpret


def fed(graph, x, shape, dtype):
  """One input, int8, as a runtime of the whole file takes it."""
  real = x if dtype == np.int8 else interpret.dequantize(x, graph.tensors[graph.inputs[0]])
  return real.reshape(shape)


def micro(data: bytes, graph, inputs) -> list[list[np.ndarray]]:
  """Outputs of TFLM, flat, for each of inputs, int8 [n, h, w, c]."""
  runtime = pytest.importorskip('tflite_micro', reason='needs the package tflite-micro').runtime
  net, found = runtime.Interpreter.from_bytes(data, arena_size=2**21), []
  given = net.get_input_details(0)
  for x in inputs:
    net.set_input(fed(graph, x, given['shape'], given['dtype']), 0)
    net.invoke()
    found.append([net.get_output(i).ravel() for i in range(len(graph.outputs))])
  return found


def differing(data: bytes, graph, inputs) -> list[str]:
  """Ops whose output is not what LiteRT's reference kernels make of the same input.

  LiteRT's dense layers round their factor once where TFLM, and ours, round twice: those are
  compared with one rounding.
  """
  litert = pytest.importorskip('ai_edge_litert.interpreter', reason='needs ai-edge-litert')
  net = litert.Interpreter(
    model_content=data, experimental_preserve_all_tensors=True,
    experimental_op_resolver_type=litert.OpResolverType.BUILTIN_REF,
  )  # fmt: skip
  net.allocate_tensors()
  given = net.get_input_details()[0]
  at = {d['name']: d['index'] for d in net.get_tensor_details()}
  known, wrong = _run(net, graph, inputs, given, at), []
  for op in graph.ops:
    tensors = [graph.tensors[i] for i in op.inputs], graph.tensors[op.output]
    values = [known[i] for i in op.inputs]
    if isinstance(op, g.Dense):
      found = rounded_once(op, values[0], tensors[0][0].zero, tensors[1])
    else:
      found = interpret.KERNELS[type(op)](op, values, *tensors)
    if not np.array_equal(found.reshape(-1), known[op.output].reshape(-1)):
      wrong.append(op.name)
  return wrong


def _run(net, graph, inputs, given, at) -> dict[int, np.ndarray]:
  """Every tensor of the graph, [n, h, w, c], as LiteRT has it."""
  found = {op.output: [] for op in graph.ops}
  for x in inputs:
    net.set_tensor(given['index'], fed(graph, x, given['shape'], given['dtype']))
    net.invoke()
    for op in graph.ops:
      output = graph.tensors[op.output]
      value = net.get_tensor(at[output.name])
      if isinstance(op, g.Mean) and value.ndim > 2 and value.shape[1:] != output.shape:
        value = np.moveaxis(value[0], 0, -1)  # which the file holds transposed
      found[op.output].append(value.reshape(output.shape))
  return {graph.inputs[0]: inputs} | {k: np.stack(v) for k, v in found.items()}


def rounded_once(op, x, zero, output):
  """A dense layer as LiteRT's reference does it. x: int8 [n, h, w, c]."""
  sums = (x.reshape(len(x), -1).astype(np.int64) - zero) @ op.weights.T.astype(np.int64) + op.bias
  right = 31 - op.shift.astype(np.int64)
  scaled = (sums * op.multiplier + (np.int64(1) << (right - 1))) >> right
  return np.clip(scaled + output.zero, op.low, op.high)
