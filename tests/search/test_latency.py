"""Predicted instructions: exact where they are a sum of the features, near the emulator's count."""

import dataclasses

import numpy as np
import pytest

from reduction.errors import UsageError
from reduction.mcu import emit, measure, plan, zoo
from reduction.search import arch as a
from reduction.search import cost as c
from reduction.search import latency
from reduction.search import space as s

SPACE = s.space('mcunet', resolutions=(32, 48), widths=(0.2, 0.3))
ONE = SPACE.at(32, 0.2)  # whose networks share shapes


def ops(genes):
  return c.ops_of_arch(s.decode(SPACE, genes))


def made_up(one):
  """7 instructions a multiply-accumulate, 2 an input, 30 an output and 500 an op that is there."""
  rows = latency.features(one)[0]
  return (rows @ [7, 2, 30, 0, 0, 500])[one.kind[0] != c.ABSENT]


def test_what_is_a_sum_of_the_features_is_predicted_exactly():
  genes = s.sample(SPACE, np.random.default_rng(0), 40)
  table = latency.fit([(ops(row), made_up(ops(row))) for row in genes[:20]])
  for row in genes[20:]:
    np.testing.assert_allclose(latency.predict(table, ops(row))[0], made_up(ops(row)).sum(), 1e-5)
  many = c.ops_of(SPACE, genes[20:])
  np.testing.assert_allclose(
    latency.predict(table, many), [latency.predict(table, ops(row))[0] for row in genes[20:]]
  )
  other = s.decode(dataclasses.replace(SPACE, kernels=(9,)), np.zeros_like(genes[0]))
  with pytest.raises(UsageError, match='no measured network has'):
    latency.predict(table, c.ops_of_arch(other))


def counted(space, genes):
  """(ops, instructions of each) of a network on the emulated Cortex-M4."""
  network = s.decode(space, genes)
  graph = zoo.build(a.description(network), 'net', network.resolution)
  found = measure.measure(emit.emit(graph, plan.plan(graph))).layers
  return c.ops_of_arch(network), found


@pytest.mark.slow
@pytest.mark.skipif(measure.missing() is not None, reason=f'needs {measure.missing()}')
def test_the_table_s_sum_is_within_5_percent_of_the_emulator():
  space = dataclasses.replace(ONE, stages=ONE.stages[:3])
  genes = s.sample(space, np.random.default_rng(1), 8)
  table = latency.fit([counted(space, row) for row in genes[:7]])
  for row in genes[7:]:
    one, counts = counted(space, row)
    assert latency.predict(table, one)[0] == pytest.approx(sum(counts), rel=0.05)
