"""A chain: tensors that lie at fixed distances, because each overwrites the one before."""

from typing import NamedTuple


class Piece(NamedTuple):
  """A tensor, or the scratch of an op, within its chain: its offset there, bytes, life."""

  key: tuple[str, int]  # ('tensor', index) or ('scratch', op)
  at: int
  size: int
  first: int
  last: int


def conflicts(a, b) -> list[tuple[Piece, Piece]]:
  """Pairs of pieces of two chains that live at the same time."""
  return [(p, q) for p in a for q in b if p.first <= q.last and q.first <= p.last]


def peak(placed) -> int:
  """Bytes of an arena for [(chain, offset)]."""
  return max(at + p.at + p.size for chain, at in placed for p in chain)
