"""Secure aggregation (Bonawitz et al. 2017): the server learns the sum of updates, not one of them.

Every pair of clients shares a seed; one adds what it generates to its update, the other takes it
off, in integers modulo 2^32, so that all of it cancels in the sum. Each adds a mask of its own
besides, and shares out, by Shamir's scheme, what both are made of: `threshold` others tell the
server either how the own mask of a client was made, which sent its update, or how those of its
pairs were, where it dropped out; never both, so that an update that comes late stays hidden. Here
is the arithmetic; `keys` agrees on seeds, `veiled` has clients and a server say all this.
"""

import hashlib
import secrets

import numpy as np

from reduction.errors import DataError, require
from reduction.federate.codecs.codec import Codec

PRIME = 2**521 - 1  # of Shamir's field; seeds have 128 bits
BITS = 32
SCALE = 2**20  # steps of a fixed-point number in 1
LONGEST = 2**30 / SCALE  # of an update: means of such ones never overflow


def check(codec: Codec, clients: int, threshold: int):
  """Raises UsageError, with the reason, for a codec whose messages do not add up."""
  require(not codec.additive, f'secure aggregation is refused: {codec.additive}')
  require(
    1 < threshold <= clients,
    f'{threshold=} must be above 1 and at most the {clients} clients of a round',
  )


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


def fixed(x: np.ndarray) -> np.ndarray:
  """x, a part of a mean, as integers modulo 2^32 in steps of 1 / SCALE. DataError where it is too
  long for sums of such integers."""
  if not np.linalg.norm(x.astype(np.float64)) <= LONGEST:
    rule = f'finite and of a norm up to {LONGEST:g} to be added up'
    raise DataError(f'an update must be {rule}; clip it')
  return np.round(x.astype(np.float64) * SCALE).astype(np.int64).astype(np.uint32)


def mask(seed: int, size: int) -> np.ndarray:
  """What a seed of 128 bits generates: uint32 [size], of SHAKE-256."""
  made = hashlib.shake_256(seed.to_bytes(16, 'little')).digest(4 * size)
  return np.frombuffer(made, '<u4')


def hidden(x: np.ndarray, client: int, own: int, pairs: dict[int, int]) -> np.ndarray:
  """What a client sends for the vector x: fixed-point integers under its own mask and those of its
  pairs, {other client: their seed}."""
  found = fixed(x) + mask(own, len(x))
  for other, seed in pairs.items():
    found = _added(found, client, other, mask(seed, len(x)))
  return found


def total(sent: dict[int, np.ndarray], own: dict[int, int], gone: dict[int, dict]) -> np.ndarray:
  """The sum of the vectors of all who sent, float64: exact in steps of 1 / SCALE.

  own: the seeds of their own masks. gone: those of the pairs of each client that dropped out after
  the others had masked for it, {client: {other: seed}}.
  """
  found = np.zeros_like(next(iter(sent.values())))
  for client, x in sent.items():
    found = found + x - mask(own[client], len(x))
  for client, pairs in gone.items():
    for other in sent:  # what it would have sent cancels what they added
      found = _added(found, client, other, mask(pairs[other], len(found)))
  return found.view(np.int32).astype(np.float64) / SCALE


def _added(found, client, other, made):
  return found + made if client < other else found - made
