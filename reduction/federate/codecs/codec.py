"""`Codec`, how an update travels: pure functions that the simulator and a network use alike."""

from collections.abc import Callable
from typing import NamedTuple

FLOAT = 4  # bytes


def stateless(like):
  """The state of a sender that keeps nothing."""
  del like
  return {}


def of_nothing(state, heard):
  """The state of a sender that is told nothing."""
  del heard
  return state


class Codec(NamedTuple):
  """Functions of one sender. An update is a flat dict {name: array}, a message {name: dict}.

  start: like -> what a sender keeps between rounds, a tree. encode: (update, state, progress, key)
  -> (message, state); progress: 0 in the first round, 1 in the last. decode: (message, like) ->
  update; like: a dict of arrays or shapes. count: message -> {name: bytes}, where shapes do not
  tell, a traced number. All arrays have static shapes, so that clients run under `jax.vmap`; what
  is not sent of them is zero, and `message.pack` leaves it out. additive: '' where messages may be
  added up before they are decoded, as secure aggregation does, else the reason why not.
  Updates must be finite: the singular values of an infinite matrix are never found.

  answers: for codecs whose messages the server averages before they are decoded, of each exchange
  of a round (mean message, wire, like) -> (message, wire), what all hear; wire: what the server
  keeps. replies: of each exchange but the first (all that was heard, state) -> (message, state),
  what a sender says next. decode is of all that was heard, `joined`. serve: like -> wire at first;
  by default as start. public: wire -> {name: dict}, which goes with a whole model after the first
  round; told: (state, that) -> state. part: (like, key) -> {name: (bool [rows], bool [columns])},
  of a vector one, what of a tensor's last axes a client trains; it receives and sends these alone,
  key is its own of the round.
  bits: of each integer of a message that has integers.
  """

  start: Callable
  encode: Callable
  decode: Callable
  count: Callable
  additive: str = ''
  answers: tuple[Callable, ...] = ()
  replies: tuple[Callable, ...] = ()
  serve: Callable | None = None
  public: Callable = stateless
  told: Callable = of_nothing
  part: Callable | None = None
  bits: int = 8


def joined(heard: dict, message: dict) -> dict:
  """What was heard and what is heard now, the parts of each tensor together."""
  names = dict.fromkeys((*heard, *message))
  return {name: {**heard.get(name, {}), **message.get(name, {})} for name in names}


def sizes(message: dict) -> dict:
  """{name: bytes} of a message that travels as it is, four bytes a number."""
  return {name: FLOAT * sum(x.size for x in parts.values()) for name, parts in message.items()}
