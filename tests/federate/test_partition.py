"""Every example has one client, whatever the partition; each partition does what it says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from reduction.errors import UsageError
from reduction.federate import partition

Y = np.repeat(np.arange(5), 40)
OWNERS = np.arange(200) // 7
HOW = dict(
  iid=dict(), dirichlet=dict(alpha=0.5), quantity=dict(alpha=0.5), shards=dict(each=2),
  natural=dict(),
)  # fmt: skip


@pytest.mark.parametrize('name', HOW)
@settings(max_examples=20, deadline=None)
@given(clients=some.integers(1, 12), seed=some.integers(0, 2**32 - 1))
def test_no_example_is_lost_or_has_two_clients(name, clients, seed):
  split = getattr(partition, name)(clients=clients, **HOW[name])
  parts = split(Y, OWNERS, np.random.default_rng(seed))
  assert len(parts) == clients and min(map(len, parts)) > 0
  assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(Y)))
  again = split(Y, OWNERS, np.random.default_rng(seed))
  assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def test_what_each_is_for():
  rng = np.random.default_rng(0)
  classes = lambda parts: [len(np.unique(Y[part])) for part in parts]
  sizes = lambda parts: [len(part) for part in parts]
  assert set(sizes(partition.iid(clients=4)(Y, None, rng))) == {50}
  assert max(classes(partition.shards(clients=10, each=2)(Y, None, rng))) == 2
  skewed = partition.dirichlet(clients=5, alpha=0.05)(Y, None, rng)
  even = partition.dirichlet(clients=5, alpha=1e4)(Y, None, rng)
  share = lambda parts: np.mean([np.bincount(Y[p]).max() / len(p) for p in parts])
  assert share(skewed) > 0.6 and share(even) < 0.25
  uneven = partition.quantity(clients=4, alpha=0.2)(Y, None, rng)
  assert max(sizes(uneven)) > 3 * min(sizes(uneven))
  for part in partition.natural(clients=4)(Y, OWNERS, rng):
    mine = np.unique(OWNERS[part])
    assert np.isin(OWNERS, mine).sum() == len(part)


def test_what_cannot_be_is_refused():
  rng = np.random.default_rng(0)
  with pytest.raises(UsageError, match='do not say who owns'):
    partition.natural(clients=2)(Y, None, rng)
  with pytest.raises(UsageError, match='200 examples cannot be shared out in 201'):
    partition.iid(clients=201)(Y, None, rng)
  with pytest.raises(UsageError, match=r'in 100 draws with alpha=0\.01 some of 50'):
    partition.dirichlet(clients=50, alpha=0.01)(Y, None, rng)
  with pytest.raises(UsageError, match='alpha=0 must be above 0'):
    partition.quantity(clients=2, alpha=0)
