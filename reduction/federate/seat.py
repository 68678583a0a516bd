"""A client's side of a round of a federation between processes; what it agrees in: `network`."""

import jax
import jax.numpy as jnp
import numpy as np

from reduction import tree
from reduction.errors import DataError
from reduction.federate import rounds
from reduction.federate.codecs.codec import FLOAT, joined
from reduction.federate.message import pack
from reduction.federate.network import (
  COUNTERS,
  Frame,
  cut,
  cut_like,
  flat,
  flat_like,
  longest,
  part_of,
  parted,
  progress,
  spread,
  talk,
  whole,
)
from reduction.federate.server import dispatch, moved, placed, sound
from reduction.net import over_replicas


class Seat:
  """A client's side of a round: what it reads out of a greeting, trains, and says."""

  def __init__(self, parts: rounds.Parts, like, client: int, weight: float, run):
    self.parts, self.like, self.client, self.weight = parts, like, client, weight
    self.plan, self.codec, self.run = parts.plan, parts.plan.codec, run
    self.talk = talk(self.codec, like)
    self.exchanges = len(self.talk.says)  # of a round
    self.error = ''  # why nothing can be said in this one
    self.settles = parts.cohorts[0].method.settles

  def first(self, shared) -> dict:
    """What a client's fold carries. at: the round, from 1, at whose start shared is; said: the last
    one that it answered, with `sent`; sender: what the codec keeps, `later` if that was taken;
    before: what the client kept before it, where its method settles;
    between: what was heard within the last round."""
    one = lambda t: tree.map(lambda x: jnp.asarray(x)[None], t)
    keeps = one(self.codec.start(self.like))
    own = tree.map(lambda x: jnp.asarray(x)[:, None], self.parts.cohorts[0].first)
    number, between = lambda: np.zeros(1, np.int64), {}
    for shapes in self.talk.hears[:-1]:
      between = joined(between, shapes)
    zeros = lambda t: tree.map(lambda x: np.zeros((1, *x.shape), x.dtype), t)
    return dict(
      shared=shared, own=own, before=own if self.settles else {}, sender=keeps, later=keeps,
      sent=zeros(self.talk.says[-1]), between=zeros(between), at=number(), said=number(),
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
      return cut_like(self.like, self.part(head['round']))
    if kind == 'change' and codec.answers:
      return flat_like(self.talk.hears[-1])
    late = kind == 'whole' and head['round'] > 0 and codec.answers
    return self.like | (flat_like(self.public()) if late else {})

  def most(self) -> int:
    """Bytes of the message of a greeting at most."""
    heard = [longest(flat_like(shapes)) for shapes in self.talk.hears]
    return max(longest(self.like | flat_like(self.public())), *heard)

  def part(self, number: int) -> dict:
    """What this client trains in a round."""
    return part_of(self.plan, self.like, self.client, self.run.key('dropout', number)[0])

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
      values = spread(values, self.part(head['round']), self.like)
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
    taken = carry['said'][0] == head['heard']
    sender = carry['later'] if taken else carry['sender']
    before = carry['own'] if taken or not self.settles else carry['before']
    sender = self.codec.told(sender, tree.map(lambda x: jnp.asarray(x)[None], told))
    update, own, row = rounds.train(
      self.parts, self.parts.cohorts[0], shared, before, np.zeros((1, 1), int), number, run
    )
    update = tree.map(lambda x: x[:, 0], update)
    key = jax.random.split(run.key('noise', number)[0], head['of'] + 2)[2 + head['row']]
    encode = over_replicas(dispatch(plan.codec, plan.rules), (0, 0, None, 0))
    row = {name: np.asarray(x).mean(1) for name, x in row.items()}
    self.error = ''
    if not sound({name: x[0] for name, x in update.items()}, 1.0):  # or it would not be decomposed
      self.error = f'the update of round {number + 1} is not finite; try a smaller learning rate'
      own = carry['own'] if self.settles else own
      return dict(carry, shared=shared, own=own, down=carry['down'] + size), row
    sent, later = encode(update, sender, progress(plan, number), key[None])
    one = tree.map(lambda x: np.asarray(x[0]), sent)
    dense = FLOAT * sum(int(np.prod(x.shape)) for x in like.values())
    counts = dict(up=counted(plan, one), down=size, dense=2 * dense)
    ranks = {f'rank {n.removeprefix("params/")}': p['rank'][None] for n, p in one.items() if (
      'rank' in p)}  # fmt: skip
    carry = dict(
      carry, shared=shared, own=own, before=before if self.settles else {}, sender=sender,
      later=later, sent=sent, at=np.array([number + 1]), said=np.array([number + 1]),
      **{name: carry[name] + count for name, count in counts.items()},
    )  # fmt: skip
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
    if self.error:
      return dict(error=self.error), b''
    own = letter._replace(client=self.client, weight=self.weight)
    return {}, pack(self.said(carry, letter.round), own, bits=self.codec.bits)

  def said(self, carry, number: int) -> dict:
    """The message of an answer of this round."""
    message = tree.map(lambda x: np.asarray(x[0]), carry['sent'])
    if self.codec.part:
      values = {name: parts['columns'] for name, parts in message.items()}
      return whole(cut(values, self.part(number)))
    return flat(message) if self.codec.answers else message


def counted(plan, message) -> int:
  """Bytes of a message without its letter and manifest."""
  return sum(int(n) for n in plan.codec.count(message).values())
