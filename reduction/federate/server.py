"""What the server does with updates: which it takes, how it combines them, what it sends back."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from reduction import tree
from reduction.errors import require
from reduction.federate import secure
from reduction.federate.codecs.codec import Codec, joined
from reduction.federate.codecs.factors import EXACT

COMBINES = 'mean', 'present', 'trimmed', 'median'
WEIGHTS = 'examples', 'uniform'


class Rules(NamedTuple):
  """How updates are taken and combined; see `rules`."""

  combine: str
  weights: str
  trim: float
  clip: float
  longest: float
  least: int
  heaviest: float
  noise: float
  delta: float
  secure: int


def rules(
  *, combine: str = 'mean', weights: str = 'examples', trim: float = 0.2, clip: float = 0.0,
  longest: float = 0.0, least: int = 1, heaviest: float = 0.0, noise: float = 0.0,
  delta: float = 1e-5, secure: int = 0,
) -> Rules:  # fmt: skip
  """Rules, checked.

  combine: 'mean', weighted by 'examples' or 'uniform'; 'present', the mean of each entry over those
  where it is not 0, for clients that train parts of a model; 'trimmed', the mean of each entry
  without the share `trim` of its smallest and of its largest; 'median' of each entry. clip: longer
  updates are scaled down to this length; longest: longer ones are refused; 0 does neither. least:
  with fewer updates than these a round is void. heaviest: no client weighs more than so many times
  the median of those that are there, whatever it says it has; 0: what it says. noise: differential
  privacy, the sum of clipped updates gets normal noise of noise * clip (McMahan et al. 2018); needs
  clip, uniform weights and mean; delta: what its epsilon is told for. secure: the server learns the
  sum alone, which is one of integers, in the fixed point of `secure`, and a round in which fewer
  than so many updates arrive is void; simulated, or over a network by `veiled`. Needs mean, and
  refuses no update by its length, which such a server cannot see: a client whose own is too long
  for sums of integers sends none.
  """
  require(combine in COMBINES, f'{combine=} must be one of {", ".join(COMBINES)}')
  require(weights in WEIGHTS, f'{weights=} must be one of {", ".join(WEIGHTS)}')
  require(0 <= trim < 0.5, f'{trim=} must lie in [0, 0.5)')
  for name, value in dict(clip=clip, longest=longest, heaviest=heaviest, noise=noise).items():
    require(math.isfinite(value) and value >= 0, f'{name}={value} must not be negative')
  require(least > 0, f'{least=} must be above 0')
  require(0 < delta < 1, f'{delta=} must lie in (0, 1)')
  require(
    not secure or (secure > 1 and combine == 'mean' and not longest),
    f"{secure=} must be 0 or above 1, and needs combine='mean' and longest=0",
  )
  least = max(least, secure)
  private = clip > 0 and weights == 'uniform' and combine == 'mean'
  require(not noise or private, f"{noise=} needs clip, weights='uniform' and combine='mean'")
  return Rules(
    combine, weights, float(trim), float(clip), float(longest), least, float(heaviest),
    float(noise), delta, secure,
  )  # fmt: skip


MEAN = rules()
LONGEST = 1e15  # of any update: sums and squares of some stay finite in float32


def length(update) -> jax.Array:
  """The Euclidean norm of an update."""
  return jnp.sqrt(sum(jnp.sum(x.astype(jnp.float32) ** 2) for x in update.values()))


def sound(update, weight, longest: float = 0.0) -> jax.Array:
  """Whether an update may be used: finite, weight above 0, no longer than longest or LONGEST."""
  fine = tree.finite(update) & jnp.isfinite(weight) & (weight > 0)
  return fine & (length(update) <= (longest or LONGEST))


def clipped(update, most: float):
  """update, scaled down to the length most where it is longer; 0 leaves it."""
  if not most:
    return update
  factor = jnp.minimum(1.0, most / jnp.maximum(length(update), 1e-12))
  return {name: factor * x for name, x in update.items()}


def combined(updates, weights, fine, how: Rules, key) -> dict:
  """One update of updates [m, ...]; those that are not fine have no part in it.

  weights: [m]. The result is 0 where none is fine.
  """
  fine = fine.astype(jnp.float32)
  if how.combine == 'mean':
    mean = summed(updates, shares(weights, fine, how), how)
    if not how.noise:
      return mean
    deviation = how.noise * how.clip / jnp.maximum(fine.sum(), 1.0)
    keys = jax.random.split(key, len(mean))
    return {
      n: x + deviation * jax.random.normal(k, x.shape) for k, (n, x) in zip(keys, mean.items())
    }
  if how.combine == 'present':
    return {name: _present(x, shares(weights, fine, how)) for name, x in updates.items()}
  trim = how.trim if how.combine == 'trimmed' else None
  return {name: _ranked(x, fine > 0, trim) for name, x in updates.items()}


def summed(values, share, how: Rules):
  """The sum of a tree [m, ...], each its share [m]; with how.secure of integers."""

  def one(x):
    if how.secure:
      return jnp.round(_like(share, x) * x * secure.SCALE).sum(0) / secure.SCALE
    return jnp.tensordot(share, x, 1, precision=EXACT)

  return tree.map(one, values)


def shares(weights, fine, how: Rules) -> jax.Array:
  """What part of a mean each update is, [m]: 0 for those that are not fine; they add up to 1."""
  weights = jnp.where(fine, weights if how.weights == 'examples' else 1.0, 0.0)
  if how.heaviest:
    middle = jnp.nanmedian(jnp.where(fine > 0, weights, jnp.nan))
    weights = jnp.minimum(weights, jnp.nan_to_num(middle) * how.heaviest)
  return weights / jnp.maximum(weights.sum(), 1e-12)


def _present(x, share):
  there = _like(share, x) * (x != 0)
  return (there * x).sum(0) / jnp.maximum(there.sum(0), 1e-12)


def _ranked(x, fine, trim):
  """The mean of the middle of each entry's values in x [m, ...]: without trim, the median."""
  count = fine.sum()
  low = jnp.sort(jnp.where(_like(fine, x), x, jnp.inf), axis=0)  # refused ones last
  cut = jnp.maximum(count - 1, 0) // 2 if trim is None else jnp.floor(trim * count).astype(int)
  at = _like(jnp.arange(len(x)), x)
  middle = (at >= cut) & (at < count - cut)
  return jnp.where(middle, low, 0.0).sum(0) / jnp.maximum(count - 2 * cut, 1)


