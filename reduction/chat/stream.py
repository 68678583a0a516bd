"""Text as its tokens come: whole characters, up to a string that ends it."""

from collections.abc import Callable, Iterable, Iterator

UNFINISHED = '\N{REPLACEMENT CHARACTER}'  # what decoders give for part of a character


def text(tokens: Iterable[int], decode: Callable, stops: tuple[str, ...] = ()) -> Iterator[str]:
  """Pieces of the text of tokens, whose sum is the text before the first of the stops.

  decode: tokens -> text. A piece comes as soon as nothing of it can change: a character of several
  tokens when all are there, what may begin a stop when it did not. Reads no token after a stop.
  """
  waiting = ''
  for piece in _characters(tokens, decode):
    waiting += piece
    at = min((i for stop in stops if (i := waiting.find(stop)) >= 0), default=None)
    if at is not None:
      if at:
        yield waiting[:at]
      return
    held = max((_overlap(waiting, stop) for stop in stops), default=0)
    ready, waiting = waiting[: len(waiting) - held], waiting[len(waiting) - held :]
    if ready:
      yield ready
  if waiting:
    yield waiting


def _overlap(text: str, stop: str) -> int:
  """How many of the last characters of text are the first ones of stop."""
  lengths = range(min(len(text), len(stop) - 1), 0, -1)
  return next((n for n in lengths if text.endswith(stop[:n])), 0)


def _characters(tokens, decode) -> Iterator[str]:
  """Pieces of text; those of a token and its neighbors, as decoders may join them by spaces."""
  window, shown = [], 0  # the tokens of the last piece and what came since; how many are shown
  for token in tokens:
    window.append(token)
    before, now = decode(window[:shown]), decode(window)
    if len(now) > len(before) and not now.endswith(UNFINISHED):
      yield now[len(before) :]
      window, shown = window[shown:], len(window) - shown
  rest = decode(window)[len(decode(window[:shown])) :]
  if rest:  # a character that never ended
    yield rest
