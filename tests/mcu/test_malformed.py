"""Files that are damaged or hostile: our error in one line, no crash, no large allocation."""

import contextlib
import dataclasses
import pathlib
import tracemalloc

import numpy as np
import pytest

from reduction.errors import DataError, UserError
from reduction.mcu import emit, flatbuffer, host, reader, sketch, writer
from reduction.mcu import graph as g
from reduction.mcu import plan as p
from tests.mcu import nets, random_nets

pytest.importorskip('tflite', reason='reading .tflite files needs the package tflite')
ALLOWED = 8 * 2**20  # bytes beside what the file has; the largest table of pixels takes 3 MiB


def mutated(data: bytes, random) -> bytes:
  """data with some bytes changed, mostly where a flatbuffer keeps its structure, or cut short."""
  found = bytearray(data)
  places = random.integers(0, len(found), random.integers(1, 8))
  for at in np.where(random.random(len(places)) < 0.7, len(found) - 1 - places % 20_000, places):
    found[at] = random.choice([0, 1, 127, 128, 255, random.integers(0, 256)])
  return bytes(found[: random.integers(8, len(found))] if random.random() < 0.1 else found)


@contextlib.contextmanager
def bounded():
  """Within, this process may take no more than ALLOWED more memory."""
  resource = pytest.importorskip('resource', reason='limits are POSIX')
  held = next(line for line in pathlib.Path('/proc/self/status').read_text().splitlines()
              if line.startswith('VmSize'))  # fmt: skip
  before = resource.getrlimit(resource.RLIMIT_AS)
  most = int(held.split()[1]) * 1024 + ALLOWED + 2**26  # and 64 MiB of holes
  resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_AS, before)


def refused(files: list[bytes], count: int, seed: int) -> int:
  """How many mutations are refused; any other error than ours is raised."""
  random, wrong = np.random.default_rng(seed), 0
  for i in range(count):
    try:
      reader.build(flatbuffer.parse(mutated(files[i % len(files)], random), 'mutant'))
    except UserError as error:
      wrong += 1
      assert '\n' not in str(error) and len(str(error)) < 2_500
  return wrong


def small() -> list[bytes]:
  """Files of random graphs, with all operators among them."""
  graphs = [random_nets.build(seed, longest=2) for seed in range(60)]
  assert len({type(op) for graph in graphs for op in graph.ops}) == 13
  return [writer.write(graph) for graph in graphs]


def test_mutated_files_are_read_or_refused():
  files = small()
  tracemalloc.start()
  assert refused(files, 200, 0) > 40
  most = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert most < ALLOWED


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path('/proc/self/status').is_file(), reason='needs Linux')
def test_ten_thousand_mutated_files_are_read_or_refused():
  files = small()
  with bounded():
    assert refused(files, 10_000, 1) > 2_000


@pytest.mark.slow
@pytest.mark.parametrize('name', ['ic_resnet', 'te_lenet'])
def test_mutated_trained_models_are_read_or_refused(name):
  nets.shipped(name)
  assert refused([nets.SHIPPED[name].read_bytes()], 100, 2) > 5


@pytest.mark.parametrize('cut', [0, 3, 8, 20, 100])
def test_files_cut_short_are_refused(cut):
  with pytest.raises(DataError, match='is no'):
    flatbuffer.parse(writer.write(nets.mobile())[:cut], 'x')


def large(**fields) -> flatbuffer.File:
  """A file of one op with fields of its output changed."""
  s = sketch.Sketch((4, 4, 2))
  sketch.copied(s, g.Resize, [0], (8, 8, 2), rows=tuple(np.arange(8) // 2),
                columns=tuple(np.arange(8) // 2))  # fmt: skip
  file = flatbuffer.parse(writer.write(sketch.finish(s, 'large')), 'large')
  at = file.operators[0].outputs[0]
  file.values[at] = file.values[at]._replace(**fields)
  return file


def test_a_scale_that_is_no_number_is_refused():
  data = writer.write(nets.residual())
  scale = np.float32(nets.residual().tensors[0].scale).tobytes()
  with pytest.raises(DataError, match='has scales'):
    flatbuffer.parse(data.replace(scale, np.float32(np.inf).tobytes()), 'x')


def test_an_image_of_no_pixels_is_refused():
  with pytest.raises(UserError, match=r'resizes to \(0, 8, 2\)'):
    reader.build(large(shape=(1, 0, 8, 2)))


@pytest.mark.parametrize('shape', [(1, 2**30, 2, 2), (1, 2**15, 8, 2), (1, 2**14, 2**14, 2**10)])
def test_a_size_that_a_file_only_claims_takes_no_memory(shape):
  tracemalloc.start()
  with pytest.raises(UserError, match=r'resizes to|too large'):
    reader.build(large(shape=shape))
  most = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert most < ALLOWED


def test_a_hostile_name_goes_from_a_file_to_c_as_letters(tmp_path):
  """Of the net, of layers and of tensors; the C still compiles without a warning."""
  pytest.importorskip('jinja2', reason='writing C needs jinja2')
  evil = 'foo"); system("x'
  graph = nets.residual()
  named = lambda x, i: dataclasses.replace(x, name=f'{evil}{i} */ #error <script>')
  graph = dataclasses.replace(
    graph, ops=tuple(named(op, op.output) for op in graph.ops),
    tensors=tuple(named(t, i) for i, t in enumerate(graph.tensors)),
  )  # fmt: skip
  path = tmp_path / f'{evil}.tflite'
  path.write_bytes(writer.write(graph))
  found = reader.read(path)
  assert found.name == evil and found.ops[0].name == graph.ops[0].name
  source = emit.emit(found, p.plan(found))
  assert set(source.files) == {'foo_system_x.c', 'foo_system_x.h'}
  text = ''.join(source.files.values())
  for part in ('<script>', 'foo"', 'system("', '#error <', '*/ _error'):
    assert part not in text
  if host.compiler():
    x = nets.inputs(found, 1)
    assert np.array_equal(host.run(source, found, x)[0], host.run(
      emit.emit(nets.residual(), p.plan(nets.residual())), nets.residual(), x)[0])  # fmt: skip
