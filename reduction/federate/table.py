"""A round at the server of a federation between processes; what it agrees in: `network`."""

import secrets
from collections.abc import Callable, Iterator

import numpy as np

from reduction import tree
from reduction.federate import intake
from reduction.federate.codecs.codec import joined
from reduction.federate.codecs.dense import dense
from reduction.federate.message import Letter, pack
from reduction.federate.network import (
  Frame,
  cut,
  cut_like,
  flat,
  flat_like,
  longest,
  part_of,
  parted,
  spread,
  talk,
  whole,
)
from reduction.federate.server import answering, named
from reduction.net import over_replicas

Ask = Callable[[dict[int, Frame], int], Iterator[tuple[int, Frame]]]  # see `serving.serving`


class Table:
  """A round at the server: its clients, what they are sent and what of theirs is taken. rules: by
  which that is combined. veiled: whether answers are of bits that say nothing by themselves."""

  veiled = False

  def __init__(self, plan, like, carry, ids, number: int, here: dict, run):
    self.plan, self.like, self.carry, self.ids = plan, like, carry, list(ids)
    self.number, self.here, self.run, self.codec = number, here, run, plan.codec
    self.talk, self.rules = talk(plan.codec, like), plan.rules
    self.letters = {c: Letter(c, number, secrets.token_hex(8), 1.0) for c in self.ids}
    self.part, key = {}, run.key('dropout', number)[0]
    if self.codec.part and number < plan.rounds:
      self.part = {c: part_of(plan, like, c, key) for c in self.ids}

  def head(self, client: int, kind: str, exchange: int = 0) -> dict:
    """That of a greeting."""
    told = dict(self.here, row=self.ids.index(client), of=len(self.ids), exchange=exchange)
    step, heard = int(self.carry['shared']['step'][0]), int(self.carry['heard'][0, client])
    return dict(told, round=self.number, kind=kind, step=step, heard=heard)

  def greetings(self) -> dict[int, Frame]:
    """What each client gets at the start of the round."""
    return {client: self.greeting(client) for client in self.ids}

  def greeting(self, client: int) -> Frame:
    """What a client gets at the start of the round."""
    first = lambda t: tree.map(lambda x: np.asarray(x[0]), t)
    carry, codec = self.carry, self.codec
    if client in self.part:
      kind, message = 'part', whole(cut(self.values(), self.part[client]))
    elif self.number == 0 or carry['seen'][0, client] != self.number or codec.part:
      kind, message = 'whole', whole(self.values())
      if self.number and codec.answers:
        message |= flat(first(codec.public(carry['server']['wire'])))
    elif carry['last'][0] == 0:  # the round was void
      kind, message = 'same', {}
    else:
      kind, message = 'change', first(carry['change'])
      message = flat(message) if codec.answers else message
    return self.head(client, kind), pack(message, self.letters[client], bits=codec.bits)

  def values(self) -> dict:
    """The student's tensors."""
    shared = tree.map(lambda x: np.asarray(x[0]), named(self.carry['shared']))
    return {name: shared[name] for name in self.like}

  def exchanges(self, ask: Ask) -> tuple[intake.Taken, dict, dict]:
    """(what was taken of the last exchange, all that was heard before it, the server's wire).

    Bytes and refusals are those of all exchanges; nothing is taken where too few answer.
    """
    taken = self.taken(0, ask(self.greetings(), self.most(0)))
    heard, wire = {}, self.carry['server']['wire']
    for exchange in range(1, len(self.talk.says)):
      there = list(taken.updates)
      if len(there) < self.plan.rules.least:  # the round is void, whatever was heard
        for shapes in self.talk.hears[exchange - 1 : -1]:
          heard = joined(heard, tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))
        return taken._replace(updates={}), heard, wire
      program = answering(self.codec, self.plan.rules, exchange - 1, tuple(self.like))
      messages = self.stacked(taken, exchange - 1)
      message, wire = over_replicas(program)(self.carry['shared'], wire, *messages)
      message = tree.map(lambda x: np.asarray(x[0]), message)
      heard = joined(heard, message)
      frames = {
        client: (self.head(client, 'heard', exchange), pack(flat(message), self.letters[client]))
        for client in there
      }
      before, taken = taken, self.taken(exchange, ask(frames, self.most(exchange)), frames)
      taken = also(before, taken)
    return taken, heard, wire

  def taken(self, exchange: int, answers, asked=None) -> intake.Taken:
    """What may be used of the answers of an exchange, and why not the rest; no answer is a reason
    too."""
    found, answered = intake.Taken.nothing(), set()
    letters = {client: self.letters[client] for client in (asked or self.ids)}
    for client, (head, data) in answers:
      answered.add(client)
      if client not in letters or head.get('error'):
        said = str(head.get('error', 'takes no part'))[:200]
        found = refused(found, client, f'client {client}: {said}')
        continue
      codec, like = self.expects(exchange, client)
      expected = intake.Expected(
        letters[client].round, frozenset(letters), longest(like), self.rules.longest, like,
        letters[client].nonce, self.veiled,
      )  # fmt: skip
      found = intake.take(found, data, codec, expected, sender=client)
    for client in letters.keys() - answered:
      found = refused(found, client, f'client {client} did not answer in time')
    return found

  def most(self, exchange: int) -> int:
    """Bytes of any client's answer at most."""
    return max(longest(self.expects(exchange, client)[1]) for client in self.ids)

  def expects(self, exchange: int, client: int):
    """(what decodes a client's answer, its shapes)"""
    if client in self.part:
      return dense(), cut_like(self.like, self.part[client])
    if self.codec.answers:
      return dense(), flat_like(self.talk.says[exchange])
    return self.codec, self.like

  def kept(self, fine):
    """Whose round is over for them too, of those whose update was taken [m]."""
    return fine

  def besides(self, taken: intake.Taken) -> np.ndarray:
    """Bytes up and down of each client that are of no tensor, [2, m]."""
    del taken
    return np.zeros((2, len(self.ids)), np.int64)

  def stacked(self, taken: intake.Taken, exchange: int):
    """(updates or messages [1, m, ...] in the order of ids, weights, which there are) [1, m]."""
    fine = np.array([client in taken.updates for client in self.ids])
    if self.codec.answers:
      shapes = self.talk.says[exchange]
      read = lambda values: parted(values, shapes)
    else:
      shapes, read = self.like, lambda values: values
    nothing = tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    each = []
    for client in self.ids:
      values = taken.updates.get(client)
      if values is not None and client in self.part:
        values = spread(values, self.part[client], self.like)
      each.append(nothing if values is None else tree.map(np.asarray, read(values)))
    weights = np.array([[taken.weights.get(client, 0.0) for client in self.ids]], np.float32)
    return tree.map(lambda *x: np.stack(x)[None], *each), weights, fine[None]


def refused(taken: intake.Taken, client: int, reason: str) -> intake.Taken:
  """taken with one more refusal."""
  reasons = (*taken.refused.get(client, ()), reason)
  return taken._replace(refused={**taken.refused, client: reasons})


def also(before: intake.Taken, taken: intake.Taken) -> intake.Taken:
  """The later of two exchanges with the bytes and refusals of both."""
  clients = before.counts.keys() | taken.counts.keys()
  counts = {c: before.counts.get(c, {}) | taken.counts.get(c, {}) for c in clients}
  for client, reasons in before.refused.items():
    for reason in reasons:
      taken = refused(taken, client, reason)
  return taken._replace(counts=counts)
