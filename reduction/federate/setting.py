"""`Plan`, what all rounds of a federation have in common, from the dict of a config."""

from collections.abc import Callable
from typing import NamedTuple

from reduction.config import call
from reduction.errors import require
from reduction.federate import codecs, partition, privacy, secure, server
from reduction.federate.clients import taking_part
from reduction.federate.codecs.codec import Codec
from reduction.federate.server import Rules

__all__ = ['plan']


class Plan(NamedTuple):
  """See `plan`."""

  rounds: int
  batch: int
  split: Callable
  clients: int
  codec: Codec
  rules: Rules
  epochs: float
  share: float
  failing: float
  every: int
  group: int
  disk: bool
  spectra: int
  epsilon: float | None


def read(federation: dict) -> Plan:
  """The Plan of a config's dict. Raises UsageError with a did-you-mean for what `plan` lacks."""
  import reduction.federate.setting as here

  return call(here, dict(federation, name='plan'), 'federation')


def plan(
  *, rounds: int, batch: int, partition: dict, codec: dict | None = None,
  rules: dict | None = None, epochs: float = 1.0, share: float = 1.0, failing: float = 0.0,
  every: int = 1, group: int = 0, disk: bool = False, spectra: int = 0,
) -> Plan:  # fmt: skip
  """A Plan, checked.

  batch: examples of a client's step. partition: of `federate.partition`, such as
  dict(name='dirichlet', clients=4, alpha=0.3). codec: of `federate.codecs`, by default dense.
  rules: of `federate.server.rules`. epochs: over a client's own examples in a round. share: of the
  clients, who take part in a round; failing: the chance that an update never arrives. every: rounds
  between rows. group: so many clients are trained at once, 0 all; 1 is one after another, with one
  client's state in memory. disk: what clients keep lies in a store of the run, for states that do
  not fit in memory. spectra: so many singular values of each matrix of the updates of the first and
  of the last round become rows.
  """
  for name, value in dict(rounds=rounds, batch=batch, epochs=epochs, every=every).items():
    require(value > 0, f'{name}={value} must be above 0')
  require(0 < share <= 1, f'{share=} must lie in (0, 1]')
  require(0 <= failing < 1, f'{failing=} must lie in [0, 1)')
  for name, value in dict(group=group, spectra=spectra).items():
    require(value >= 0, f'{name}={value} must not be negative')
  split, clients = call(partitions, partition, 'federation.partition'), partition['clients']
  wire, how, there = call(codecs, codec or CODEC, 'federation.codec'), server.rules(
    **(rules or {})), taking_part(clients, share)  # fmt: skip
  if how.secure:
    secure.check(wire, there, how.secure)
  private = dict(clients=clients, taking_part=there, rounds=rounds, delta=how.delta)
  epsilon = privacy.epsilon(noise=how.noise, **private) if how.noise else None
  return Plan(
    rounds, batch, split, clients, wire, how, epochs, share, failing, every, group, disk, spectra,
    epsilon,
  )


CODEC = dict(name='dense')
partitions = partition
