"""The server of a federation between processes; what it agrees in with clients: `network`."""

import functools
import secrets
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from reduction import tree
from reduction.federate import accounting, intake, rounds
from reduction.federate import clients as at_clients
from reduction.federate.codecs.codec import FLOAT, joined
from reduction.federate.codecs.dense import dense
from reduction.federate.message import Letter, body, pack
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
  spread,
  talk,
)
from reduction.federate.server import answering, named, plain, settlement
from reduction.net import over_replicas
from reduction.update import classified

Ask = Callable[[dict[int, Frame]], Iterator[tuple[int, Frame]]]
MANIFEST = 1_000  # bytes of a tensor's part of a manifest at most


def serving(ask: Ask, config: str):
  """A function like `rounds.learn` for a server.

  ask: greetings by client -> answers with the client whom the network says each comes from, as long
  as it is worth waiting. config: a digest of what clients must have too. The plan's `failing` is
  left to the network. Rows: a 'round' each, a 'refusal' for each answer that was not taken, those
  of `rounds.log_sent`, and a 'closing'.
  """

  def learn(plan, cohorts, module, shared, run, *, step=plain, state=None):
    check(plan, run)
    like = rounds.sent_like(cohorts[0], shared)
    owned = rounds.share_out(plan, run.data, run.key('data', 2))
    most = at_clients.most_steps(owned, plan.batch, plan.epochs)
    watched = jax.device_put(run.data.splits()['validation'])
    score = over_replicas(classified(module), (0, 0, None))
    here = dict(where=place(run), config=config)

    def one(carry, number, run):
      if plan.rules.noise and number == 0:
        carry = dict(carry, secret=np.frombuffer(secrets.token_bytes(16), np.uint32)[None])
      chosen = [
        cohort.ids[at_clients.choose(key, number, len(cohort.ids), plan.share, 0.0)[0]]
        for i, cohort in enumerate(cohorts) for key in run.key('data', 1, i)
      ]  # fmt: skip
      ids = [int(client) for client in np.concatenate(chosen)]
      table = Table(plan, like, carry, ids, number, here, run)
      taken, heard, wire = table.exchanges(ask)
      for client, reasons in taken.refused.items():
        for reason in reasons:
          run.log(kind='refusal', step=number + 1, client=client, reason=reason)
      carry, told, sent = settled(table, taken, heard, wire, step)
      carry['shared'] = dict(carry['shared'], step=carry['shared']['step'] + most)
      new = carry['shared']
      held = score(new['params'], new['stats'], watched) if len(watched.y) else {}
      held = {f'validation_{name}': value for name, value in held.items()}
      run.log(kind='round', step=number + 1, seeds=run.seeds, **told, **held)
      return carry, sent

    carry = begin(plan, cohorts, like, shared, state or {})
    carry, outs = run.fold('rounds', one, carry, plan.rounds)
    rounds.log_sent(plan, outs, like, len(carry['up'][0]), run)
    close(plan, like, carry, ask, here, run)
    return carry, [([], None) for _ in cohorts]

  return learn


def close(plan, like, carry, ask: Ask, here: dict, run):
  """Sends all clients the last student; the row 'closing'."""
  table = Table(plan, like, carry, range(carry['up'].shape[1]), plan.rounds, here, run)
  frames = table.greetings()
  gone = sum(body(data) for _, data in frames.values())
  reached = [client for client, (head, _) in ask(frames) if not head.get('error')]
  run.log(kind='closing', clients=len(set(reached)), down_bytes=gone)


def begin(plan, cohorts, like, shared, state) -> dict:
  """What the server's fold carries: of `rounds.begin`, what is not of clients; change, the newest
  message; heard int [1, C]: the last round, from 1, whose update was taken; secret uint32 [1, 4]:
  what noise is drawn from besides the seed, which clients know; drawn in the first round."""
  counter = lambda: np.zeros((1, sum(len(cohort.ids) for cohort in cohorts)), np.int64)
  one = lambda t: tree.map(lambda x: jnp.asarray(x)[None], t)
  change = tree.map(lambda x: jnp.zeros((1, *x.shape), x.dtype), talk(plan.codec, like).hears[-1])
  return dict(
    shared=shared, server=dict(wire=one((plan.codec.serve or plan.codec.start)(like)), step=state),
    change=change, seen=counter(), heard=counter(), last=np.zeros(1, np.int64),
    secret=np.zeros((1, 4), np.uint32),
    **{name: counter() for name in COUNTERS},
  )  # fmt: skip


