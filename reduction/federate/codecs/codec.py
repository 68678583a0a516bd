"""`Codec`, how an update travels: pure functions that the simulator and a network use alike."""

from collections.abc import Callable
from typing import NamedTuple

FLOAT = 4  # bytes


class Codec(NamedTuple):
  """Functions of one sender. An update is a flat dict {name: array}, a message {name: dict}.

  start: like -> what a sender keeps between rounds, a tree. encode: (update, state, progress, key)
  -> (message, state); progress: 0 in the first round, 1 in the last. decode: (message, like) ->
  update; like: a dict of arrays or shapes. count: message -> {name: bytes}, where shapes do not
  tell, a traced number. All arrays have static shapes, so that clients run under `jax.vmap`; what
  is not sent of them is zero, and `message.pack` leaves it out. additive: '' where messages may be
  added up before they are decoded, as secure aggregation does, else the reason why not.
  Updates must be finite: the singular values of an infinite matrix are never found.

  together: for codecs whose messages the server averages before it decodes them, in place of encode
  and decode: (updates [m, ...], shares [m], senders [m, ...], wire) -> (update, senders, wire, up
  and down {name: bytes}); shares add up to 1, those refused have 0. serve: like -> wire, what the
  server keeps; by default as start. mirrored: a sender receives as much as it sends. bits: of each
  integer of a message that has integers.
  """

  start: Callable
  encode: Callable | None
  decode: Callable | None
  count: Callable | None
  additive: str = ''
  together: Callable | None = None
  serve: Callable | None = None
  mirrored: bool = False
  bits: int = 8


def stateless(like):
  """The state of a sender that keeps nothing."""
  del like
  return {}