@functools.lru_cache(maxsize=64)
def exchange(codec: Codec, how: Rules, step):
  """One replicate's round on the wire: a function for `net.over_replicas`.

  (shared, server, updates [m, ...], senders [m, ...], weights [m], arrives [m], progress, key) ->
  (shared, server, senders, told). server: dict(wire=, step=), what codec and step keep. step:
  (shared, update, state) -> (what shared is to change by, state), the server's optimizer. told:
  fine [m], void, up and down {name: bytes, [m] and scalar}, rank {name: [m]}.
  An update that is not sound is never sent: its client sees that, as over a network. One that is,
  and arrives longer than how.longest, has travelled, and its bytes count. Neither has a part in the
  result, and what a void round would have changed stays as it was.
  """

  check(codec, how, step)
  travel = _together if codec.answers else _apart

  def run(shared, server, updates, senders, weights, arrives, progress, key):
    most = secure.LONGEST if how.secure else 0.0
    sent = jax.vmap(lambda u, w: sound(u, w, most))(updates, weights) & arrives
    change, new, wire, state, told = travel(
      codec, how, step, shared, server, _safe(updates, sent, how), senders, weights, sent, progress,
      key,
    )  # fmt: skip
    fine = told['fine']
    new = tree.map(lambda a, b: jnp.where(_like(fine, a), a, b), new, senders)
    shared, server, void = concluded(shared, server, change, wire, state, fine, how)
    return shared, server, tree.select(~void, new, senders), dict(told, void=void)

  return run


