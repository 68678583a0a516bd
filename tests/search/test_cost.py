"""Costs without arrays: equal to the planner's and the graph's, and by hand."""

import dataclasses

import numpy as np
import pytest

from reduction.errors import UsageError
from reduction.mcu import accounts, emit, plan, zoo
from reduction.mcu.graph import Product
from reduction.search import arch as a
from reduction.search import cost as c
from reduction.search import space as s
from tests.search.test_space import TINY

KEYS = 'macs', 'params', 'flash', 'sram'


def by_graph(network):
  """macs, params, flash, sram and TinyEngine's bytes of a graph with weights, planned."""
  graph = zoo.build(a.description(network), 'net', network.resolution)
  made = plan.plan(graph)
  products = [op for op in graph.ops if isinstance(op, Product)]
  flash = sum(op.weights.size + 9 * len(op.bias) for op in products)
  return (zoo.macs(graph), zoo.parameters(graph), flash, made.peak), zoo.tinyengine(graph)


@pytest.mark.parametrize(
  'space, count',
  [
    (TINY, 12),
    (dataclasses.replace(TINY, head=24), 4),
    (dataclasses.replace(TINY, expansions=(1,)), 4),
    (s.space('mcunet', resolutions=(48, 96)), 3),
    (s.space('proxyless', resolutions=(128,), widths=(0.3, 0.5)), 1),
  ],
)
def test_all_that_is_counted_is_the_planner_s(space, count):
  genes = np.concatenate([s.extremes(space), s.sample(space, np.random.default_rng(1), count)])
  found = c.cost(c.ops_of(space, genes))
  engine = c.cost(c.ops_of(space, genes), memory='tinyengine')['sram']
  for i, row in enumerate(genes):
    network = s.decode(space, row)
    assert (tuple(int(found[key][i]) for key in KEYS), engine[i]) == by_graph(network)
    alone = c.cost(c.ops_of_arch(network))
    assert {key: value[0] for key, value in alone.items()} == {k: v[i] for k, v in found.items()}


def test_flash_and_energy_are_those_of_the_written_c():
  space = dataclasses.replace(TINY, head=24)
  genes = s.extremes(space)
  found = c.cost(c.ops_of(space, genes))
  for row, flash, microjoules in zip(genes, found['flash'], found['energy_uj']):
    network = s.decode(space, row)
    graph = zoo.build(a.description(network), 'net', network.resolution)
    constants = emit.emit(graph, plan.plan(graph)).constants
    assert constants == flash
    assert accounts.microjoules(graph, constants) == pytest.approx(microjoules)


def test_a_network_by_hand():
  block = a.Block(8, 24, 8, 5, 1, True)
  network = a.Arch(8, 3, (8, 3, 2), (block,), 0, 10)
  found = {k: v[0] for k, v in c.cost(c.ops_of_arch(network)).items()}
  weights = 27 * 8 + 8 * 24 + 25 * 24 + 24 * 8 + 80
  assert found['macs'] == 16 * (weights - 80) + 80
  assert found['params'] == weights + 2 * (8 + 24 + 24 + 8) + 10
  assert found['flash'] == weights + 9 * (8 + 24 + 24 + 8 + 10)
  # at the depthwise op: the block's input, the expanded image, 5 rows of 4 + 4 values of 2 bytes
  assert found['sram'] == 4 * 4 * 8 + 4 * 4 * 24 + 2 * 5 * 8
  # what ops read and write: stem, expand, depthwise, project, add (2 inputs), mean, dense
  moved = (192 + 128) + (128 + 384) + 2 * 384 + (384 + 128) + 3 * 128 + (128 + 8) + (8 + 10)
  energy = 0.3 * found['macs'] + 1.25 * moved + 1.25 * found['flash']
  assert found['energy_uj'] == pytest.approx(energy / 1e6)


def test_more_of_anything_costs_no_less():
  space = s.space('mcunet')
  genes = s.sample(space, np.random.default_rng(2), 200)
  before = c.cost(c.ops_of(space, genes))
  for gene in range(len(space.choices())):
    more = genes.copy()
    more[:, gene] = np.minimum(more[:, gene] + 1, space.choices()[gene] - 1)
    more = s.canonical(space, more)
    after = c.cost(c.ops_of(space, more))
    for key in 'macs', 'sram', 'flash', 'energy_uj':
      assert (after[key] >= before[key]).all(), (gene, key)


def test_settings_that_are_none_are_refused():
  ops = c.ops_of_arch(a.Arch(8, 3, (8, 3, 2), (a.Block(8, 8, 8, 3, 1, False),), 0, 2))
  with pytest.raises(UsageError, match='planner, tinyengine'):
    c.cost(ops, memory='tflm')
  with pytest.raises(UsageError, match='sram_byte'):
    c.cost(ops, picojoules=dict(mac=1.0))
