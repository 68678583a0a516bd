"""A client of a federation between processes; what it agrees in with the server: `network`."""

from collections.abc import Callable

import jax
import numpy as np

from reduction.errors import DataError, UserError
from reduction.federate import clients as at_clients
from reduction.federate import rounds
from reduction.federate.message import body, unpack
from reduction.federate.network import Frame, check, place, read
from reduction.federate.seat import Seat
from reduction.federate.server import plain
from reduction.federate.veiled import VeiledSeat

Wait = Callable[[int], tuple[Frame, Callable[[Frame], None]]]


def working(wait: Wait, client: int, config: str):
  """A function like `rounds.learn` for the client of this number.

  wait: (bytes of its message at most) -> the next greeting and what takes its answer. A round is
  committed, with a run that saves at every index, before its last exchange is answered: a client
  that is killed goes on where it was, and one that the server asks again says the same again, where
  a round has one exchange.
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
    seat = (VeiledSeat if plan.rules.secure else Seat)(
      parts, like, client, float(len(owned[0][client])), run
    )
    line = Line(wait, dict(where=place(run), config=config), seat)

    def one(carry, number, run):
      new = turn(carry, number, run)
      while new is None and line.begins(number):  # a server that died greets for the round again
        new = turn(carry, number, run)
      return (carry if new is None else new), None

    def turn(carry, number, run):
      found = line.next(number, carry)
      if found is None:  # not asked, or away
        return None
      head, letter, message, size = found
      new, told = seat.trained(carry, head, message, size, run)
      for exchange in range(1, seat.exchanges):
        line.answer(lambda new=new: seat.say(new, letter))
        found = line.next(number, carry, exchange)
        if found is None:  # the round went on without, or began again
          return None
        new = seat.replied(new, exchange, found[2])
      line.answer(lambda: seat.say(new, letter))
      bytes_ = {f'{way}_bytes': (new[way] - carry[way])[0] for way in ('up', 'down')}
      run.log(kind='round', step=number + 1, seeds=run.seeds, **told, **bytes_)
      return new

    carry, _ = run.fold('rounds', one, seat.first(shared), plan.rounds)
    head, _, message, size = line.next(plan.rounds, carry)
    run.log(kind='closed', down_bytes=size)
    carry = dict(carry, shared=seat.heard(carry, head, message)[0])
    line.answer(lambda: ({}, b''))
    line.flush()
    return carry, [([client], carry['own']) if i == at else ([], None) for i in range(len(cohorts))]

  return learn


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

  def begins(self, number: int) -> bool:
    """Whether a greeting was put aside that begins this round again."""
    return bool(self._held) and self._held[0][0].get('round') == number

  def next(self, number: int, carry, exchange: int = 0):
    """(head, letter, message, its bytes) of the greeting for this exchange of a round; None: one of
    a later round, or of this round's beginning again, came.

    Greetings that are no such are answered here: with what was said in the round before, with an
    error for anything else.
    """
    self.flush()
    seat, again = self._seat, self._seat.exchanges == 1
    while True:
      frame, reply = self._held or self._wait(seat.most())
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
