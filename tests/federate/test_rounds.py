"""Singular values of a round's updates: means over clients, by hand."""

import numpy as np
import pytest

from reduction.errors import UsageError
from reduction.federate import rounds, setting


def test_spectra_by_hand():
  """A client of singular values 2 and 1, one of 4 and 0, and one that is not finite."""
  x = np.zeros((1, 3, 2, 2), np.float32)
  x[0, 0], x[0, 1, 1, 1], x[0, 2] = np.diag([1.0, 2.0]), 4.0, np.inf
  found = list(rounds.spectra({'params/fc/kernel': x, 'params/fc/bias': x[..., 0]}, 5))
  assert [(row['matrix'], row['index']) for row in found] == [('fc/kernel', 1), ('fc/kernel', 2)]
  np.testing.assert_allclose([row['share'][0] for row in found], [1, 0.25])
  np.testing.assert_allclose([row['held'][0] for row in found], [0.9, 1])
  assert len(list(rounds.spectra({'params/fc/kernel': x}, 1))) == 1


def test_kernels_of_four_axes_are_seen_as_rest_by_out():
  x = np.random.default_rng(0).normal(size=(2, 1, 3, 3, 2, 4)).astype(np.float32)
  rows = list(rounds.spectra({'params/conv/kernel': x}, 99))
  assert len(rows) == 4 and rows[-1]['held'] == pytest.approx([1, 1])
  values = np.linalg.svd(x[1, 0].reshape(18, 4), compute_uv=False)
  np.testing.assert_allclose([row['share'][1] for row in rows], values / values[0], rtol=1e-5)


def test_settings_below_zero_are_refused():
  with pytest.raises(UsageError, match='spectra=-1'):
    setting.read(dict(rounds=1, batch=1, spectra=-1, partition=dict(name='iid', clients=2)))
