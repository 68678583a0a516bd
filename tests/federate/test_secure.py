"""Secure aggregation: the sum is exact or the round void; what does not add up is refused."""

import secrets

import numpy as np
import pytest

from reduction.errors import DataError, UsageError
from reduction.federate import codecs, secure

CLIENTS, THRESHOLD, SIZE = 5, 3, 40
X = np.random.default_rng(0).normal(size=(CLIENTS, SIZE)).astype(np.float32)
OWN = [secrets.randbits(128) for _ in range(CLIENTS)]
FIXED = np.round(X.astype(np.float64) * secure.SCALE) / secure.SCALE


def drawn():
  """{client: {other: their seed}}"""
  pairs = {(i, j): secrets.randbits(128) for j in range(CLIENTS) for i in range(j)}
  seed = lambda i, j: pairs[min(i, j), max(i, j)]
  return {i: {j: seed(i, j) for j in range(CLIENTS) if j != i} for i in range(CLIENTS)}


PAIRS = drawn()
SENT = {i: secure.hidden(X[i], i, OWN[i], PAIRS[i]) for i in range(CLIENTS)}


@pytest.mark.parametrize('gone', [(), (2,), (0, 4)])
def test_the_sum_of_who_stayed_is_exact(gone):
  stayed = [i for i in range(CLIENTS) if i not in gone]
  found = secure.total(
    {i: SENT[i] for i in stayed}, {i: OWN[i] for i in stayed}, {i: PAIRS[i] for i in gone}
  )
  assert np.array_equal(found, FIXED[stayed].sum(0))


def test_what_one_client_sends_says_nothing_of_its_update():
  plain = secure.fixed(X[0])
  other = secure.hidden(X[0], 0, OWN[0], drawn()[0])
  assert not (SENT[0] == plain).any() and not (SENT[0] == other).any()
  # nor when all its pairs are known, while its own mask is not: of one that came late
  late = secure.total({0: SENT[0]}, {0: OWN[1]}, {j: {0: PAIRS[0][j]} for j in range(1, CLIENTS)})
  assert np.median(abs(late - FIXED[0])) > 10  # of up to 2,048, whatever was drawn


def test_masks_are_the_same_everywhere():
  assert secure.mask(7, 2).tobytes().hex() == 'a0290ab838cd85cf'


def test_a_secret_needs_as_many_shares_as_the_threshold():
  points = secure.shares(123456789, CLIENTS, THRESHOLD)
  assert secure.recovered(points[:3]) == secure.recovered(points[2:]) == 123456789
  assert secure.recovered(points[:2]) != 123456789


def test_sums_that_could_overflow_are_refused():
  assert secure.fixed(np.array([-1.0, 0.5])).view(np.int32).tolist() == [-(2**20), 2**19]
  for wrong in np.nextafter(secure.LONGEST, np.inf), np.inf, np.nan:
    with pytest.raises(DataError, match='clip it'):
      secure.fixed(np.array([0.0, wrong]))
  # the mean of the longest is what it is, whatever its shares
  share = np.float32([0.7, 0.2, 0.1])
  sent = {i: secure.hidden(share[i] * np.array([secure.LONGEST]), i, i, {}) for i in range(3)}
  mean = secure.total(sent, {i: i for i in range(3)}, {})
  np.testing.assert_allclose(mean, secure.LONGEST, rtol=1e-6)


def test_small_updates_of_many_clients_are_not_lost():
  x = np.random.default_rng(0).normal(size=(256, 500)) * 1e-3
  mean = sum(secure.fixed(one / 256).view(np.int32) for one in x) / secure.SCALE
  assert np.linalg.norm(mean - x.mean(0)) < 0.15 * np.linalg.norm(x.mean(0))


def test_only_codecs_that_add_up_are_taken():
  for codec in codecs.dense(), codecs.power(rank=2), codecs.sketch(columns=10, top=3):
    secure.check(codec, CLIENTS, THRESHOLD)
  with pytest.raises(UsageError, match='factors of a sum are not the sums of factors'):
    secure.check(codecs.low_rank(), CLIENTS, THRESHOLD)
  with pytest.raises(UsageError, match='scales of its own'):
    secure.check(codecs.quantized(), CLIENTS, THRESHOLD)
  with pytest.raises(UsageError, match='threshold=6'):
    secure.check(codecs.dense(), CLIENTS, 6)
