"""What a server takes from the network: every message is looked at before it is decomposed."""

import math
from typing import NamedTuple

import numpy as np

from reduction.errors import DataError, UserError
from reduction.federate.codecs.codec import Codec
from reduction.federate.message import Letter, unpack
from reduction.federate.server import LONGEST

HEAVIEST = 10**8  # examples that a client may say it has; see also `server.rules`' heaviest


class Expected(NamedTuple):
  """What a round takes. clients: who may send; size: bytes of a message at most; longest: the norm
  of an update at most, 0 for any; like: {name: shape} of an update; nonce: what a message must
  carry, '' for any that was not used before; veiled: its numbers are any bits."""

  round: int
  clients: frozenset
  size: int
  longest: float
  like: dict
  nonce: str = ''
  veiled: bool = False


class Taken(NamedTuple):
  """What was taken in a round and why the rest was not. refused: client, or None where nobody
  known sent it, -> reasons, in the order of arrival; nonces: of all rounds; counts: client -> bytes
  of each tensor's numbers, of all that it sent which is a message of this model, refused or not;
  ranks: of matrices, where the message tells."""

  updates: dict[int, dict]
  weights: dict[int, float]
  refused: dict
  nonces: frozenset
  counts: dict[int, dict]
  ranks: dict[int, dict]

  @classmethod
  def nothing(cls, nonces=frozenset()) -> 'Taken':
    """The start of a round."""
    return cls({}, {}, {}, frozenset(nonces), {}, {})


def take(
  taken: Taken, data: bytes, codec: Codec, expected: Expected, sender: int | None = None
) -> Taken:
  """taken with one more message, decoded, or with the reason why not; never raises for its content.

  sender: the client whom the network says that it comes from, whatever the message says.
  """
  client = sender
  try:
    if len(data) > expected.size:
      raise DataError(f'{len(data):,} bytes, at most {expected.size:,} are taken')
    letter, message = unpack(data, expected.like)
    if sender is None and letter.client in expected.clients:
      client = letter.client
    if client in expected.clients:
      taken = counted(taken, client, message, codec)
    if sender not in (None, letter.client):
      raise DataError(f'client {sender} sends for client {letter.client}')
    check(letter, taken, expected)
    if expected.veiled:
      update = decoded(message, codec, expected.like)
    else:
      update = measured(message, codec, expected)
  except UserError as error:
    reasons = (*taken.refused.get(client, ()), str(error))
    return taken._replace(refused={**taken.refused, client: reasons})
  return taken._replace(
    updates={**taken.updates, client: update}, nonces=taken.nonces | {letter.nonce},
    weights={**taken.weights, client: float(letter.weight)},
    ranks={**taken.ranks, client: {n: x['rank'] for n, x in message.items() if 'rank' in x}},
  )  # fmt: skip


def counted(taken: Taken, client: int, message: dict, codec: Codec) -> Taken:
  """taken with the bytes of one more message of a client."""
  try:
    more = {name: int(count) for name, count in codec.count(message).items()}
  except (KeyError, TypeError):  # tensors of another codec, which `decoded` refuses
    return taken
  before = taken.counts.get(client, {})
  total = before | {name: before.get(name, 0) + count for name, count in more.items()}
  return taken._replace(counts={**taken.counts, client: total})


def measured(message: dict, codec: Codec, expected: Expected) -> dict:
  """The update that a message is. Raises DataError as `decoded`, before that for numbers that are
  not finite, and for an update that is too long."""
  if not all(np.isfinite(x).all() for parts in message.values() for x in parts.values()):
    raise DataError('numbers that are not finite')
  update = decoded(message, codec, expected.like)
  length = math.sqrt(sum(float(np.sum(x.astype(np.float64) ** 2)) for x in update.values()))
  most = expected.longest or LONGEST
  if not length <= most:
    raise DataError(f'an update of norm {length:.4g}, at most {most:g} is taken')
  return update


def decoded(message: dict, codec: Codec, like: dict) -> dict:
  """The update that a message is. Raises DataError where its tensors are not of this codec."""
  try:
    update = {n: np.asarray(x) for n, x in codec.decode(message, like).items()}
    fits = {n: x.shape for n, x in update.items()} == {n: tuple(x.shape) for n, x in like.items()}
  except (KeyError, TypeError, ValueError, IndexError):
    fits = False
  if not fits:
    raise DataError('tensors of a kind that this federation does not send')
  return update


def check(letter: Letter, taken: Taken, expected: Expected):
  """Raises DataError for who may not send, sends twice, late or again, or weighs nothing."""
  if letter.client not in expected.clients:
    raise DataError(f'client {letter.client} is not known')
  if letter.round != expected.round:
    raise DataError(f'an update of round {letter.round} in round {expected.round}')
  if letter.client in taken.updates:
    raise DataError(f'client {letter.client} sent twice')
  if letter.nonce in taken.nonces:
    raise DataError(f'nonce {letter.nonce[:40]!r} was used before')
  if expected.nonce and letter.nonce != expected.nonce:
    raise DataError(f'nonce {letter.nonce[:40]!r} is none of this round')
  if not (math.isfinite(letter.weight) and 0 < letter.weight <= HEAVIEST):
    raise DataError(f'weight {letter.weight:g} must be above 0 and at most {HEAVIEST:,}')