class Table:
  """A round at the server: its clients, what they are sent and what of theirs is taken."""

  def __init__(self, plan, like, carry, ids, number: int, here: dict, run):
    self.plan, self.like, self.carry, self.ids = plan, like, carry, list(ids)
    self.number, self.here, self.run, self.codec = number, here, run, plan.codec
    self.talk = talk(plan.codec, like)
    self.letters = {c: Letter(c, number, secrets.token_hex(8), 1.0) for c in self.ids}
    self.columns, key = {}, run.key('dropout', number)[0]
    if self.codec.part and number < plan.rounds:
      self.columns = {c: columns_of(plan, like, c, key) for c in self.ids}

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
    if client in self.columns:
      kind, message = 'part', whole(cut(self.values(), self.columns[client]))
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
    taken = self.taken(0, ask(self.greetings()))
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
      frames = {client: (self.head(client, 'heard', exchange),
                         pack(flat(message), self.letters[client])) for client in there}
      before, taken = taken, self.taken(exchange, ask(frames), frames)
      taken = also(before, taken)
    return taken, heard, wire

  def taken(self, exchange: int, answers, asked=None) -> intake.Taken:
    """What may be used of the answers of an exchange, and why not the rest; no answer is a reason
    too."""
    found, answered = intake.Taken.nothing(), set()
    letters = {client: self.letters[client] for client in (asked or self.ids)}
    codec, like = self.codec, self.like
    if codec.answers:
      codec, like = dense(), flat_like(self.talk.says[exchange])
    size = FLOAT * sum(int(np.prod(x.shape)) for x in like.values()) + MANIFEST * (len(like) + 1)
    for client, (head, data) in answers:
      answered.add(client)
      if client not in letters or head.get('error'):
        said = str(head.get('error', 'takes no part'))[:200]
        found = refused(found, client, f'client {client}: {said}')
        continue
      own = cut_like(like, self.columns[client]) if client in self.columns else like
      expected = intake.Expected(
        letters[client].round, frozenset(letters), size, self.plan.rules.longest, own,
        letters[client].nonce,
      )  # fmt: skip
      reader = dense() if client in self.columns else codec
      found = intake.take(found, data, reader, expected, sender=client)
    for client in letters.keys() - answered:
      found = refused(found, client, f'client {client} did not answer in time')
    return found

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
      if values is not None and client in self.columns:
        values = spread(values, self.columns[client], self.like)
      each.append(nothing if values is None else tree.map(np.asarray, read(values)))
    weights = np.array([[taken.weights.get(client, 0.0) for client in self.ids]], np.float32)
    return tree.map(lambda *x: np.stack(x)[None], *each), weights, fine[None]


def whole(values: dict) -> dict:
  """The message of tensors as they are."""
  return {name: dict(dense=x) for name, x in values.items()}


def refused(taken: intake.Taken, client: int, reason: str) -> intake.Taken:
  """taken with one more refusal."""
  reasons = (*taken.refused.get(client, ()), reason)
  return taken._replace(refused={**taken.refused, client: reasons})


def also(before: intake.Taken, taken: intake.Taken) -> intake.Taken:
  """The later of two exchanges with the bytes and refusals of both."""
  counts = {c: {**before.counts[c], **taken.counts.get(c, {})} for c in before.counts}
  for client, reasons in before.refused.items():
    for reason in reasons:
      taken = refused(taken, client, reason)
  return taken._replace(counts=counts)


def settled(table: Table, taken: intake.Taken, heard: dict, wire, step):
  """(carry, row, what `accounting` takes of it) after a round, shaped and ordered as simulated."""
  plan, like, carry, ids, number = table.plan, table.like, table.carry, table.ids, table.number
  updates, weights, fine = table.stacked(taken, len(table.talk.says) - 1)
  program = over_replicas(
    settlement(plan.codec, plan.rules, step, tuple(like)), (0,) * 5 + (None, 0, None)
  )
  shared, server, change, void = program(
    carry['shared'], dict(carry['server'], wire=wire), updates, weights, fine,
    progress(plan, number), hidden(table.run.key('noise', number), carry['secret']), heard,
  )  # fmt: skip
  server = tree.select(void[0], carry['server'], server)
  fine = fine[0]
  names = list(table.talk.says[0])
  dense_bytes = FLOAT * sum(int(np.prod(x.shape)) for x in like.values())
  more = accounting.announced(
    plan.codec, tree.map(lambda x: x[0], carry['server']['wire']), names, number
  )
  current = (carry['seen'][0, ids] == number) & (number > 0)
  came = np.array([[_sum(taken.counts.get(c, {}), name) for c in ids] for name in names])
  up = came.sum(0)
  down = up if plan.codec.part else np.where(current, carry['last'][0], dense_bytes + more.sum())
  bad = np.array([len(taken.refused.get(client, ())) for client in ids])
  new = {name: carry[name].copy() for name in ('seen', 'heard', *COUNTERS)}
  counts = dict(up=up, down=down, dense=dense_bytes * (1 + fine), refused=bad)
  for name, count in counts.items():
    new[name][0, ids] += count
  new['seen'][0, ids] = np.where(fine, number + 1, 0)  # who failed is sent the whole student
  new['heard'][0, ids] = np.where(fine, number + 1, new['heard'][0, ids])
  count = plan.codec.count(joined(heard, tree.map(lambda x: x[0], change)))
  changed = np.array([[0 if void[0] else int(n)] for n in count.values()])
  carry = dict(
    carry, **new, shared=shared, server=server, change=change, last=changed.sum(0)
  )
  told = dict(
    up_bytes=up.sum()[None], down_bytes=down.sum()[None], clients=fine.sum()[None],
    void=np.asarray(void).astype(int), refused=bad.sum()[None],
  )  # fmt: skip
  ranks = [[found[n] for found in taken.ranks.values() if n in found] for n in names]
  sent = dict(
    up=came.sum(1, keepdims=True), change=changed, current=current.sum()[None],
    whole=(~current).sum()[None], announced=more,
    rank=np.array([[np.mean(found) if found else np.nan] for found in ranks]),
  )  # fmt: skip
  return carry, told, sent


def hidden(keys, secret):
  """keys [1] with a secret [1, 4] in them; as they were where it is 0, as without noise."""
  if not secret.any():
    return keys
  return functools.reduce(jax.vmap(jax.random.fold_in), jnp.asarray(secret).T, keys)


def _sum(counts: dict, name: str) -> int:
  """Bytes of a tensor, all its parts."""
  return sum(n for key, n in counts.items() if key == name or key.startswith(f'{name}:'))
