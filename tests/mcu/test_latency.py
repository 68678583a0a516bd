"""The table of instructions: what it interpolates, and how far off it is where it has no row."""

import pytest

from reduction.errors import UsageError
from reduction.mcu import latency, measure

absent = measure.missing()
emulated = pytest.mark.skipif(bool(absent), reason=f'needs {absent}')
HELD = latency.Shape(6, 6, 28, 20, 3, 1), latency.Shape(7, 7, 16, 12, 3, 1)


@pytest.fixture(scope='module')
def table():
  return latency.read()


def test_what_was_measured_is_what_is_said_and_between_is_linear(table):
  assert {row.core for row in table.rows} == {'m4'} and table.forms == ['bitmap', 'fwcs']
  assert [(r.form, r.shape, r.kept) for r in table.rows] == latency.items()
  for row in table.rows:
    found = table.instructions(row.form, row.shape, row.kept)
    alone = (row.form, row.shape) not in table.lines
    assert found == pytest.approx(row.instructions, rel=0.2 if alone else 1e-9)
  (form, shape), line = next(iter(table.lines.items()))
  middle = (line[0, 0] + line[1, 0]) / 2
  assert table.instructions(form, shape, middle) == pytest.approx(line[:2, 1].mean())


def test_loops_are_counted_by_hand():
  """5 x 5 pixels: six blocks of four and one alone; 2 fours of channels and a rest of 1."""
  shape = latency.Shape(5, 5, 9, 4, 3, 1)
  assert shape.pixels == 25 and shape._replace(stride=2).pixels == 9
  found = latency.features('fwcs', shape, 7)
  assert found.tolist() == [1, 25, 225, 450, 225, 100, 28, 49, 98, 49]


def test_a_form_without_rows_is_refused(table):
  with pytest.raises(UsageError, match="no rows of 'csr'"):
    table.instructions('csr', HELD[0], 10)


@emulated
def test_shapes_that_it_lacks_are_predicted_within_5_percent(table):
  assert not {row.shape for row in table.rows} & set(HELD)
  items = [(form, shape, round(share * 9 * shape.cout)) for shape in HELD
           for form, share in (('dense', 1), ('fwcs', 0.6), ('bitmap', 0.3))]  # fmt: skip
  mean, _ = table.error(latency.measured(items))
  assert mean <= 0.05
