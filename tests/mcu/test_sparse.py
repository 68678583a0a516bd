"""Stored filterlets: exact bytes, limits, and the same outputs as the dense layer bit for bit."""

import dataclasses
import shutil
import subprocess

import numpy as np
import pytest

from reduction.errors import UsageError
from reduction.mcu import accounts, emit, host, interpret, measure, replay, sketch, sparse, twin
from reduction.mcu import plan as p
from reduction.mcu.overlap import Style

pytest.importorskip('jinja2', reason='writing C needs jinja2')
compiled = pytest.mark.skipif(not host.compiler(), reason='needs a C compiler')
absent = measure.missing()
emulated = pytest.mark.skipif(bool(absent), reason=f'needs {absent}')


def pruned(weights, share, unit='filterlet', seed=0):
  """weights [cout, kh, kw, cin] of which the share of random units stays, exactly."""
  cout, kh, kw, _ = weights.shape
  random = np.random.default_rng(seed)
  filters = -(-cout // 2) if unit == 'paired' else cout
  shape = weights.shape if unit == 'weight' else (filters, kh, kw, 1)
  kept = random.permutation(np.prod(shape)).reshape(shape) < round(share * np.prod(shape))
  kept = np.repeat(kept, 2, 0)[:cout] if unit == 'paired' else kept
  return np.where(kept, np.where(weights == 0, 1, weights), 0).astype(np.int8)


def with_weights(graph, change):
  """graph with change(op) in place of every convolution."""
  ops = tuple(change(op) if op.kind == 'conv' else op for op in graph.ops)
  return dataclasses.replace(graph, ops=ops)


def forms_in_turn(s, shares=(0.5, 0.4, 0.7, 0.3)) -> tuple:
  """(a graph of dense layers with zeros, the same with a form of each): all forms, in turn."""
  dense = sketch.finish(s, 'forms')
  count = iter(range(len(s.ops)))
  units = dict(zip(sparse.FORMATS, ('filterlet', 'filterlet', 'paired', 'weight', 'weight')))
  order = list(sparse.FORMATS)

  def change(op):
    unit = units[order[next(count) % 5]]
    return dataclasses.replace(op, weights=pruned(op.weights, shares[len(op.weights) % 4], unit))

  dense, turn = with_weights(dense, change), iter(range(len(s.ops)))
  columns = (4, 2, 2, 4, 1, 1, 4, 2)

  def stored(op):
    i = next(turn)
    return sparse.as_form(op, order[i % 5], columns[i % 8])

  return dense, with_weights(dense, stored)


def all_forms():
  """Odd sizes, strides, rests of channels, an odd count of filters, sums between them."""
  s = sketch.Sketch((9, 7, 3))
  x = sketch.conv(s, 0, 9, kernel=3)
  x = sketch.conv(s, x, 8, kernel=3, stride=2)
  x = sketch.conv(s, x, 7, kernel=(3, 1))
  y = sketch.conv(s, sketch.conv(s, x, 6, kernel=5), 7, kernel=3)
  x = sketch.conv(s, sketch.add(s, x, y), 5, kernel=3)
  x = sketch.conv(s, x, 4, kernel=2, pad=(1, 0, 0, 1))
  sketch.conv(s, x, 6, kernel=1)
  return forms_in_turn(s)


def test_the_interpreter_computes_what_the_dense_layers_do():
  dense, stored = all_forms()
  x = np.random.default_rng(1).integers(-128, 128, (5, 9, 7, 3), np.int8)
  a, b = (interpret.interpret(g, x)[0] for g in (dense, stored))
  assert np.array_equal(a, b) and len(np.unique(a)) > 3
  assert {op.form for op in stored.ops if op.kind == 'conv'} == set(sparse.FORMATS)
  assert np.array_equal(twin.twin(stored)(x)[0], a)


@compiled
def test_the_c_gives_the_interpreter_s_bytes_and_reads_nothing_beyond():
  """Under the sanitizers, and within a plan in which tensors overlap."""
  dense, stored = all_forms()
  x = np.random.default_rng(1).integers(-128, 128, (5, 9, 7, 3), np.int8)
  made = p.plan(stored)
  p.check(stored, made)
  assert replay.replay(stored, made) > 0
  source = emit.emit(stored, made)
  found = host.run(source, stored, x, flags=(*host.STRICT, *host.SANITIZED))[0]
  assert np.array_equal(found, interpret.interpret(dense, x)[0])
  want = sum(x.nbytes for op in stored.ops if op.kind == 'conv' for x in op.stored())
  rest = sum(9 * len(op.bias) for op in stored.ops if op.kind == 'conv')
  assert source.constants == want + rest  # the compiler checks that sum too


@pytest.mark.skipif(not shutil.which('clang-format'), reason='needs clang-format')
def test_clang_format_changes_nothing(tmp_path):
  _, stored = all_forms()
  text = emit.emit(stored, p.plan(stored)).files['forms.c']
  (tmp_path / '.clang-format').write_text(emit.template('clang-format.j2'))
  command = ['clang-format', '--style=file', '--assume-filename=forms.c']
  done = subprocess.run(command, cwd=tmp_path, input=text, capture_output=True, text=True)
  assert done.stdout == text


@emulated
@pytest.mark.parametrize('core', ['m4', 'm55', pytest.param('m0', marks=pytest.mark.slow)])
def test_the_emulated_core_gives_the_interpreter_s_bytes(core):
  dense, stored = all_forms()
  found = measure.measure(emit.emit(stored, p.plan(stored)), core=core, runs=2)
  want = interpret.interpret(dense, measure.inputs(dense, 2))[0]
  assert found.hashes == [measure.fnv(one) for one in want]


@emulated
def test_half_of_the_filterlets_take_half_of_the_instructions():
  """64 channels, 3 x 3, against our own dense convolution with its zeros; 'wide' beats that."""
  s = sketch.Sketch((8, 8, 64))
  sketch.conv(s, 0, 64, kernel=3)
  half = lambda unit: with_weights(
    sketch.finish(s, 'half'),
    lambda op: dataclasses.replace(op, weights=pruned(op.weights, 0.5, unit)),
  )

  def count(graph, core='m4'):
    found = measure.measure(emit.emit(graph, p.plan(graph)), core=core)
    want = interpret.interpret(graph, measure.inputs(graph, 1))[0]
    assert found.hashes == [measure.fnv(want[0])]
    return found.instructions

  form = lambda graph, *how: with_weights(graph, lambda op: sparse.as_form(op, *how))
  dense = count(half('filterlet'))
  single, narrow = (count(form(half('filterlet'), 'fwcs', columns)) for columns in (4, 2))
  paired = count(form(half('paired'), 'paired', 2))
  assert single <= 0.45 * dense
  assert paired < narrow <= 0.65 * dense  # at the same scratch
  wide = form(half('filterlet'), 'wide')
  assert count(wide) <= 0.82 * dense
  vectors = count(half('filterlet'), 'm55')
  assert count(form(half('filterlet'), 'fwcs'), 'm55') <= 0.65 * vectors
  assert count(wide, 'm55') <= vectors


VGG11 = ((3, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 128), (128, 256),
         (256, 256), (256, 256))  # fmt: skip
TABLE = {  # bytes over those of the dense weights, at the shares of filterlets or weights kept
  'fwcs': (1.014, 0.912, 0.508, 0.305, 0.204, 0.102),
  'csr': (3.00, 2.70, 1.50, 0.90, 0.60, 0.30),
  'element_bitmap': (1.125, 1.025, 0.625, 0.425, 0.325, 0.225),
  'bitmap': (1.001, 0.900, 0.501, 0.301, 0.200, 0.101),
}


@pytest.mark.parametrize('form', TABLE)
def test_the_storage_table_of_vgg_11(form):
  """The 1,908,576 weights of DTMM's VGG-11; a layer beyond 16 bits is counted, not packed."""
  unit = 'filterlet' if form in sparse.OF_FILTERLETS else 'weight'
  shapes = [(cout, 3, 3, cin) for cin, cout in VGG11]
  total = sum(np.prod(shape) for shape in shapes)
  assert total == 1_908_576
  for share, want in zip((1, 0.9, 0.5, 0.3, 0.2, 0.1), TABLE[form]):
    made = [pruned(np.ones(shape, np.int8), share, unit) for shape in shapes]
    found = sum(sparse.nbytes(weights, form) for weights in made)
    assert found / total == pytest.approx(want, abs=0.006 if form == 'csr' else 0.0012), share
    filters, places = sum(cout for _, cout in VGG11), sum(9 * cout for _, cout in VGG11)
    if share == 1:  # by hand: 1,344 filters in ten layers
      more = dict(fwcs=2 * places + 2 * (filters + 10), csr=2 * total + 2 * (filters + 10),
                  element_bitmap=total // 8, bitmap=places // 8)  # fmt: skip
      assert found == total + more[form]


def test_fwcs_by_hand():
  weights = np.zeros((2, 2, 2, 2), np.int8)
  weights[0, 0, 1], weights[0, 1, 1], weights[1, 1, 0] = (1, 2), (3, 0), (0, 4)
  stored = sparse.pack_fwcs(weights)
  assert stored.values.tolist() == [1, 2, 3, 0, 0, 4]
  assert stored.places.tolist() == [2, 6, 4] and stored.starts.tolist() == [0, 2, 3]
  assert stored.nbytes == sparse.nbytes(weights, 'fwcs') == 6 + 6 + 6
  assert sparse.pack_bitmap(weights).places.tolist() == [0b0100_1010]
  pair = sparse.pack_paired(weights)
  assert pair.places.tolist() == [0b1110]
  assert pair.values.tolist() == [1, 2, 0, 0, 0, 0, 0, 4, 3, 0, 0, 0]


@pytest.mark.parametrize('form', sparse.FORMATS)
@pytest.mark.parametrize('shape', [(5, 3, 3, 4), (4, 1, 1, 3), (7, 5, 5, 1), (1, 3, 2, 6)])
def test_unpacking_gives_the_weights_and_bytes_are_what_is_said(form, shape):
  for share in (0.0, 0.3, 1.0):
    random = np.random.default_rng(0).integers(-127, 128, shape).astype(np.int8)
    weights = pruned(random, share, 'weight' if form == 'csr' else 'filterlet')
    stored = sparse.FORMATS[form].pack(weights)
    assert np.array_equal(sparse.FORMATS[form].unpack(stored, shape), weights)
    assert stored.nbytes == sparse.nbytes(weights, form)


def test_what_passes_16_bits_is_refused_or_kept_in_another_form():
  wide = np.zeros((2, 3, 3, 3641), np.int8)  # 32,769 bytes of a window
  many = np.ones((3641, 3, 3, 1), np.int8)  # 32,769 filterlets
  assert 'window of 32,769' in sparse.unfit(wide, 'fwcs')
  assert '32,769 filterlets' in sparse.unfit(many, 'fwcs')
  assert not sparse.unfit(many, 'bitmap') and not sparse.unfit(wide[..., :3640], 'fwcs')
  assert '49 places' in sparse.unfit(np.ones((1, 7, 7, 1), np.int8), 'paired')
  s = sketch.Sketch((3, 3, 1))
  sketch.conv(s, 0, 3641, kernel=3)
  graph = with_weights(sketch.finish(s, 'many'), lambda op: dataclasses.replace(op, weights=many))
  with pytest.raises(UsageError, match='cannot be kept as fwcs: its 32,769 filterlets'):
    sparse.as_form(graph.ops[0], 'fwcs')


def test_each_layer_is_kept_in_the_form_of_the_fewest_bytes():
  """No threshold: what is counted is what is stored, for the first layer as for all others."""
  s = sketch.Sketch((8, 8, 3))
  x = sketch.conv(s, 0, 8, kernel=3)
  x = sketch.conv(s, sketch.depthwise(s, x), 8, kernel=3)
  sketch.conv(s, x, 4)
  shares = iter((1.0, 0.5, 0.5))
  graph = with_weights(
    sketch.finish(s, 'mixed'),
    lambda op: dataclasses.replace(op, weights=pruned(op.weights, next(shares))),
  )
  small = sparse.sparsify(graph)
  for before, after in zip(graph.ops, small.ops):
    if before.kind == 'depthwise' or before.window.kernel == (1, 1):
      assert after is before
      continue
    options = {f: sparse.nbytes(before.weights, f) for f in ('dense', *sparse.OF_FILTERLETS)}
    chosen = after.form if isinstance(after, sparse.Sparse) else 'dense'
    assert options[chosen] == min(options.values())
  assert [type(op).__name__ for op in small.ops] == ['Conv', 'Depthwise', 'Sparse', 'Conv']
  constants = lambda graph: emit.emit(graph, p.plan(graph)).constants
  saved = graph.ops[2].weights.size - sparse.nbytes(graph.ops[2].weights, small.ops[2].form)
  assert constants(graph) - constants(small) == saved > 0
  skipped = graph.ops[2].weights.size - small.ops[2].stored().values.size
  less = accounts.microjoules(graph, 0) - accounts.microjoules(small, 0)
  assert less == pytest.approx(64 * skipped * 0.3e-6)  # of 8 x 8 pixels


def test_tensors_that_are_not_aligned_are_refused():
  _, stored = all_forms()
  style = Style(align=2)
  with pytest.raises(UsageError, match='aligned to 4'):
    emit.emit(stored, p.plan(stored, style))
