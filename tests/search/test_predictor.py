"""The predictor of accuracies learns what genes say, and nothing of what they do not."""

import numpy as np
import pytest

from reduction.search import predictor
from reduction.search import space as s
from reduction.search.cost import cost, ops_of

SPACE = s.Space('known', (s.Stage(8, 2, (1, 2)), s.Stage(16, 2, (1, 2))), (8,), kernels=(1, 3),
                expansions=(2, 3), stem=(8, 3, 1), classes=10)  # fmt: skip


@pytest.fixture(scope='module')
def networks():
  """(160 different networks, a made-up accuracy of each that grows with what they compute)"""
  random = np.random.default_rng(0)
  genes = random.permutation(np.unique(s.sample(SPACE, random, 2_000), axis=0))[:160]
  macs = np.log(cost(ops_of(SPACE, genes))['macs'])
  return genes, 0.5 + 0.3 * (macs - macs.min()) / np.ptp(macs)


def test_it_orders_and_meets_networks_that_it_did_not_learn_from(networks):
  genes, accuracy = networks
  learned, row = predictor.held_out(SPACE, genes, accuracy)
  assert (row['networks'], row['held_out']) == (120, 40)
  assert row['held_out_tau'] > 0.8 and row['held_out_error'] < 0.2 * np.std(accuracy)
  told = np.abs(learned(genes[120:]) - accuracy[120:]).mean()
  assert row['held_out_error'] == pytest.approx(told, rel=1e-5)


def test_of_accuracies_that_genes_do_not_tell_it_orders_nothing(networks):
  genes, accuracy = networks
  mixed = np.random.default_rng(1).permutation(accuracy)
  _, row = predictor.held_out(SPACE, genes, mixed)
  assert abs(row['held_out_tau']) < 0.3 and row['held_out_error'] > 0.5 * np.std(accuracy)
