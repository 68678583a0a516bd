"""Do two measures order networks alike? Kendall's tau-b, with an interval over networks."""

import numpy as np

from reduction.errors import require


def tau(a, b) -> float:
  """Kendall's tau-b of a, b [n]: 1 for the same order, -1 for the reverse, NaN if one is flat."""
  x, y = (np.sign(np.subtract.outer(v, v)) for v in (np.asarray(a, float), np.asarray(b, float)))
  scale = np.sqrt((x * x).sum() * (y * y).sum())
  return float((x * y).sum() / scale) if scale else float('nan')


def tau_interval(a, b, *, draws: int = 2_000, level: float = 0.95, seed: int = 0):
  """(tau, low, high): a bootstrap over pairs (a, b), by percentiles."""
  a, b = np.asarray(a, float), np.asarray(b, float)
  require(len(a) == len(b) > 2, f'{len(a)} and {len(b)} values: an order needs three or more')
  index = np.random.default_rng(seed).integers(0, len(a), (draws, len(a)))
  found = np.array([tau(a[i], b[i]) for i in index])
  low, high = np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2])
  return tau(a, b), float(low), float(high)