@functools.lru_cache(maxsize=64)
def settlement(codec: Codec, how: Rules, step, names: tuple[str, ...]):
  """One replicate's end of a round whose updates came over a network, decoded already.

  (shared, server, updates [m, ...], weights [m], fine [m], progress, key, heard) -> (shared,
  server, the message that says what changed, void). Updates that are not fine are zeros. For codecs
  with `answers` these are the messages of the last exchange, after all that was heard. names: of
  the tensors that updates have.
  """
  check(codec, how, step)

  def run(shared, server, updates, weights, fine, progress, key, heard):
    if codec.answers:
      like, last = _of(shared, names), len(codec.answers) - 1
      share = shares(weights, fine, how)
      message, wire = answer(codec, last, updates, share, server['wire'], like, how)
      change, state = codec.decode(joined(heard, message), like), server['step']
    else:
      keys = jax.random.split(key, len(weights) + 2)
      got = jax.vmap(lambda u: clipped(u, how.clip))(updates)
      change, wire, state, message = answered(
        codec, how, step, shared, server, got, weights, fine, progress, keys
      )
    shared, server, void = concluded(shared, server, change, wire, state, fine, how)
    return shared, server, message, void

  return run


@functools.lru_cache(maxsize=64)
def answering(codec: Codec, how: Rules, number: int, names: tuple[str, ...]):
  """(shared, wire, messages [m, ...], weights [m], fine [m]) -> (what all hear, wire): one exchange
  of a round of one replicate, not its last. names: as of `settlement`."""

  def run(shared, wire, messages, weights, fine):
    share = shares(weights, fine, how)
    return answer(codec, number, messages, share, wire, _of(shared, names), how)

  return run


def _of(shared, names) -> dict:
  """The tensors of these names."""
  values = named(shared)
  return {name: values[name] for name in names}


@functools.lru_cache(maxsize=64)
def dispatch(codec: Codec, how: Rules):
  """One client's message: (update, what it keeps, progress, key) -> (message, what it keeps)."""

  def run(update, state, progress, key):
    return codec.encode(clipped(update, how.clip), state, progress, key)

  return run


def concluded(shared, server, change, wire, state, fine, how: Rules):
  """(shared, server, void) after a change, or as they were where too few updates are fine or the
  change is not finite."""
  void = (fine.sum() < how.least) | ~tree.finite(change)
  new = moved(shared, change), dict(wire=wire, step=state)
  return *tree.select(~void, new, (shared, server)), void


def check(codec: Codec, how: Rules, step):
  """Raises UsageError for rules that a codec cannot keep."""
  simple = how.combine == 'mean' and not how.noise and step is plain
  require(
    not codec.answers or simple,
    'this codec averages messages before they are decoded: it takes combine=mean, no noise and no '
    'server_optimizer',
  )


def _like(fine, x):
  """fine [m] with as many axes as x [m, ...]."""
  return fine.reshape((-1,) + (1,) * (x.ndim - 1))


def _safe(updates, fine, how):
  """updates, zeros where they are not fine, and none longer than how.clip."""
  updates = {name: jnp.where(_like(fine, x), x, 0.0) for name, x in updates.items()}
  return jax.vmap(lambda u: clipped(u, how.clip))(updates)


def _apart(codec, how, step, shared, server, updates, senders, weights, sent, progress, key):
  """Each message is decoded, then updates are combined; the result is encoded for the way back."""
  keys = jax.random.split(key, len(weights) + 2)
  like = {name: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for name, x in updates.items()}

  def send(args):
    update, state, key, there = args
    message, new = codec.encode(update, state, progress, key)
    ranks = {name: parts['rank'] for name, parts in message.items() if 'rank' in parts}
    size = {name: jnp.where(there, n, 0) for name, n in codec.count(message).items()}
    got = codec.decode(message, like)
    short = length(got) <= (how.longest or LONGEST)
    # again: a codec may lengthen what it sends, and the noise is for this length
    return clipped(got, how.clip), new, size, ranks, short & there

  # one after another: a decomposition has no use for others beside it
  got, new, up, ranks, fine = jax.lax.map(send, (updates, senders, keys[2:], sent))
  change, wire, state, message = answered(
    codec, how, step, shared, server, got, weights, fine, progress, keys
  )
  told = dict(fine=fine, up=up, down=codec.count(message), rank=ranks)
  return change, new, wire, state, told


