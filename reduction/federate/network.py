"""The same federation between processes that share nothing: a server and clients, by frames.

A frame is (head, body): a dict that JSON can hold, and a packed message. `serving` and `working`
make functions in the place of `rounds.learn`; how frames travel is passed to them. In a round the
server greets who takes part with what changed, or with the whole student where it cannot know that
a client has the last one; each answers with its update. Teachers, optimizers, losses and data never
are in a frame. One seed.

The head of a greeting: where and config, which client and server must agree in; round; row of `of`,
the client's place among those who take part; kind; step; heard, the last round whose update was
taken, from 1. Round `rounds` only tells the end. An answer's head is empty or holds an error.
"""

import secrets
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from reduction import tree
from reduction.errors import DataError, UserError, require
from reduction.federate import clients as at_clients
from reduction.federate import intake, rounds
from reduction.federate.codecs.codec import FLOAT
from reduction.federate.message import LONGEST, Letter, body, pack, unpack
from reduction.federate.server import dispatch, moved, named, placed, plain, settlement
from reduction.net import over_replicas
from reduction.update import classified

Frame = tuple[dict, bytes]
KINDS = 'whole', 'change', 'same'
HEAD = dict(where=str, config=str, round=int, row=int, of=int, kind=str, step=int, heard=int)
MANIFEST = 1_000  # bytes of a tensor's part of a manifest at most
COUNTERS = 'up', 'down', 'dense', 'refused'


def check(plan, run):
  """Raises UsageError for what a network does not carry."""
  require(len(run.seeds) == 1, f'a network trains one seed, not seeds={run.seeds}')
  require(
    plan.codec.encode is not None and not plan.codec.mirrored,
    'codecs power and sketch and FedDropout have no packed messages: take dense, low_rank or '
    'quantized',
  )
  require(not plan.rules.secure, 'secure aggregation has no packed messages: take rules.secure=0')


def serving(ask: Callable[[dict[int, Frame]], Iterator[tuple[int, Frame]]], config: str):
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
    greet = lambda carry, number, of, run: {
      client: greeting(plan, like, carry, client, Letter(client, number, secrets.token_hex(8), 1.0),
                       dict(row=row, of=len(of), where=place(run), config=config))
      for row, client in enumerate(of)
    }  # fmt: skip

    def one(carry, number, run):
      chosen = [
        cohort.ids[at_clients.choose(key, number, len(cohort.ids), plan.share, 0.0)[0]]
        for i, cohort in enumerate(cohorts) for key in run.key('data', 1, i)
      ]  # fmt: skip
      ids = [int(client) for client in np.concatenate(chosen)]
      frames = greet(carry, number, ids, run)
      taken = collected(plan, like, {c: letter for c, (letter, _) in frames.items()},
                        ask({c: frame for c, (_, frame) in frames.items()}))  # fmt: skip
      for client, reasons in taken.refused.items():
        for reason in reasons:
          run.log(kind='refusal', step=number + 1, client=client, reason=reason)
      carry, told, sent = settled(plan, like, carry, ids, taken, number, step, run)
      carry['shared'] = dict(carry['shared'], step=carry['shared']['step'] + most)
      new = carry['shared']
      held = score(new['params'], new['stats'], watched) if len(watched.y) else {}
      held = {f'validation_{name}': value for name, value in held.items()}
      run.log(kind='round', step=number + 1, seeds=run.seeds, **told, **held)
      return carry, sent

    carry = begin(plan, cohorts, like, shared, state or {})
    carry, outs = run.fold('rounds', one, carry, plan.rounds)
    rounds.log_sent(plan, outs, like, len(carry['up'][0]), run)
    frames = greet(carry, plan.rounds, range(carry['up'].shape[1]), run)
    gone = sum(body(data) for _, (_, data) in frames.values())
    reached = [client for client, (head, _) in ask({c: f for c, (_, f) in frames.items()})
               if not head.get('error')]  # fmt: skip
    run.log(kind='closing', clients=len(set(reached)), down_bytes=gone)
    return carry, [([], None) for _ in cohorts]

  return learn


