"""Files of trained nets are read, and what is no such file is refused in one line."""

import numpy as np
import pytest

from reduction.errors import DataError, MissingInput, UserError
from reduction.mcu import flatbuffer, interpret, reader
from tests.mcu import nets

tflite = pytest.importorskip('tflite', reason='reading .tflite files needs the package tflite')
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
