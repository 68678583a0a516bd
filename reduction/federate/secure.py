"""Secure aggregation (Bonawitz et al. 2017): the server learns the sum of updates, not one of them.

Every pair of clients shares a seed; one adds what it generates to its update, the other takes it
off, in integers modulo 2^32, so that all of it cancels in the sum. Each client also shares its
seeds out among all, by Shamir's scheme: where it drops out, `threshold` others can tell what of the
masks did not cancel. Here is the arithmetic; agreeing on seeds and telling shares to the right ones
belongs to the network, and so does refusing a message that comes after its masks were told.
"""

import secrets

import numpy as np

from reduction.errors import DataError, require
from reduction.federate.codecs.codec import Codec

PRIME = 2**521 - 1  # of Shamir's field; seeds have 128 bits
BITS = 32
SCALE = 2**16  # steps of a fixed-point number in 1


def check(codec: Codec, clients: int, threshold: int):
  """Raises UsageError, with the reason, for a codec whose messages do not add up."""
  require(not codec.additive, f'secure aggregation is refused: {codec.additive}')
  require(
    1 < threshold <= clients,
    f'{threshold=} must be above 1 and at most the {clients} clients of a round',
  )


def seeds(clients: int) -> dict[tuple[int, int], int]:
  """A secret of 128 bits for each pair (i, j), i < j."""
  pairs = ((i, j) for j in range(clients) for i in range(j))
  return {pair: secrets.randbits(128) for pair in pairs}


def shares(secret: int, clients: int, threshold: int) -> list[tuple[int, int]]:
  """Points (x, y) of a random polynomial of degree threshold - 1 whose value at 0 is secret."""
  terms = [secret, *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
  value = lambda x: sum(c * pow(x, k, PRIME) for k, c in enumerate(terms)) % PRIME
  return [(x, value(x)) for x in range(1, clients + 1)]


def recovered(points: list[tuple[int, int]]) -> int:
  """The secret of at least threshold shares, by Lagrange's interpolation at 0."""
  total = 0
  for i, (x, y) in enumerate(points):
    top = bottom = 1
    for j, (other, _) in enumerate(points):
      if i != j:
        top, bottom = top * -other % PRIME, bottom * (x - other) % PRIME
    total += y * top * pow(bottom, -1, PRIME)
  return total % PRIME


def largest(clients: int) -> float:
  """Entries below this in size add up over so many clients without overflow."""
  return 2 ** (BITS - 1) / SCALE / clients


def fixed(x: np.ndarray, clients: int) -> np.ndarray:
  """x as integers modulo 2^32 in steps of 1 / 65,536. DataError where a sum could overflow."""
  below = largest(clients)
  if not (np.isfinite(x).all() and np.abs(x, dtype=np.float64).max(initial=0) < below):
    raise DataError(f'entries must be finite and below {below:g} in size to be added up; clip them')
  return np.round(x.astype(np.float64) * SCALE).astype(np.int64).astype(np.uint32)


def mask(seed: int, size: int) -> np.ndarray:
  """What a seed generates: uint32 [size]."""
  generator = np.random.Generator(np.random.Philox(key=seed))
  return generator.integers(2**BITS, size=size, dtype=np.uint32)


def hidden(x: np.ndarray, client: int, pairs: dict, clients: int) -> np.ndarray:
  """What a client sends for the vector x: fixed-point integers under the masks of all its pairs."""
  found = fixed(x, clients)
  for (i, j), seed in pairs.items():
    if client in (i, j):
      sign = mask(seed, len(x))
      found = found + sign if client == i else found - sign
  return found


def total(sent: dict[int, np.ndarray], clients: int, shared: dict, threshold: int) -> np.ndarray:
  """The sum of the vectors of all who sent, float64: exact in steps of 1 / 65,536.

  shared: (i, j) -> what clients tell of that pair's seed, (x, y) by client, needed where one of the
  two dropped out. Raises DataError where fewer than threshold sent: the round is void.
  """
  if len(sent) < threshold:
    raise DataError(f'{len(sent)} of {clients} clients sent, {threshold} are needed: void')
  found = np.zeros_like(next(iter(sent.values())))
  for x in sent.values():
    found = found + x
  for (i, j), points in shared.items():
    if (i in sent) != (j in sent):
      known = [points[k] for k in sorted(sent)][:threshold]
      one = mask(recovered(known), len(found))
      found = found - one if i in sent else found + one
  return found.view(np.int32).astype(np.float64) / SCALE