def place(run) -> str:
  """The stage of a run."""
  return run.where.split('/')[0]


def begin(plan, cohorts, like, shared, state) -> dict:
  """What the server's fold carries: of `rounds.begin`, what is not of clients; change, the newest
  message; heard int [1, C]: the last round, from 1, whose update was taken."""
  counter = lambda: np.zeros((1, sum(len(cohort.ids) for cohort in cohorts)), np.int64)
  one = lambda t: tree.map(lambda x: jnp.asarray(x)[None], t)
  return dict(
    shared=shared, server=dict(wire=one((plan.codec.serve or plan.codec.start)(like)), step=state),
    change=one(empty(plan, like)), seen=counter(), heard=counter(), last=np.zeros(1, np.int64),
    **{name: counter() for name in COUNTERS},
  )  # fmt: skip


def empty(plan, like):
  """Zeros in the shape of an encoded update."""
  encode = lambda update: plan.codec.encode(
    update, plan.codec.start(like), jnp.float32(0), jax.random.key(0)
  )[0]
  return tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(encode, like))


def greeting(plan, like, carry, client: int, letter: Letter, told: dict) -> tuple[Letter, Frame]:
  """(the letter, the frame) that a client gets at the start of a round."""
  first = lambda t: tree.map(lambda x: np.asarray(x[0]), t)
  if letter.round == 0 or carry['seen'][0, client] != letter.round:
    kind, all_of = 'whole', first(named(carry['shared']))
    message = {name: dict(dense=all_of[name]) for name in like}
  elif carry['last'][0] == 0:  # the round was void
    kind, message = 'same', {}
  else:
    kind, message = 'change', first(carry['change'])
  head = dict(
    told, round=letter.round, kind=kind, step=int(carry['shared']['step'][0]),
    heard=int(carry['heard'][0, client]),
  )  # fmt: skip
  return letter, (head, pack(message, letter, bits=plan.codec.bits))


def collected(plan, like, letters: dict[int, Letter], answers) -> intake.Taken:
  """What may be used of a round's answers, and why not the rest; no answer is a reason too."""
  taken, answered = intake.Taken.nothing(), set()
  size = FLOAT * sum(int(np.prod(x.shape)) for x in like.values()) + MANIFEST * (len(like) + 1)
  for client, (head, data) in answers:
    answered.add(client)
    if client not in letters or head.get('error'):
      said = str(head.get('error', 'takes no part'))[:200]
      taken = refused(taken, client, f'client {client}: {said}')
      continue
    expected = intake.Expected(
      letters[client].round, frozenset(letters), size, plan.rules.longest, like,
      letters[client].nonce,
    )  # fmt: skip
    taken = intake.take(taken, data, plan.codec, expected, sender=client)
  for client in letters.keys() - answered:
    taken = refused(taken, client, f'client {client} did not answer in time')
  return taken


def refused(taken: intake.Taken, client: int, reason: str) -> intake.Taken:
  """taken with one more refusal."""
  reasons = (*taken.refused.get(client, ()), reason)
  return taken._replace(refused={**taken.refused, client: reasons})


