"""Plain spaces of convolutions and hidden layers: listed whole, planned, evolved."""

import json

import jax
import numpy as np
import pytest

from reduction import models
from reduction.errors import UsageError
from reduction.mcu import zoo
from reduction.models.convnet import ConvNet
from reduction.run import Run
from reduction.search import chain as c
from reduction.search import evolution
from reduction.search import space as s
from reduction.search.cost import cost, peak_sram

BOTH = c.Chain(
  'both', (8, 8, 3), pairs=(0, 1, 2), layers=(0, 1), filters=(4, 12), units=(8, 20, 64)
)


def test_every_network_is_there_once_as_the_module_it_says():
  rows = c.enumerate_all(BOTH)
  assert len(rows) == BOTH.count() == (1 + 2**2 + 2**4) * (1 + 3)
  assert len({c.sizes(BOTH, row) for row in rows}) == len(rows)
  assert c.network(BOTH, [0, 1, 0, 0, 0, 0, 1]) == models.mlp(widths=(20,))
  assert c.network(BOTH, [1, 1, 0, 1, 0, 0, 2]) == ConvNet((4,), (64,), 10, filters=(4, 12))


def test_networks_are_written_and_read_as_json():
  for row in c.enumerate_all(BOTH)[::37]:
    text = json.dumps(c.description(BOTH, row))
    np.testing.assert_array_equal(c.described(BOTH, json.loads(text)), row)
  for wrong in {}, dict(filters=[4], units=[]), dict(filters=[], units=[9]), dict(filters=3):
    with pytest.raises(UsageError, match='is no network of both'):
      c.described(BOTH, wrong)
  with pytest.raises(UsageError, match='sample it'):
    c.enumerate_all(BOTH, most=10)


def test_costs_are_those_of_graphs_and_modules():
  rows = s.sample(BOTH, np.random.default_rng(0), 8)
  found, x = c.costs(BOTH, rows), np.zeros((1, *BOTH.shape), np.float32)
  for i, row in enumerate(rows):
    real, net = c.graph(BOTH, row), c.network(BOTH, row)
    assert found['macs'][i] == zoo.macs(real)
    products = [op for op in real.ops if hasattr(op, 'weights')]
    assert found['flash'][i] == sum(op.weights.size + 9 * len(op.bias) for op in products)
    weights = jax.tree.leaves(jax.eval_shape(net.init, jax.random.key(0), x))
    assert found['params'][i] == sum(w.size for w in weights)
    assert found['sram'][i] >= peak_sram(c.ops_of(BOTH, row))[0]
  # by hand: a hidden layer's input of 192 bytes beside its 20 outputs
  assert c.costs(BOTH, [0, 1, 0, 0, 0, 0, 1])['sram'] == 192 + 20


def test_evolution_finds_the_best_that_fits():
  """The score is known: the most multiply-accumulates in 20,000 of Flash."""
  value = lambda rows, key: np.array([cost(c.ops_of(BOTH, row))[key][0] for row in rows])
  fits = lambda rows: value(rows, 'flash') <= 20_000
  every = c.enumerate_all(BOTH)
  best = value(every[fits(every)], 'macs').max()
  first = s.sample(BOTH, np.random.default_rng(1), 60)
  first = first[fits(first)][:20]
  score = lambda rows, _: value(rows, 'macs').astype(float)
  genes, scores = evolution.evolve(Run(), BOTH, first, score, fits, generations=6, rate=0.3)
  assert scores[0] == best and fits(genes).all()


def test_chains_that_are_none_are_refused():
  for wrong in dict(filters=(8, 4)), dict(units=(0, 1)), dict(pairs=(0, 4)), dict(layers=()):
    with pytest.raises(UsageError):
      c.Chain('wrong', (8, 8, 1), **wrong)
