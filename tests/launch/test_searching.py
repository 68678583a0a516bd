"""The benchmark of costs: its rows are those of networks that the planner agrees on."""

import pytest

from configs.bench.search import get_config
from launch.bench import run
from launch.benchmarks.sides import Session
from reduction.config import canonical


@pytest.mark.slow
def test_networks_a_second_of_those_that_the_planner_agrees_on():
  lines = []
  row, step = run(canonical(get_config('quick')), Session(None, '', lines.append))
  assert row['equal'] == 1 and row['networks'] == 100
  assert row['per_second'] > 0
  by_hand = step['supernet_ms'] / step['plain_ms']
  assert step['traces'] == 1 and step['ratio'] == pytest.approx(by_hand, rel=0.01)
  assert any(f'{row["per_second"]:,} networks a second' in line for line in lines)