def settled(plan, like, carry, ids, taken: intake.Taken, number: int, step, run):
  """(carry, row, what `accounting` takes of it) after a round, shaped and ordered as simulated."""
  fine = np.array([client in taken.updates for client in ids])
  nothing = {name: np.zeros(x.shape, np.float32) for name, x in like.items()}
  updates = [taken.updates.get(client, nothing) for client in ids]
  updates = {name: np.stack([np.asarray(u[name]) for u in updates])[None] for name in like}
  weights = np.array([[taken.weights.get(client, 0.0) for client in ids]], np.float32)
  program = over_replicas(settlement(plan.codec, plan.rules, step), (0, 0, 0, 0, 0, None, 0))
  shared, server, change, void = program(
    carry['shared'], carry['server'], updates, weights, fine[None], progress(plan, number),
    run.key('noise', number),
  )  # fmt: skip
  dense = FLOAT * sum(int(np.prod(x.shape)) for x in like.values())
  current = (carry['seen'][0, ids] == number) & (number > 0)
  down = np.where(current, carry['last'][0], dense)
  came = np.array([[taken.counts.get(c, {}).get(name, 0) for c in ids] for name in like])
  up = came.sum(0)
  bad = np.array([len(taken.refused.get(client, ())) for client in ids])
  new = {name: carry[name].copy() for name in ('seen', 'heard', *COUNTERS)}
  counts = dict(up=up, down=down, dense=dense * (1 + fine), refused=bad)
  for name, count in counts.items():
    new[name][0, ids] += count
  new['seen'][0, ids] = np.where(fine, number + 1, 0)  # who failed is sent the whole student
  new['heard'][0, ids] = np.where(fine, number + 1, new['heard'][0, ids])
  count = plan.codec.count(tree.map(lambda x: x[0], change))
  changed = np.array([[0 if void[0] else int(count[name])] for name in like])
  carry = dict(
    carry, **new, shared=shared, server=server, change=change, last=changed.sum(0)
  )
  told = dict(
    up_bytes=up.sum()[None], down_bytes=down.sum()[None], clients=fine.sum()[None],
    void=np.asarray(void).astype(int), refused=bad.sum()[None],
  )  # fmt: skip
  ranks = [[found[n] for found in taken.ranks.values() if n in found] for n in like]
  sent = dict(
    up=came.sum(1, keepdims=True), change=changed, current=current.sum()[None],
    whole=(~current).sum()[None],
    rank=np.array([[np.mean(found) if found else np.nan] for found in ranks]),
  )  # fmt: skip
  return carry, told, sent


def counted(plan, message) -> int:
  """Bytes of a message without its letter and manifest."""
  return sum(int(n) for n in plan.codec.count(message).values())


def progress(plan, number: int) -> np.float32:
  """0 in the first round, 1 in the last."""
  return np.float32(number / max(plan.rounds - 1, 1))


def working(wait: Callable[[], tuple[Frame, Callable[[Frame], None]]], client: int, config: str):
  """A function like `rounds.learn` for the client of this number.

  wait: () -> the next greeting and what takes its answer. A round is committed, with a run that
  saves at every index, before it is answered: a client that is killed goes on where it was, and one
  that the server asks again says the same again. Rows: a 'round' each, and a 'closed'.
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
    line = Line(wait, dict(where=place(run), config=config))
    weight = float(len(owned[0][client]))

    def say(carry, letter):
      message = tree.map(lambda x: np.asarray(x[0]), carry['sent'])
      own = letter._replace(client=client, weight=weight)
      return {}, pack(message, own, bits=plan.codec.bits)

    def one(carry, number, run):
      found = line.next(number, carry, say, like)
      if found is None:  # not asked, or away
        return carry, None
      head, letter, message, size = found
      carry, told = trained(parts, like, carry, head, message, size, run)
      line.answer(lambda: say(carry, letter))
      run.log(kind='round', step=number + 1, seeds=run.seeds, **told)
      return carry, None

    carry, _ = run.fold('rounds', one, first(plan, alone, like, shared), plan.rounds)
    head, _, message, size = line.next(plan.rounds, carry, say, like)
    run.log(kind='closed', down_bytes=size)
    carry = dict(carry, shared=heard(plan, carry, head, message, like))
    line.answer(lambda: ({}, b''))
    line.flush()
    return carry, [([client], carry['own']) if i == at else ([], None) for i in range(len(cohorts))]

  return learn


def first(plan, cohort, like, shared) -> dict:
  """What a client's fold carries. at: the round, from 1, at whose start shared is; said: the last
  one that it answered, with `sent`; sender: what the codec keeps, `later` if that was taken."""
  one = lambda t: tree.map(lambda x: jnp.asarray(x)[None], t)
  keeps = one(plan.codec.start(like))
  own = tree.map(lambda x: jnp.asarray(x)[:, None], cohort.first)
  number = lambda: np.zeros(1, np.int64)
  return dict(
    shared=shared, own=own, sender=keeps, later=keeps, sent=one(empty(plan, like)), at=number(),
    said=number(), **{name: np.zeros((1, 1), np.int64) for name in COUNTERS},
  )  # fmt: skip


def heard(plan, carry, head, message, like) -> dict:
  """What the server shares at the start of the round that a greeting is for."""
  shared, kind = carry['shared'], head['kind']
  if kind != 'whole' and carry['at'][0] != head['round']:
    raise DataError('I do not have the student that this changes')
  if kind != 'same':
    values = (
      {n: jnp.asarray(x)[None] for n, x in plan.codec.decode(message, like).items()}
      if (kind == 'change')
      else {n: jnp.asarray(parts['dense'])[None] for n, parts in message.items()}
    )
    shared = (moved if kind == 'change' else placed)(shared, values)
  return dict(shared, step=jnp.full(1, head['step'], jnp.int32))


def trained(parts: rounds.Parts, like, carry, head, message, size: int, run) -> tuple[dict, dict]:
  """(carry, row) after a client's part of a round. size: bytes that it received."""
  plan, number = parts.plan, head['round']
  shared = heard(plan, carry, head, message, like)
  sender = carry['later'] if carry['said'][0] == head['heard'] else carry['sender']
  update, own, told = rounds.train(
    parts, parts.cohorts[0], shared, carry['own'], np.zeros((1, 1), int), number, run
  )
  update = tree.map(lambda x: x[:, 0], update)
  key = jax.random.split(run.key('noise', number)[0], head['of'] + 2)[2 + head['row']]
  encode = over_replicas(dispatch(plan.codec, plan.rules), (0, 0, None, 0))
  if not tree.finite(update):  # no message can hold it, and a decomposition would not end
    raise DataError(f'the update of round {number + 1} is not finite; try a smaller learning rate')
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
  told = {name: np.asarray(x).mean(1) for name, x in told.items()}
  return carry, dict(told, up_bytes=[counts['up']], down_bytes=[size], **ranks)


