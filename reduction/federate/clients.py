"""What clients do in a round: who takes part, which examples they see, how they train.

A client scans the same `update` as `train.train`. Clients of unequal size take as many steps as the
largest, and those beyond their own change nothing. `over_clients` is the only code that knows
whether clients run at once, on several devices or one after another.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from reduction import tree
from reduction.errors import require
from reduction.store import Store
from reduction.update import Update

HOWS = 'auto', 'vmap', 'map'


class Method(NamedTuple):
  """What a client makes of a round, as pure functions of one client.

  shared: what the server sent, a dict with params, stats, masks and step. own: what the client
  keeps, a tree. begin: (shared, own, key) -> (the state that update trains, what its batches
  hold besides). end: (shared, own, state, steps taken) -> (the update that it sends, a dict
  {name: array}, and its new own). settles: whether own goes back to what it was where that update
  was lost or refused, or its round void.
  """

  begin: Callable
  update: Update
  end: Callable
  settles: bool = False


def generator(key, *salt: int) -> np.random.Generator:
  """Randomness on the host, of a key of `run.key` and salt alone."""
  return np.random.default_rng([*np.asarray(jax.random.key_data(key)).ravel().tolist(), *salt])


def choose(key, number: int, clients: int, share: float, failing: float):
  """(ids [m] in order, arrives bool [m]) of round `number`: a share of the clients, one at least.

  failing: the chance that a client's update never arrives.
  """
  rng = generator(key, number)
  ids = np.sort(rng.permutation(clients)[: taking_part(clients, share)])
  return ids.astype(np.int32), rng.random(len(ids)) >= failing


def taking_part(clients: int, share: float) -> int:
  """How many clients take part in a round."""
  return max(1, round(share * clients))


def steps(count: int, batch: int, epochs: float) -> int:
  """Steps of a client that holds count examples; one at least."""
  return max(1, round(count * epochs / batch))


def most_steps(owned, batch: int, epochs: float) -> int:
  """Steps of the client with most examples, of all seeds; owned: for each the clients' examples."""
  return steps(max(len(part) for of_seed in owned for part in of_seed), batch, epochs)


def batches(key, number: int, parts, ids, *, batch: int, epochs: float, most: int):
  """(indices int32 [m, most, batch], valid bool [m, most]) of the clients ids in round `number`.

  parts: the examples of each client. Epoch after epoch in fresh orders, without a gap, so that a
  client smaller than a batch sees examples twice in it. A function of key, round and client alone.
  """
  indices = np.zeros((len(ids), most, batch), np.int32)
  valid = np.zeros((len(ids), most), bool)
  for row, client in enumerate(ids):
    rng, mine = generator(key, number, client), parts[client]
    count = steps(len(mine), batch, epochs)
    orders = [rng.permutation(mine) for _ in range(math.ceil(count * batch / len(mine)))]
    indices[row, :count] = np.concatenate(orders)[: count * batch].reshape(count, batch)
    valid[row, :count] = True
  return indices, valid


def scan(update: Update, state, data, indices, valid, key, given, augment=None):
  """(state after the valid steps, means of what they told): one client's part of a round.

  data: (x, y). indices: [steps, batch]; valid: [steps]. given: what each batch holds besides.
  """
  x, y = data

  def step(state, at):
    number, chosen, counts = at
    drops, changes = jax.random.split(jax.random.fold_in(key, number))
    images = augment(changes, x[chosen]) if augment else x[chosen]
    new, told = update(state, (images, y[chosen], given), drops)
    told = {name: jnp.where(counts, value, 0.0) for name, value in told.items()}
    return tree.select(counts, new, state), told

  numbers = jnp.arange(len(valid), dtype=jnp.int32)
  state, told = jax.lax.scan(step, state, (numbers, indices, valid))
  fine = jnp.maximum(told.pop('fine').sum(), 1)
  return state, {name: values.sum() / fine for name, values in told.items()}


@functools.lru_cache(maxsize=64)
def training(method: Method, augment=None, how: str = 'auto', mesh: Mesh | None = None):
  """One replicate's clients, trained: a function for `net.over_replicas`.

  (shared, own [m, ...], data, ids [m], indices [m, steps, batch], valid [m, steps], key) ->
  (updates [m, ...], own [m, ...], told [m]).
  """

  def one(shared, own, data, number, indices, valid, key):
    begins, mine = keys(key, number)
    state, given = method.begin(shared, own, begins)
    state, told = scan(method.update, state, data, indices, valid, mine, given, augment)
    update, own = method.end(shared, own, state, valid.sum())
    return update, own, told

  return over_clients(one, (False, True, False, True, True, True, False), how, mesh)


