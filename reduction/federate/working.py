"""A client of a federation between processes; what it agrees in with the server: `network`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from reduction import tree
from reduction.errors import DataError, UserError
from reduction.federate import clients as at_clients
from reduction.federate import rounds
from reduction.federate.codecs.codec import FLOAT, joined
from reduction.federate.message import body, pack, unpack
from reduction.federate.network import (
  COUNTERS,
  Frame,
  check,
  columns_of,
  cut,
  cut_like,
  flat,
  flat_like,
  parted,
  place,
  progress,
  read,
  spread,
  talk,
)
from reduction.federate.server import dispatch, moved, placed, plain, sound
from reduction.net import over_replicas

Wait = Callable[[], tuple[Frame, Callable[[Frame], None]]]


def working(wait: Wait, client: int, config: str):
  """A function like `rounds.learn` for the client of this number.

  wait: () -> the next greeting and what takes its answer. A round is committed, with a run that
  saves at every index, before its last exchange is answered: a client that is killed goes on where
  it was, and one that the server asks again says the same again, where a round has one exchange.
  Rows: a 'round' each, and a 'closed'.
  """

  def learn(plan, cohorts, module, shared, run, *, step=plain, state=None):
    del module, step, state
    check(plan, run)
    at, cohort = next((i, c) for i, c in enumerate(cohorts) if client in c.ids)
    like, owned = rounds.sent_like(cohort, shared), rounds.share_out(
      plan, run.data, run.key('data', 2))  # fmt: skip
    alone = cohort._replace(ids=np.array([client]))
    parts = rounds.Parts(
      plan, (alone,), jax.device_put(tuple(run.data.splits()['train'])), owned,
      at_clients.most_steps(owned, plan.batch, plan.epochs), None, [None],
    )  # fmt: skip
    seat = Seat(parts, like, client, float(len(owned[0][client])), run)
    line = Line(wait, dict(where=place(run), config=config), seat)

    def one(carry, number, run):
      found = line.next(number, carry)
      if found is None:  # not asked, or away
        return carry, None
      head, letter, message, size = found
      new, told = seat.trained(carry, head, message, size, run)
      for exchange in range(1, len(seat.talk.says)):
        line.answer(lambda new=new: seat.say(new, letter))
        found = line.next(number, carry, exchange)
        if found is None:  # the round went on without
          return carry, None
        new = seat.replied(new, exchange, found[2])
      line.answer(lambda: seat.say(new, letter))
      bytes_ = {f'{way}_bytes': (new[way] - carry[way])[0] for way in ('up', 'down')}
      run.log(kind='round', step=number + 1, seeds=run.seeds, **told, **bytes_)
      return new, None

    carry, _ = run.fold('rounds', one, seat.first(shared), plan.rounds)
    head, _, message, size = line.next(plan.rounds, carry)
    run.log(kind='closed', down_bytes=size)
    carry = dict(carry, shared=seat.heard(carry, head, message)[0])
    line.answer(lambda: ({}, b''))
    line.flush()
    return carry, [([client], carry['own']) if i == at else ([], None) for i in range(len(cohorts))]

  return learn


class Seat:
  """A client's side of a round: what it reads out of a greeting, trains, and says."""

  def __init__(self, parts: rounds.Parts, like, client: int, weight: float, run):
    self.parts, self.like, self.client, self.weight = parts, like, client, weight
    self.plan, self.codec, self.run = parts.plan, parts.plan.codec, run
    self.talk = talk(self.codec, like)

  def first(self, shared) -> dict:
    """What a client's fold carries. at: the round, from 1, at whose start shared is; said: the last
    one that it answered, with `sent`; sender: what the codec keeps, `later` if that was taken;
    between: what was heard within the last round."""
    one = lambda t: tree.map(lambda x: jnp.asarray(x)[None], t)
    keeps = one(self.codec.start(self.like))
    own = tree.map(lambda x: jnp.asarray(x)[:, None], self.parts.cohorts[0].first)
    number, between = lambda: np.zeros(1, np.int64), {}
    for shapes in self.talk.hears[:-1]:
      between = joined(between, shapes)
    zeros = lambda t: tree.map(lambda x: np.zeros((1, *x.shape), x.dtype), t)
    return dict(
      shared=shared, own=own, sender=keeps, later=keeps, sent=zeros(self.talk.says[-1]),
      between=zeros(between), at=number(), said=number(),
      **{name: np.zeros((1, 1), np.int64) for name in COUNTERS},
    )  # fmt: skip

  def shapes(self, head: dict) -> dict:
    """{name: shape} of the tensors that a greeting brings."""
    kind, codec = head['kind'], self.codec
    if kind == 'same':
      return {}
    if kind == 'heard':
      return flat_like(self.talk.hears[head['exchange'] - 1])
    if kind == 'part':
      return cut_like(self.like, self.columns(head['round']))
    if kind == 'change' and codec.answers:
      return flat_like(self.talk.hears[-1])
    late = kind == 'whole' and head['round'] > 0 and codec.answers
    return self.like | (flat_like(self.public()) if late else {})

  def columns(self, number: int) -> dict:
    """What this client trains in a round."""
    return columns_of(self.plan, self.like, self.client, self.run.key('dropout', number)[0])

  def public(self) -> dict:
    """The shapes of what goes with a whole student."""
    serve = self.codec.serve or self.codec.start
    return jax.eval_shape(lambda like: self.codec.public(serve(like)), self.like)

  def heard(self, carry, head, message) -> tuple[dict, dict]:
    """(what the server shares at the start of the round that a greeting is for, what the codec is
    told)"""
    shared, kind, codec, told = carry['shared'], head['kind'], self.codec, {}
    values = {name: parts['dense'] for name, parts in message.items() if 'dense' in parts}
    if kind in ('change', 'same') and carry['at'][0] != head['round']:
      raise DataError('I do not have the student that this changes')
    if kind == 'change':
      if codec.answers:
        told = parted(values, self.talk.hears[-1])
        message = joined(tree.map(lambda x: x[0], carry['between']), told)
      values = codec.decode(message, self.like)
    elif kind == 'part':
      values = spread(values, self.columns(head['round']), self.like)
    elif kind == 'whole' and len(values) > len(self.like):
      told = parted(values, self.public())
    if kind != 'same':
      here = {name: jnp.asarray(values[name])[None] for name in self.like}
      shared = (moved if kind == 'change' else placed)(shared, here)
    return dict(shared, step=jnp.full(1, head['step'], jnp.int32)), told

  def trained(self, carry, head, message, size: int, run) -> tuple[dict, dict]:
    """(carry, row) after a client's part of a round. size: bytes that it received."""
    plan, number, like = self.plan, head['round'], self.like
    shared, told = self.heard(carry, head, message)
    sender = carry['later'] if carry['said'][0] == head['heard'] else carry['sender']
    sender = self.codec.told(sender, tree.map(lambda x: jnp.asarray(x)[None], told))
    update, own, row = rounds.train(
      self.parts, self.parts.cohorts[0], shared, carry['own'], np.zeros((1, 1), int), number, run
    )
    update = tree.map(lambda x: x[:, 0], update)
    key = jax.random.split(run.key('noise', number)[0], head['of'] + 2)[2 + head['row']]
    encode = over_replicas(dispatch(plan.codec, plan.rules), (0, 0, None, 0))
    if not sound({name: x[0] for name, x in update.items()}, 1.0):  # or it would not be decomposed
      raise DataError(
        f'the update of round {number + 1} is not finite; try a smaller learning rate'
      )
    sent, later = encode(update, sender, progress(plan, number), key[None])
    one = tree.map(lambda x: np.asarray(x[0]), sent)
    dense = FLOAT * sum(int(np.prod(x.shape)) for x in like.values())
    counts = dict(up=counted(plan, one), down=size, dense=2 * dense)
    ranks = {f'rank {n.removeprefix("params/")}': p['rank'][None] for n, p in one.items() if (
      'rank' in p)}  # fmt: skip
    carry = dict(
      carry, shared=shared, own=own, sender=sender, later=later, sent=sent,
      at=np.array([number + 1]), said=np.array([number + 1]),
      **{name: carry[name] + count for name, count in counts.items()},
    )  # fmt: skip
    row = {name: np.asarray(x).mean(1) for name, x in row.items()}
    return carry, row | ranks

  def replied(self, carry, exchange: int, message) -> dict:
    """carry with what is said in an exchange but the first, after its greeting's message."""
    values = {name: parts['dense'] for name, parts in message.items()}
    heard = parted(values, self.talk.hears[exchange - 1])
    before = tree.map(lambda x: x[0], carry['between']) if exchange > 1 else {}
    between = joined(before, heard)
    reply = over_replicas(self.codec.replies[exchange - 1], (None, 0))
    sent, later = reply(between, carry['later'])
    up = carry['up'] + counted(self.plan, tree.map(lambda x: x[0], sent))
    down = carry['down'] + FLOAT * sum(x.size for x in values.values())
    between = tree.map(lambda x: np.asarray(x)[None], between)
    return dict(carry, sent=sent, later=later, between=between, up=up, down=down)

  def say(self, carry, letter) -> Frame:
    """The answer to a greeting."""
    message = tree.map(lambda x: np.asarray(x[0]), carry['sent'])
    own = letter._replace(client=self.client, weight=self.weight)
    if self.codec.answers:
      message = flat(message)
    if self.codec.part:
      columns = self.columns(letter.round)
      values = cut({name: parts['columns'] for name, parts in message.items()}, columns)
      message = {name: dict(dense=x) for name, x in values.items()}
    return {}, pack(message, own, bits=self.codec.bits)