class Line:
  """A client's end of the line: greetings in the order of rounds, answers when they are kept."""

  def __init__(self, wait, agreed: dict):
    self._wait, self._agreed, self._held, self._open = wait, agreed, None, None

  def answer(self, say: Callable[[], Frame]):
    """What the greeting just read will be answered with, once its round is committed."""
    self._open = (*self._open, say)

  def flush(self):
    """Sends the answer that was kept back."""
    if self._open and len(self._open) == 2:
      reply, say = self._open
      reply(say())
    self._open = None

  def next(self, number: int, carry, say, like):
    """(head, letter, message, its bytes) of the greeting for this round; None: a later one came.

    Greetings that are no such are answered here: with say(carry, letter) for the round before, with
    an error for anything else.
    """
    self.flush()
    while True:
      frame, reply = self._held or self._wait()
      self._held = None
      try:
        head = read(frame[0], self._agreed)
        if head['round'] > number:
          self._held = frame, reply
          return None
        letter, message = unpack(frame[1], like if head['kind'] != 'same' else {})
        if head['round'] == carry['said'][0] - 1:
          reply(say(carry, letter))
        elif head['round'] < number:
          raise DataError(f'I am past round {head["round"] + 1}')
        elif head['kind'] != 'whole' and carry['at'][0] != number:
          raise DataError('I do not have the student that this changes')
        else:
          self._open = (reply,)
          return head, letter, message, body(frame[1])
      except UserError as error:
        reply((dict(error=str(error)), b''))


def read(head: dict, agreed: dict) -> dict:
  """The head of a greeting. Raises DataError for what it lacks and what was agreed otherwise."""
  for name, kind in HEAD.items():
    if type(head.get(name)) is not kind:
      raise DataError(f'a greeting has {name}={str(head.get(name))[:40]!r}, not {kind.__name__}')
  if head['kind'] not in KINDS or not 0 <= head['row'] < head['of'] <= LONGEST:
    raise DataError('a greeting of no known kind')
  for name, value in agreed.items():
    if head[name] != value:
      raise DataError(f'the server has {name}={head[name][:40]!r}, this client {value!r}')
  return head