def answered(codec, how, step, shared, server, got, weights, fine, progress, keys):
  """(what shared is to change by, what the server keeps, its message) of decoded updates got.

  A change that is not sound, as `step` may make one, becomes nan and a message of zeros.
  """
  like = {name: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for name, x in got.items()}
  update = combined(got, weights, fine, how, keys[0])
  change, state = step(shared, update, server['step'])
  fit = sound(change, jnp.float32(1))
  change = {name: jnp.where(fit, x, 0.0) for name, x in change.items()}  # before it is decomposed
  message, wire = codec.encode(change, server['wire'], progress, keys[1])
  change = {name: jnp.where(fit, x, jnp.nan) for name, x in codec.decode(message, like).items()}
  return change, wire, state, message


def _together(codec, how, step, shared, server, updates, senders, weights, sent, progress, key):
  """Messages are averaged, then decoded."""
  del step, shared
  fine = sent & jax.vmap(lambda u: length(u) <= (how.longest or LONGEST))(updates)
  share, wire, keys = shares(weights, fine, how), server['wire'], jax.random.split(key, len(fine))
  like = {name: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for name, x in updates.items()}
  heard, up, down = {}, {}, {}
  public = codec.public(wire)

  def say(number, args):
    update, state, key = args
    if number:
      return codec.replies[number - 1](heard, state)
    return codec.encode(update, codec.told(state, public), progress, key)

  for number in range(len(codec.answers)):
    each = (updates, senders, keys)
    messages, senders = jax.lax.map(functools.partial(say, number), each)
    message, wire = answer(codec, number, messages, share, wire, like, how)
    heard = joined(heard, message)
    one = tree.map(lambda x: x[0], messages)
    up, down = (_added(so_far, codec.count(m)) for so_far, m in ((up, one), (down, message)))
  up = {name: sent * n for name, n in up.items()}
  told = dict(fine=fine, up=up, down=down, rank={})
  return codec.decode(heard, like), senders, wire, server['step'], told


def answer(codec, number, messages, share, wire, like, how: Rules = MEAN):
  """(what all hear, wire) of the messages [m, ...] of an exchange; share [m] adds up to 1."""
  return codec.answers[number](summed(messages, share, how), wire, like)


def _added(counts: dict, more: dict) -> dict:
  """Bytes by tensor."""
  return counts | {name: counts.get(name, 0) + n for name, n in more.items()}


def moved(shared, change) -> dict:
  """shared plus the change by name, on the weights that its masks keep."""
  before = named(shared)
  return placed(shared, {name: before[name] + value for name, value in change.items()})


def named(shared) -> dict:
  """{'params/fc1/kernel': array} of all that clients and the server may change of shared."""
  parts = [name for name in shared if name not in ('masks', 'step')]
  return {f'{part}/{leaf}': x for part in parts for leaf, x in tree.named(shared[part])}


def placed(shared, values: dict) -> dict:
  """shared with the values of these names, on the weights that its masks keep."""
  all_of, new = named(shared) | values, {}
  for part in (name for name in shared if name not in ('masks', 'step')):
    flat = [x for name, x in all_of.items() if name.startswith(f'{part}/')]
    new[part] = tree.unflatten(shared[part], flat)
  return dict(shared, **dict(new, params=tree.keep(new['params'], shared['masks'])))


def plain(shared, update, state):
  """The server's step that is the combined update itself: federated averaging."""
  del shared
  return update, state