def counted(plan, message) -> int:
  """Bytes of a message without its letter and manifest."""
  return sum(int(n) for n in plan.codec.count(message).values())


class Line:
  """A client's end of the line: greetings in the order of rounds, answers when they are kept."""

  def __init__(self, wait: Wait, agreed: dict, seat: Seat):
    self._wait, self._agreed, self._seat = wait, agreed, seat
    self._held, self._open = None, None

  def answer(self, say: Callable[[], Frame]):
    """What the greeting just read will be answered with, once its round is committed."""
    self._open = (*self._open, say)

  def flush(self):
    """Sends the answer that was kept back."""
    if self._open and len(self._open) == 2:
      reply, say = self._open
      reply(say())
    self._open = None

  def next(self, number: int, carry, exchange: int = 0):
    """(head, letter, message, its bytes) of the greeting for this exchange of a round; None: one of
    a later round, or of this round's beginning again, came.

    Greetings that are no such are answered here: with what was said in the round before, with an
    error for anything else.
    """
    self.flush()
    seat, again = self._seat, len(self._seat.talk.says) == 1
    while True:
      frame, reply = self._held or self._wait()
      self._held = None
      try:
        head = read(frame[0], self._agreed)
        if head['round'] > number or (head['round'] == number and head['exchange'] < exchange):
          self._held = frame, reply
          return None
        past = head['round'] < number
        here = past or head['exchange'] == exchange
        if (past and not again) or not here or (head['kind'] == 'heard') != (exchange > 0):
          raise DataError(f'I am not at exchange {head["exchange"]} of round {head["round"] + 1}')
        letter, message = unpack(frame[1], seat.shapes(head))
        if past and head['round'] == carry['said'][0] - 1:
          reply(seat.say(carry, letter))
        elif past:
          raise DataError(f'I am past round {head["round"] + 1}')
        elif head['kind'] in ('change', 'same') and carry['at'][0] != number:
          raise DataError('I do not have the student that this changes')
        else:
          self._open = (reply,)
          return head, letter, message, body(frame[1])
      except UserError as error:
        reply((dict(error=str(error)), b''))
