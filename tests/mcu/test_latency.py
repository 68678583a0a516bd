"""The table of instructions: what it interpolates, and how far off it is where it has no row."""

import dataclasses
import math

import numpy as np
import pytest

from reduction.errors import UsageError
from reduction.mcu import emit, latency, measure, plan, sketch

absent = measure.missing()
emulated = pytest.mark.skipif(bool(absent), reason=f'needs {absent}')
HELD = latency.Shape(6, 6, 28, 20, 3, 1), latency.Shape(7, 7, 16, 12, 3, 1)


@pytest.fixture(scope='module')
def table():
  return latency.read()


def test_what_was_measured_is_what_is_said_and_between_is_linear(table):
  assert {row.core for row in table.rows} == {'m4'}
  assert table.forms == ['bitmap', 'csr', 'fwcs', 'wide']
  assert [(r.form, r.shape, r.kept) for r in table.rows] == latency.items()
  for row in table.rows:
    assert table.instructions(*row[1:4]) == pytest.approx(row.instructions, rel=1e-9)
  (form, shape), line = next(one for one in table.lines.items() if one[0][0] == 'fwcs')
  assert table.instructions('wide', shape, 1) == table.instructions('wide', shape, 9 * shape.cout)
  middle = (line[0, 0] + line[1, 0]) / 2
  assert table.instructions(form, shape, middle) == pytest.approx(line[:2, 1].mean())


def test_loops_are_counted_by_hand():
  """5 x 5 pixels: six blocks of four and one alone; 2 fours of channels and a rest of 1."""
  shape = latency.Shape(5, 5, 9, 4, 3, 1)
  assert shape.pixels == 25 and shape._replace(stride=2).pixels == 9
  found = latency.features('fwcs', shape, 7)
  assert found.tolist() == [1, 25, 225, 450, 225, 100, 28, 49, 98, 49]


@pytest.mark.parametrize('core', ['m55', 'm3', 'm0'])
def test_every_core_has_a_table_and_its_loops_are_told(core):
  """Loops alone, fitted to the table, say it within 12 %; an M7 counts as an M4 does."""
  table = latency.read(core)
  assert [row[1:4] for row in table.rows] == latency.items()
  mean, _ = table.error(table.rows)
  assert mean <= 0.12
  assert latency.read('m7').rows == latency.read('m4').rows
  # one channel of sixteen: a vector for each place, and none that is full
  counted = latency.features('fwcs', latency.Shape(4, 4, 1, 2, 3, 1), 5, 'm55')
  assert counted[-2:].tolist() == [0, 20]
  with pytest.raises(UsageError, match=r"no rows of 'm85', it has m0, m3, m4, m55"):
    latency.read('m85')


def test_a_form_without_rows_is_refused(table):
  with pytest.raises(UsageError, match="no rows of 'paired'"):
    table.instructions('paired', HELD[0], 10)


def two_layers(share: float, structure: str):
  """A graph of two convolutions and a dense layer, pruned to a share of weights or filterlets."""
  random = np.random.default_rng(0)

  def kept(op):
    shape = (*op.weights.shape[:3], 1 if structure == 'filterlet' else op.weights.shape[3])
    chosen = random.permutation(math.prod(shape)) < share * math.prod(shape)
    return dataclasses.replace(op, weights=np.where(chosen.reshape(shape), op.weights | 1, 0))

  s = sketch.Sketch((8, 8, 16))
  x = sketch.conv(s, sketch.conv(s, 0, 24, kernel=3), 20, kernel=3)
  sketch.dense(s, x, 10)
  graph = sketch.finish(s, 'two')
  ops = [kept(op) if op.kind == 'conv' else op for op in graph.ops]
  return dataclasses.replace(graph, ops=tuple(ops))


@pytest.mark.parametrize(
  'structure, share, forms', [('weight', 0.1, ['csr', 'csr']), ('weight', 1.0, ['wide', 'wide']),
                              ('filterlet', 0.3, ['fwcs', 'fwcs'])])  # fmt: skip
def test_each_layer_runs_in_its_fastest_form(table, structure, share, forms):
  graph = two_layers(share, structure)
  fast = latency.fastest(graph, table)
  assert [op.form for op in fast.ops if op.kind == 'conv'] == forms
  assert latency.predicted(fast, table) < latency.predicted(graph, table)
  narrow = latency.fastest(graph, table, most=plan.plan(fast).peak - 1)
  assert 'wide' not in {getattr(op, 'form', 'dense') for op in narrow.ops}


@emulated
@pytest.mark.parametrize('structure, share', [('weight', 0.1), ('filterlet', 0.3)])
def test_a_net_takes_what_was_predicted(table, structure, share):
  graph = latency.fastest(two_layers(share, structure), table)
  found = sum(measure.measure(emit.emit(graph, plan.plan(graph))).layers)
  assert latency.predicted(graph, table) == pytest.approx(found, rel=0.05)


@emulated
def test_shapes_that_it_lacks_are_predicted_within_5_percent(table):
  assert not {row.shape for row in table.rows} & set(HELD)
  shares = dict(dense=1, wide=1, fwcs=0.6, bitmap=0.3, csr=0.2)
  size = lambda form, shape: 9 * shape.cout * (shape.cin if form == 'csr' else 1)
  items = [(form, shape, round(share * size(form, shape))) for shape in HELD
           for form, share in shares.items()]  # fmt: skip
  mean, _ = table.error(latency.measured(items))
  assert mean <= 0.05
