"""The benchmark of costs: its rows are those of networks that planner and emulator agree on."""

import pytest

from configs.bench.search import get_config
from launch.bench import run
from launch.benchmarks.searching import predicting, timing
from launch.benchmarks.sides import Session
from reduction.config import canonical
from reduction.mcu import measure


@pytest.mark.slow
def test_networks_a_second_of_those_that_the_planner_agrees_on():
  lines = []
  row, step = run(canonical(get_config('quick')), Session(None, '', lines.append))
  assert row['equal'] == 1 and row['networks'] == 100
  assert row['per_second'] > 0
  plain = step['plain_ms']
  assert step['traces'] == 1 and step['networks'] == 4
  assert step['ratio'] == pytest.approx(step['supernet_ms'] / plain, rel=0.01)
  assert step['ratio_in_sandwich'] == pytest.approx(step['sandwich_ms'] / plain / 4, rel=0.01)
  assert any(f'{row["per_second"]:,} networks a second' in line for line in lines)


def quick(name: str) -> dict:
  return canonical(get_config(f'{name},quick'))[name]


@pytest.mark.slow
@pytest.mark.skipif(measure.missing() is not None, reason=f'needs {measure.missing()}')
def test_sums_of_the_table_beside_the_emulator():
  (*rows, told), (table,) = predicting(**quick('predicting'))(Session())
  assert [row['measured'] for row in rows] == [False, True]  # the smallest, the largest
  for row in rows:
    assert row['error'] == pytest.approx(row['predicted'] / row['counted'] - 1, abs=1e-4)
  assert told['largest_error'] == max(abs(row['error']) for row in rows) < 0.05
  assert told['networks'] == 2 and told['measured'] == 1 and table.rows[0][0] == 'm7'


@pytest.mark.slow
def test_sums_of_this_cpu_s_times_beside_whole_networks():
  rows, (table,) = timing(**quick('timing'))(Session())
  *networks, told = rows
  assert [row['kind'] for row in rows] == ['timing', 'timing', 'timed'] and len(table.rows) == 2
  smallest, largest = networks
  assert 0 < smallest['whole_us'] < largest['whole_us'] and told['tau'] in (-1, 1)
  for row in networks:
    assert 0 < row['ratio_low'] <= row['ratio'] <= row['ratio_high']
