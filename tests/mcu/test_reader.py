"""Files of trained nets are read, and what is no such file is refused in one line."""

import pytest

from reduction.errors import DataError, MissingInput, UserError
from reduction.mcu import interpret, reader
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
