"""Trained .tflite models: equal to TensorFlow Lite for Microcontrollers and to LiteRT, bit for bit.

LiteRT's dense layers round their factor once where TFLM (and its own convolutions) round twice;
ours are TFLM's, so that LiteRT is compared layer by layer, dense layers with one rounding.
"""

import numpy as np
import pytest

from reduction.errors import DataError, MissingInput, UserError
from reduction.mcu import flatbuffer, interpret, reader
from reduction.mcu import graph as g
from tests.mcu import nets

tflite = pytest.importorskip('tflite', reason='reading .tflite files needs the package tflite')
QUICK = [n if n != 'in3' else pytest.param(n, marks=pytest.mark.slow) for n in nets.SHIPPED]


def fed(graph, x, shape, dtype):
  """One input as a runtime of the whole file takes it."""
  real = x if dtype == np.int8 else interpret.dequantize(x, graph.tensors[graph.inputs[0]])
  return real.reshape(shape)


@pytest.mark.parametrize('name', QUICK)
def test_tflite_micro_gives_the_same_bytes(name):
  runtime = pytest.importorskip('tflite_micro', reason='needs the package tflite-micro').runtime
  graph = nets.shipped(name)
  micro = runtime.Interpreter.from_file(str(nets.SHIPPED[name]))
  given = micro.get_input_details(0)
  x = nets.inputs(graph, 3)
  for one, q in zip(x, interpret.interpret(graph, x)[0]):
    micro.set_input(fed(graph, one, given['shape'], given['dtype']), 0)
    micro.invoke()
    want, found = micro.get_output(0).ravel(), q.ravel()
    if want.dtype == np.float32:
      found = interpret.dequantize(found, graph.tensors[graph.outputs[0]])
    if 'LOG_SOFTMAX' in graph.note:
      found = found - np.log(np.exp(found).sum())
      np.testing.assert_allclose(found, want, atol=1e-5)
    else:
      assert np.array_equal(found, want)


def rounded_once(op, x, zero, output):
  """A dense layer as LiteRT's reference does it."""
  sums = op.weights.astype(np.int64) @ (x.reshape(-1).astype(np.int64) - zero) + op.bias
  right = 31 - op.shift.astype(np.int64)
  scaled = (sums * op.multiplier + (np.int64(1) << (right - 1))) >> right
  return np.clip(scaled + output.zero, op.low, op.high)


@pytest.mark.parametrize('name', QUICK)
def test_every_layer_is_litert_s(name):
  litert = pytest.importorskip('ai_edge_litert.interpreter', reason='needs ai-edge-litert')
  graph = nets.shipped(name)
  whole = litert.Interpreter(
    model_path=str(nets.SHIPPED[name]), experimental_preserve_all_tensors=True,
    experimental_op_resolver_type=litert.OpResolverType.BUILTIN_REF,
  )  # fmt: skip
  whole.allocate_tensors()
  given = whole.get_input_details()[0]
  at = {d['name']: d['index'] for d in whole.get_tensor_details()}
  one = nets.inputs(graph, 1)[0]
  whole.set_tensor(given['index'], fed(graph, one, given['shape'], given['dtype']))
  whole.invoke()
  values = interpret.every(graph, one[None])
  for op in graph.ops:
    output = graph.tensors[op.output]
    want = whole.get_tensor(at[output.name])
    if isinstance(op, g.Mean) and want.ndim > 2:  # which the file holds transposed
      want = np.moveaxis(want[0], 0, -1)
    found = values[op.output]
    if isinstance(op, g.Dense):
      found = rounded_once(op, values[op.inputs[0]], graph.tensors[op.inputs[0]].zero, output)
      values[op.output] = want.astype(np.int8).reshape(values[op.output].shape)
    assert np.array_equal(found.ravel(), want.ravel()), op.name


def test_in3_has_the_known_bits():
  """The hash that LiteRT, TFLM and TFLM with CMSIS-NN on a Cortex-M4 gave for one made-up input."""
  from reduction.mcu import measure

  graph = nets.shipped('in3')
  logits = interpret.interpret(graph, measure.inputs(graph, 1))[0]
  assert measure.fnv(logits) == 3511579802
  assert logits.argmax() == 533
  assert sum(map(graph.macs, graph.ops)) == 81_785_520


def test_float_models_are_refused():
  path = nets.DATA / 'tinyml/ic_resnet_float.tflite'
  if not path.is_file():
    pytest.skip('the float models are not in $REDUCTION_DATA')
  with pytest.raises(UserError, match='int8 model'):
    reader.read(path)


@pytest.mark.parametrize(
  'data', [b'', b'TFL3', b'\0' * 100, b'\xff\xff\xff\xffTFL3' + b'\xff' * 50]
)
def test_bytes_that_are_no_model_are_refused(tmp_path, data):
  path = tmp_path / 'x.tflite'
  path.write_bytes(data)
  with pytest.raises(DataError):
    reader.read(path)
  with pytest.raises(MissingInput, match='is not there'):
    reader.read(tmp_path / 'y.tflite')


def mutated(data: bytes, random) -> bytes:
  """data with some bytes changed, mostly where a flatbuffer keeps its structure, or cut short."""
  found = bytearray(data)
  places = random.integers(0, len(found), random.integers(1, 8))
  for at in np.where(random.random(len(places)) < 0.7, len(found) - 1 - places % 20_000, places):
    found[at] = random.choice([0, 1, 127, 128, 255, random.integers(0, 256)])
  return bytes(found[: random.integers(8, len(found))] if random.random() < 0.1 else found)


def refused(name: str, count: int, seed: int) -> int:
  """How many mutations of a model are refused; any other error than ours is raised."""
  nets.shipped(name)
  data, random, wrong = nets.SHIPPED[name].read_bytes(), np.random.default_rng(seed), 0
  for _ in range(count):
    try:
      reader.build(flatbuffer.parse(mutated(data, random), 'mutant'))
    except UserError as error:
      wrong += 1
      assert '\n' not in str(error)
  return wrong


def test_mutated_models_are_read_or_refused():
  assert refused('ic_resnet', 100, 0) > 5


@pytest.mark.slow
def test_many_mutated_models_are_read_or_refused():
  assert refused('ic_resnet', 1_500, 1) > 75
  assert refused('te_lenet', 1_500, 2) > 75
