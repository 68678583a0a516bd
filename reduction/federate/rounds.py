"""Rounds of a federation: who takes part, what they train, what travels, what comes out."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from reduction import tree
from reduction.federate import accounting
from reduction.federate import clients as at_clients
from reduction.federate.clients import Method
from reduction.federate.codecs.codec import FLOAT
from reduction.federate.server import exchange, plain
from reduction.federate.setting import Plan
from reduction.net import over_replicas
from reduction.store import Store
from reduction.update import classified


class Cohort(NamedTuple):
  """Clients that train alike. ids: int [c]; first: what each keeps at the start, [R, ...]."""

  method: Method
  ids: np.ndarray
  first: Any


class Parts(NamedTuple):
  """What rounds are made of. data: (x, y) on the device; owned: for each seed the examples of each
  client; most: steps of the largest; step: the server's; stores: of each cohort, or None; codec:
  what a sender keeps at first, [R, ...], and the store of all, or None.
  """

  plan: Plan
  cohorts: tuple[Cohort, ...]
  data: tuple
  owned: list[list[np.ndarray]]
  most: int
  step: Any
  stores: list
  codec: tuple[Any, Store | None] = ({}, None)


def share_out(plan: Plan, data, keys) -> list[list[np.ndarray]]:
  """For each seed, the training examples of each client. keys: [R]."""
  owners = data.owners
  return [plan.split(data.train.y, owners, at_clients.generator(key)) for key in keys]


def learn(plan: Plan, cohorts, module, shared, run, *, step=plain, state=None) -> tuple:
  """(the last carry, for each cohort the clients whose own states are here and these): a fold.

  module: of the shared model. shared: dict(params, stats, masks, step) [R, ...], and what the
  methods need besides. step: of `server.exchange`; state: its first, [R, ...]. Own states are trees
  [R, c, ...] or a store. Rows: a 'round' every `plan.every` rounds, with its bytes of all clients,
  ranks, losses and scores; those of `log_sent`. `serving.serving` and
  `working.working` make functions like this one.
  """
  splits, owned = run.data.splits(), share_out(plan, run.data, run.key('data', 2))
  data, watched = jax.device_put((tuple(splits['train']), splits['validation']))
  most = at_clients.most_steps(owned, plan.batch, plan.epochs)
  carry, stores, codec = begin(plan, cohorts, shared, state or {}, run)
  parts = Parts(plan, tuple(cohorts), data, owned, most, step, stores, codec)
  score = over_replicas(classified(module), (0, 0, None))

  def one(carry, number, run):
    carry, told, sent = one_round(parts, carry, number, run)
    if (number + 1) % plan.every == 0 or number + 1 == plan.rounds:
      new = carry['shared']
      held = score(new['params'], new['stats'], watched) if len(watched.y) else {}
      held = {f'validation_{name}': value for name, value in held.items()}
      run.log(kind='round', step=number + 1, seeds=run.seeds, **told, **held)
    return carry, sent

  carry, outs = run.fold('rounds', one, carry, plan.rounds)
  log_sent(plan, outs, sent_like(cohorts[0], shared), len(carry['up'][0]), run)
  kept = [store or own for store, own in zip(stores, carry['own'])]
  return carry, [(cohort.ids, own) for cohort, own in zip(cohorts, kept)]


def log_sent(plan: Plan, outs, like: dict, clients: int, run):
  """Rows of what travelled: 'sent' of `accounting.by_tensor`, 'rank' of `accounting.ranks`."""
  outs, shapes = list(outs), {name: x.shape for name, x in like.items()}
  for row in accounting.by_tensor(outs, shapes, clients, plan.codec.part is not None):
    run.log(kind='sent', summary=True, seeds=run.seeds, **row)
  for row in accounting.ranks(outs, shapes):
    run.log(kind='rank', summary=True, seeds=run.seeds, **row)


def begin(plan: Plan, cohorts, shared, state, run) -> tuple[dict, list, tuple]:
  """(carry of the fold, stores of the cohorts that are on disk, `Parts.codec`).

  carry: shared [R, ...]; own: a tree [R, c, ...] for each cohort; senders [R, C, ...] and server:
  what the codec keeps, where it is not on disk; seen int [R, C]: the round after the last one that
  a client took part in; last int [R]: bytes of the newest change; up, down int [R, C]: bytes so
  far; dense int [R, C]: what they would be if all tensors travelled whole; refused int [R, C]:
  updates.
  """
  replicas, count = len(run.seeds), sum(len(cohort.ids) for cohort in cohorts)
  like = sent_like(cohorts[0], shared)
  every = lambda first, n: tree.map(
    lambda x: jnp.broadcast_to(jnp.asarray(x)[:, None], (x.shape[0], n, *x.shape[1:])), first
  )
  spread = lambda t: tree.map(lambda x: jnp.broadcast_to(x, (replicas, *x.shape)), t)
  one, wire = (spread(start(like)) for start in (plan.codec.start, plan.codec.serve or
                                                 plan.codec.start))  # fmt: skip
  stores, own = [], []
  for i, cohort in enumerate(cohorts):
    on_disk = plan.disk and tree.leaves(cohort.first)
    begins = tree.map(lambda x: np.asarray(x[0]), cohort.first)
    stores.append(run.store(f'clients{i}', begins) if on_disk else None)
    own.append({} if on_disk else every(cohort.first, len(cohort.ids)))
  counter = lambda: np.zeros((replicas, count), np.int64)
  on_disk = plan.disk and tree.leaves(one)
  first = tree.map(lambda x: np.asarray(x[0]), one)
  codec = one, run.store('senders', first) if on_disk else None
  carry = dict(
    shared=shared, own=own, senders={} if on_disk else every(one, count),
    server=dict(wire=wire, step=state), last=np.zeros(replicas, np.int64),
    **{name: counter() for name in ('seen', 'up', 'down', 'dense', 'refused')},
  )  # fmt: skip
  return carry, stores, codec


def sent_like(cohort: Cohort, shared) -> dict:
  """{name: shape} of what a client of a cohort sends."""
  one = lambda t: tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), t)

  def send(shared, own):
    state, _ = cohort.method.begin(shared, own, jax.random.key(0))
    return cohort.method.end(shared, own, state, jnp.int32(1))[0]

  return jax.eval_shape(send, one(shared), one(cohort.first))


def one_round(parts: Parts, carry, number: int, run) -> tuple[dict, dict, dict]:
  """(carry, row, what `accounting.by_tensor` takes of the round) after round `number`."""
  where, arrives, updates, told, own = [], [], [], [], []
  for i, cohort in enumerate(parts.cohorts):
    chosen = [
      at_clients.choose(key, number, len(cohort.ids), parts.plan.share, parts.plan.failing)
      for key in run.key('data', 1, i)
    ]
    rows, arrived = (np.stack(x) for x in zip(*chosen))
    kept = parts.stores[i] or carry['own'][i]
    update, kept, losses = train(parts, cohort, carry['shared'], kept, rows, number, run)
    own.append({} if isinstance(kept, Store) else kept)
    where.append(rows)
    for values, new in (arrives, arrived), (updates, update), (told, losses):
      values.append(new)
  if parts.plan.spectra and number in (0, parts.plan.rounds - 1):
    for found in spectra(joined(updates), parts.plan.spectra):
      run.log(kind='spectrum', summary=True, step=number + 1, seeds=run.seeds, **found)
  names = set.intersection(*(set(losses) for losses in told))
  losses = joined([{name: one[name] for name in names} for one in told])
  row = {name: np.asarray(losses[name]).mean(1) for name in sorted(names)}
  ids = np.concatenate([cohort.ids[rows] for cohort, rows in zip(parts.cohorts, where)], 1)
  new, taken, heard, sent = _send(
    parts, dict(carry, own=own), joined(updates), ids, np.concatenate(arrives, 1), number, run
  )
  return dict(new, own=_settled(parts, carry['own'], own, where, taken, run)), row | heard, sent


def _settled(parts: Parts, before, own, where, taken, run) -> list:
  """own of each cohort, as before for clients of methods that settle who are not taken [R, m].

  where: rows of the cohort, [R, m] each.
  """
  found, at = list(own), 0
  for i, (cohort, rows) in enumerate(zip(parts.cohorts, where)):
    here, at = taken[:, at : at + rows.shape[1]], at + rows.shape[1]
    if cohort.method.settles:
      kept = parts.stores[i] or own[i]
      kept = at_clients.settled(kept, before[i], cohort.first, rows, run.seeds, here)
      found[i] = {} if parts.stores[i] else kept
  return found


def train(parts: Parts, cohort: Cohort, shared, kept, rows, number, run):
  """(updates [R, m, ...], what is kept, told [R, m]) of the clients rows [R, m] of a cohort."""
  plan, updates, told = parts.plan, [], []
  group = min(plan.group or rows.shape[1], rows.shape[1])
  mesh = at_clients.along_clients(run.mesh, group)
  program = over_replicas(
    at_clients.training(cohort.method, run.data.augment, 'auto', mesh), (0, 0, None, 0, 0, 0, 0),
    how='vmap' if mesh else 'auto',
  )  # fmt: skip
  keys, orders = run.key('dropout', number), run.key('data')
  for at in range(0, rows.shape[1], group):
    these = rows[:, at : at + group]
    count = these.shape[1]
    if mesh:  # which the last clients fill too: by the last one again, whose results are dropped
      these = np.pad(these, ((0, 0), (0, group - count)), mode='edge')
    drawn = [
      at_clients.batches(key, number, owned, ids, batch=plan.batch, epochs=plan.epochs,
                         most=parts.most)
      for key, owned, ids in zip(orders, parts.owned, cohort.ids[these])
    ]  # fmt: skip
    indices, valid = (np.stack(x) for x in zip(*drawn))
    own = at_clients.take(kept, cohort.first, these, run.seeds)
    update, own, losses = program(
      shared, own, parts.data, cohort.ids[these], indices, valid, keys
    )
    if count < these.shape[1]:
      update, own, losses = tree.map(lambda x, count=count: x[:, :count], (update, own, losses))
    kept = at_clients.put(kept, these[:, :count], run.seeds, own)
    updates.append(update)
    told.append(losses)
  return joined(updates), kept, joined(told)


def spectra(updates, most: int) -> Iterator[dict]:
  """Rows of the singular values of each matrix of updates [R, m, ...], means over clients.

  matrix: its name; index: from 1 to at most `most`; share [R]: of the largest singular value; held
  [R]: share of the energy that the values up to this one hold. Updates that are not finite are left
  out: their singular values are never found.
  """
  for name, x in updates.items():
    if x.ndim < 4:
      continue
    x = np.asarray(x).reshape(*x.shape[:2], -1, x.shape[-1])
    fine = np.isfinite(x).all((2, 3))
    values = np.linalg.svd(np.where(fine[..., None, None], x, 0.0), compute_uv=False)
    share = values / np.maximum(values[..., :1], 1e-30)
    held = np.cumsum(values**2, -1) / np.maximum((values**2).sum(-1, keepdims=True), 1e-30)
    mean = lambda y, fine=fine: (y * fine[..., None]).sum(1) / np.maximum(fine.sum(1), 1)[:, None]
    share, held = mean(share), mean(held)
    for i in range(min(most, values.shape[-1])):
      yield dict(
        matrix=name.removeprefix('params/'), index=i + 1, share=share[:, i], held=held[:, i]
      )


def joined(parts: list):
  """Trees [R, m, ...] one after another along the clients; a lone one stays where it is."""
  if len(parts) == 1:
    return parts[0]
  return tree.map(lambda *x: np.concatenate([np.asarray(a) for a in x], 1), *parts)


def _send(parts: Parts, carry, updates, ids, arrives, number, run):
  """(carry, taken [R, m], row, what `accounting.by_tensor` takes) of the round on the wire."""
  plan, rows = parts.plan, np.arange(len(ids))[:, None]
  program = over_replicas(
    exchange(plan.codec, plan.rules, parts.step), (0, 0, 0, 0, 0, 0, None, 0)
  )
  counts = np.array([[len(part) for part in of_seed] for of_seed in parts.owned], np.float32)
  first, stored = parts.codec
  senders = at_clients.take(stored or carry['senders'], first, ids, run.seeds)
  shared, server, senders, heard = program(
    carry['shared'], carry['server'], updates, senders, counts[rows, ids], arrives,
    np.float32(number / max(plan.rounds - 1, 1)), run.key('noise', number),
  )  # fmt: skip
  heard = tree.map(np.asarray, heard)
  dense = FLOAT * sum(int(np.prod(x.shape[2:])) for x in updates.values())
  known = carry['seen']
  wire = tree.map(lambda x: x[0], carry['server']['wire'])
  more = accounting.announced(plan.codec, wire, heard['up'], number)
  down = accounting.received(known[rows, ids], number, carry['last'], dense + more.sum())
  newest = sum(np.asarray(x, np.int64) for x in heard['down'].values())
  down = np.broadcast_to(newest[:, None], down.shape) if plan.codec.part else down
  up, refused = sum(heard['up'].values()).astype(np.int64), arrives & ~heard['fine']
  new = {name: carry[name].copy() for name in ('seen', 'up', 'down', 'dense', 'refused')}
  new['seen'][rows, ids] = np.where(heard['fine'], number + 1, 0)  # others: the whole student
  both = dense * (1 + (up > 0))
  for name, count in dict(up=up, down=down, dense=both, refused=refused).items():
    new[name][rows, ids] += count
  kept = at_clients.put(stored or carry['senders'], ids, run.seeds, senders)
  carry = dict(
    carry, **new, server=server, senders={} if stored else kept,
    shared=dict(shared, step=shared['step'] + parts.most),
    last=np.where(heard['void'], 0, newest),
  )  # fmt: skip
  told = dict(
    up_bytes=up.sum(1), down_bytes=down.sum(1), clients=heard['fine'].sum(1),
    void=heard['void'].astype(int), refused=refused.sum(1),
  )  # fmt: skip
  current = (known[rows, ids] == number) & (number > 0)
  nothing = heard['void'] & (plan.codec.part is None)
  ranks, none = heard['rank'], np.full(up.shape, np.nan)
  sent = dict(
    up=np.stack([x.sum(1) for x in heard['up'].values()]),
    change=np.stack([np.where(nothing, 0, x) for x in heard['down'].values()]),
    rank=np.stack([ranks.get(name, none).mean(1) for name in heard['up']]),
    current=current.sum(1), whole=(~current).sum(1), announced=more,
  )  # fmt: skip
  told |= {f'rank {name.removeprefix("params/")}': r.mean(1) for name, r in ranks.items()}
  return carry, heard['fine'] & ~heard['void'][:, None], told, sent