def keys(key, client):
  """A client's keys of a round, whose key it is: of where it begins, and of its steps."""
  return jax.random.split(jax.random.fold_in(key, client))


def over_clients(f, mapped: tuple[bool, ...], how: str = 'auto', mesh: Mesh | None = None):
  """f over the first axis, that of clients, of the arguments that are mapped.

  how: 'vmap' is one program of all clients, right for an accelerator; 'map' one client after
  another in one program, right for a CPU, which does no small products of many at once; 'auto'
  chooses by platform. mesh: clients lie on its axis 'clients', which must divide their number.
  """
  require(how in HOWS, f'{how=} must be one of {", ".join(HOWS)}')
  way = how if how != 'auto' else ('map' if jax.default_backend() == 'cpu' else 'vmap')
  axes = tuple(0 if m else None for m in mapped)

  def one_by_one(*args):
    some = tuple(a for a, m in zip(args, mapped) if m)

    def apply(some):
      rest = iter(some)
      return f(*[next(rest) if m else a for a, m in zip(args, mapped)])

    return jax.lax.map(apply, some)

  inner = jax.vmap(f, axes) if way == 'vmap' else one_by_one
  if mesh is None:
    return inner
  specs = tuple(PartitionSpec('clients') if m else PartitionSpec() for m in mapped)
  return jax.shard_map(
    inner, mesh=mesh, in_specs=specs, out_specs=PartitionSpec('clients'), check_vma=False
  )


def along_clients(mesh: Mesh | None, clients: int) -> Mesh | None:
  """All devices of a run's mesh along the axis 'clients'. UsageError where they do not divide."""
  if mesh is None:
    return None
  devices = mesh.devices.reshape(-1)
  require(
    clients % len(devices) == 0,
    f'{clients} clients at once, a round or a group, do not divide over {len(devices)} devices; '
    'take a multiple',
  )
  return Mesh(devices, ('clients',))


def take(kept, first, ids, seeds):
  """Own states [R, m, ...] of the clients ids [R, m], in memory or read from a store.

  kept: a tree [R, C, ...], or a `Store` by '<seed>.<client>', in which who never took part has
  first [R, ...].
  """
  if not isinstance(kept, Store):
    rows = np.arange(len(ids))[:, None]
    return tree.map(lambda x: x[rows, ids], kept)
  written = set(kept)
  begin = lambda r: tree.map(lambda x: np.asarray(x[r]), first)
  one = lambda r, name: kept[name] if name in written else begin(r)
  found = [
    tree.map(lambda *x: np.stack(x), *[one(r, f'{seed}.{i}') for i in ids[r]])
    for r, seed in enumerate(seeds)
  ]
  return tree.map(lambda *x: np.stack(x), *found)


def put(kept, ids, seeds, own):
  """kept with the new own states [R, m, ...] of the clients ids [R, m]."""
  if not isinstance(kept, Store):
    rows = np.arange(len(ids))[:, None]
    return tree.map(lambda x, new: jnp.asarray(x).at[rows, ids].set(new), kept, own)
  for r, seed in enumerate(seeds):
    for row, client in enumerate(ids[r]):
      kept[f'{seed}.{client}'] = tree.map(lambda x, r=r, row=row: np.asarray(x[r, row]), own)
  return kept


def settled(kept, before, first, ids, seeds, taken):
  """kept with the own states from before of those of the clients ids [R, m] that are not taken.

  taken: bool [R, m]. A `Store` shows until its round ends what was before, whoever wrote to it.
  """
  rows = np.arange(len(ids))[:, None]
  if not isinstance(kept, Store):
    back = lambda new, old: jnp.where(_wide(taken, new[rows, ids]), new[rows, ids], old[rows, ids])
    return tree.map(lambda new, old: new.at[rows, ids].set(back(new, old)), kept, before)
  for r, at in zip(*np.nonzero(~taken)):
    one = ids[r : r + 1, at : at + 1]
    old = take(kept, tree.map(lambda x, r=r: x[r : r + 1], first), one, seeds[r : r + 1])
    kept = put(kept, one, seeds[r : r + 1], old)
  return kept


def _wide(flags, x):
  """flags [R, m] with as many axes as x [R, m, ...]."""
  return flags.reshape(flags.shape + (1,) * (x.ndim - 2))
