"""The same federation between processes that share nothing: what a server and clients agree in.

A frame is (head, body): a dict that JSON can hold, and a packed message. `serving.serving` and
`working.working` make functions in the place of `rounds.learn`; how frames travel is passed to
them. In a round the server greets who takes part with what changed, or with the whole student where
it cannot know that a client has the last one; each answers with its update, or where messages are
averaged before they are decoded, in every exchange of the round with what the codec says next;
`veiled` has exchanges of its own, so that the server learns a sum alone.
Teachers, optimizers, losses and data never are in a frame. One seed.

The head of a greeting: where and config, which client and server must agree in; round; exchange of
the round; row of `of`, the client's place among those who take part; kind; step; heard, the last
round whose update was taken, from 1. Round `rounds` only tells the end. An answer's head is empty
or holds an error.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from reduction import tree
from reduction.errors import DataError, require
from reduction.federate import clients as at_clients
from reduction.federate import server
from reduction.federate.codecs.codec import FLOAT, Codec, joined
from reduction.federate.message import LONGEST

Frame = tuple[dict, bytes]
KINDS = 'whole', 'part', 'change', 'same', 'heard'
HEAD = dict(where=str, config=str, round=int, exchange=int, row=int, of=int, kind=str, step=int,
            heard=int)  # fmt: skip
COUNTERS = 'up', 'down', 'dense', 'refused'
MANIFEST = 1_000  # bytes of a tensor's part of a manifest at most


class Talk(NamedTuple):
  """Messages of a round as shapes. says, hears: of each exchange, what a client sends and what all
  hear after it, the last of which is the change that the next greeting brings."""

  says: tuple
  hears: tuple


def check(plan, run):
  """Raises UsageError for what a network does not carry."""
  require(len(run.seeds) == 1, f'a network trains one seed, not seeds={run.seeds}')
  require(
    not (plan.codec.answers and plan.rules.secure),
    'over a network secure aggregation adds whole updates up: take the codec dense',
  )
  require(
    not (plan.codec.answers and plan.rules.longest),
    'this codec shows a server no update by itself: take rules.longest=0',
  )


def place(run) -> str:
  """The stage of a run."""
  return run.where.split('/')[0]


def progress(plan, number: int) -> np.float32:
  """0 in the first round, 1 in the last."""
  return np.float32(number / max(plan.rounds - 1, 1))


def talk(codec: Codec, like: dict) -> Talk:
  """The shapes of what travels for updates like these."""

  def once(update, key):
    state, wire = codec.start(like), (codec.serve or codec.start)(like)
    message, state = codec.encode(update, state, jnp.float32(0), key)
    if not codec.answers:
      return (message,), (message,)
    says, hears, heard = [message], [], {}
    for number in range(len(codec.answers)):
      if number:
        message, state = codec.replies[number - 1](heard, state)
        says.append(message)
      alone = tree.map(lambda x: x[None], message)
      answer, wire = server.answer(codec, number, alone, jnp.ones(1), wire, like)
      hears.append(answer)
      heard = joined(heard, answer)
    return tuple(says), tuple(hears)

  return Talk(*jax.eval_shape(once, like, jax.random.key(0)))


def longest(shapes: dict) -> int:
  """Bytes of a packed message of these tensors at most."""
  return FLOAT * sum(int(np.prod(x.shape)) for x in shapes.values()) + MANIFEST * (len(shapes) + 1)


def whole(values: dict) -> dict:
  """The message of tensors as they are."""
  return {name: dict(dense=x) for name, x in values.items()}


def flat(message: dict) -> dict:
  """A message of named parts as one of whole tensors, which `message.pack` takes: 32 bits each."""
  return {
    f'{name}:{part}': dict(dense=np.asarray(x).view(np.float32))
    for name, parts in message.items() for part, x in parts.items()
  }  # fmt: skip


def flat_like(shapes: dict) -> dict:
  """The shapes of `flat` of a message of these."""
  return {
    f'{name}:{part}': jax.ShapeDtypeStruct(x.shape, jnp.float32)
    for name, parts in shapes.items() for part, x in parts.items()
  }  # fmt: skip


def parted(values: dict, shapes: dict) -> dict:
  """The message of `flat` tensors {name: array}."""
  return {
    name: {part: values[f'{name}:{part}'].view(x.dtype) for part, x in parts.items()}
    for name, parts in shapes.items()
  }  # fmt: skip


def part_of(plan, like: dict, client: int, key) -> dict:
  """{name: (bool [rows], bool [columns])} of what a client trains in the round whose key it is."""
  begins, _ = at_clients.keys(key, client)
  return tree.map(np.asarray, plan.codec.part(like, begins))


def grid(shape, axes) -> tuple:
  """What indexes those entries of an array that flags of its last axes keep."""
  return np.ix_(*(range(size) for size in shape[: len(shape) - len(axes)]), *axes)


def cut(values: dict, part: dict) -> dict:
  """What a client trains of each tensor."""
  return {n: np.asarray(x)[grid(x.shape, part.get(n, ()))] for n, x in values.items()}


def cut_like(like: dict, part: dict) -> dict:
  """The shapes of `cut`."""
  left = lambda n: tuple(int(flags.sum()) for flags in part.get(n, ()))
  shape = lambda n, x: (*x.shape[: x.ndim - len(left(n))], *left(n))
  return {n: jax.ShapeDtypeStruct(shape(n, x), jnp.float32) for n, x in like.items()}


def spread(values: dict, part: dict, like: dict) -> dict:
  """Whole tensors of those that were `cut`, 0 elsewhere."""
  found = {name: np.zeros(x.shape, np.float32) for name, x in like.items()}
  for name, x in values.items():
    found[name][grid(found[name].shape, part.get(name, ()))] = x
  return found


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
