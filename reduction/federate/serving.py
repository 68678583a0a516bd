"""The server of a federation between processes; what it agrees in with clients: `network`."""

import functools
import secrets

import jax
import jax.numpy as jnp
import numpy as np

from reduction import tree
from reduction.federate import accounting, intake, rounds
from reduction.federate import clients as at_clients
from reduction.federate.codecs.codec import FLOAT, joined
from reduction.federate.message import body
from reduction.federate.network import COUNTERS, check, place, progress, talk
from reduction.federate.server import plain, settlement
from reduction.federate.table import Ask, Table
from reduction.federate.veiled import VeiledTable
from reduction.net import over_replicas
from reduction.update import classified


def serving(ask: Ask, config: str):
  """A function like `rounds.learn` for a server.

  ask: (greetings by client, bytes of an answer's message at most) -> answers with the client whom
  the network says each comes from, as long as it is worth waiting. config: a digest of what clients
  must have too. The plan's `failing` is left to the network. Rows: a 'round' each, a 'refusal' for
  each answer that was not taken, those of `rounds.log_sent`, and a 'closing'.
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
      table = seated(plan, like, carry, ids, number, here, run)
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


def seated(plan, *given) -> Table:
  """The table of a round as the plan's rules have it."""
  return (VeiledTable if plan.rules.secure else Table)(plan, *given)


def close(plan, like, carry, ask: Ask, here: dict, run):
  """Sends all clients the last student; the row 'closing'."""
  table = Table(plan, like, carry, range(carry['up'].shape[1]), plan.rounds, here, run)
  frames = table.greetings()
  gone = sum(body(data) for _, data in frames.values())
  reached = [client for client, (head, _) in ask(frames, 0) if not head.get('error')]
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


def settled(table: Table, taken: intake.Taken, heard: dict, wire, step):
  """(carry, row, what `accounting` takes of it) after a round, shaped and ordered as simulated."""
  plan, like, carry, ids, number = table.plan, table.like, table.carry, table.ids, table.number
  updates, weights, fine = table.stacked(taken, len(table.talk.says) - 1)
  program = over_replicas(
    settlement(plan.codec, table.rules, step, tuple(like)), (0,) * 5 + (None, 0, None)
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
  count = plan.codec.count(joined(heard, tree.map(lambda x: x[0], change)))
  sizes = np.array([int(n) for n in count.values()])
  down = np.where(current, carry['last'][0], dense_bytes + more.sum())
  down = np.full_like(down, sizes.sum()) if plan.codec.part else down
  sent = up > 0
  up, down = (up, down) + table.besides(taken)
  bad = np.array([len(taken.refused.get(client, ())) for client in ids])
  new = {name: carry[name].copy() for name in ('seen', 'heard', *COUNTERS)}
  counts = dict(up=up, down=down, dense=dense_bytes * (1 + sent), refused=bad)
  for name, count in counts.items():
    new[name][0, ids] += count
  kept = table.kept(fine)
  new['seen'][0, ids] = np.where(kept, number + 1, 0)  # who failed is sent the whole student
  new['heard'][0, ids] = np.where(kept & ~void[0], number + 1, new['heard'][0, ids])
  last = np.where(void, 0, sizes.sum())
  carry = dict(carry, **new, shared=shared, server=server, change=change, last=last)
  told = dict(
    up_bytes=up.sum()[None], down_bytes=down.sum()[None], clients=fine.sum()[None],
    void=np.asarray(void).astype(int), refused=bad.sum()[None],
  )  # fmt: skip
  changed = sizes if plan.codec.part else np.where(void, 0, sizes)
  ranks = [[found[n] for found in taken.ranks.values() if n in found] for n in names]
  sent = dict(
    up=came.sum(1, keepdims=True), change=changed[:, None], current=current.sum()[None],
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
