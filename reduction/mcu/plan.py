"""Where each tensor lies: lifetimes -> offsets in one arena, with a lower bound beside the peak.

Outputs that overwrite an input (`overlap`) form chains, whose members lie at fixed distances; what
is placed is a chain. Greedily: chains in turn, each at the lowest offset at which none of its
tensors meets one that lives at the same time. For small graphs `exact` finds the least peak.
"""

import itertools
from typing import NamedTuple

import numpy as np

from reduction.errors import require
from reduction.mcu import exact as solver
from reduction.mcu import overlap
from reduction.mcu.chain import Piece, conflicts, peak
from reduction.mcu.graph import Graph
from reduction.mcu.overlap import Overlay, Style

DEFAULT = Style()


class Plan(NamedTuple):
  """offsets: of tensors. scratch: op -> (offset, bytes). over: op -> the overlay that it uses.

  peak: bytes of the arena. bound: no schedule that holds whole tensors, op by op, needs less.
  """

  offsets: dict[int, int]
  scratch: dict[int, tuple[int, int]]
  over: dict[int, Overlay]
  peak: int
  bound: int
  style: Style
  exact: bool


def plan(graph: Graph, style: Style = DEFAULT, *, exact: bool = False) -> Plan:
  """The best of a few greedy plans; exact: the least peak for the same overlays, by `exact`."""
  overlap.check(style)
  over, bound = _choose(graph, style), lower_bound(graph)
  chains, placed = _best(graph, style, over)
  for i in [i for i, one in over.items() if one.before]:  # which may lift all that is above
    fewer = {j: one for j, one in over.items() if j != i}
    without = _best(graph, style, fewer)
    if peak(without[1]) <= peak(placed):
      over, (chains, placed) = fewer, without
  if exact and peak(placed) > bound:
    placed = solver.place(chains, style.align, placed)
  offsets = {p.key: at + p.at for chain, at in placed for p in chain}
  scratch = {
    p.key[1]: (offsets[p.key], p.size) for chain, _ in placed for p in chain
    if p.key[0] == 'scratch'
  }  # fmt: skip
  tensors = {index: at for (kind, index), at in offsets.items() if kind == 'tensor'}
  return Plan(tensors, scratch, over, peak(placed), bound, style, exact)


def _best(graph, style, over):
  chains = _chains(graph, style, over)
  return chains, min((_greedy(chains, order, style.align) for order in ORDERS), key=peak)


def lower_bound(graph: Graph) -> int:
  """Bytes that are alive at once at least, where each output lies over all inputs that end."""
  lives, most = graph.lifetimes(), 0
  for i, op in enumerate(graph.ops):
    live = {t for t, (first, last) in lives.items() if first <= i <= last}
    ends = {t for t in op.inputs if lives[t][1] == i}
    size = lambda ts: sum(graph.tensors[t].size for t in ts)
    most = max(most, size(live - ends - {op.output}) + max(size(ends), size({op.output})))
  return most


def live(graph: Graph, made: Plan, index: int) -> int:
  """Bytes that op `index` holds: from the lowest to the highest, without what lies free between."""
  lives = graph.lifetimes()
  spans = [
    (made.offsets[t], made.offsets[t] + graph.tensors[t].size)
    for t, (first, last) in lives.items()
    if first <= index <= last
  ]
  if index in made.scratch:
    at, size = made.scratch[index]
    spans.append((at, at + size))
  covered, end = 0, 0
  for start, stop in sorted(spans):
    covered += max(0, stop - max(start, end))
    end = max(end, stop)
  return covered


def _choose(graph: Graph, style: Style) -> dict[int, Overlay]:
  """The first overlay of each op; an output of the graph stays where it is."""
  lives, found = graph.lifetimes(), {}
  for i, op in enumerate(graph.ops):
    ends = {t for t in op.inputs if lives[t][1] == i and t not in graph.outputs}
    for one in overlap.overlays(graph, i, ends, style)[:1]:
      before = -(-one.before // style.align) * style.align
      found[i] = Overlay(one.input, before)
  return found


def _chains(graph, style, over) -> list[tuple[Piece, ...]]:
  lives, chains, at = graph.lifetimes(), {}, {}
  pieces = lambda t, offset: Piece(('tensor', t), offset, graph.tensors[t].size, *lives[t])
  for t in graph.inputs:
    chains[t], at[t] = [pieces(t, 0)], t
  scratch = []
  for i, op in enumerate(graph.ops):
    size = overlap.scratch(graph, op, style, i in over)
    if size:
      scratch.append((i, size))
    if i in over:
      root = at[op.output] = at[over[i].input]
      before = next(p for p in chains[root] if p.key[1] == over[i].input)
      chains[root].append(pieces(op.output, before.at - over[i].before))
    else:
      chains[op.output], at[op.output] = [pieces(op.output, 0)], op.output
  all_ = [_from_zero(chain) for chain in chains.values()]
  if style.shared and scratch:  # one buffer for the whole run, as the largest op wants it
    most, last = max(size for _, size in scratch), len(graph.ops) - 1
    return [*all_, tuple(Piece(('scratch', i), 0, most, 0, last) for i, _ in scratch)]
  return all_ + [(Piece(('scratch', i), 0, size, i, i),) for i, size in scratch]


def _from_zero(chain) -> tuple[Piece, ...]:
  least = min(p.at for p in chain)
  return tuple(p._replace(at=p.at - least) for p in chain)


ORDERS = (
  lambda chain: -max(p.size for p in chain),
  lambda chain: -max(p.at + p.size for p in chain),
  lambda chain: -sum(p.size * (p.last - p.first + 1) for p in chain),
  lambda chain: (min(p.first for p in chain), -max(p.last for p in chain)),
  lambda chain: (-max(p.last for p in chain), -max(p.size for p in chain)),
)


def _greedy(chains, order, align: int):
  """[(chain, offset)]: each chain in turn at the lowest offset where it meets no placed one."""
  placed, ends = [], []
  for chain in sorted(chains, key=order):
    first, last = min(p.first for p in chain), max(p.last for p in chain)
    beside = [one for one, (a, b) in zip(placed, ends) if a <= last and first <= b]
    taken = sorted(
      (at + q.at - p.at - p.size, at + q.at + q.size - p.at)
      for other, at in beside for p, q in conflicts(chain, other)
    )  # fmt: skip
    ends.append((first, last))
    offset = 0
    for start, stop in taken:  # offsets strictly between are forbidden
      if start < offset < stop:
        offset = -(-max(offset, stop) // align) * align
    placed.append((chain, offset))
  return placed


def check(graph: Graph, made: Plan):
  """Raises UsageError where two tensors that live at once meet and are no overlay."""
  lives, size = graph.lifetimes(), lambda t: graph.tensors[t].size
  allowed = {frozenset((o.input, graph.ops[i].output)) for i, o in made.over.items()}
  for a, b in itertools.combinations(lives, 2):
    together = max(lives[a][0], lives[b][0]) <= min(lives[a][1], lives[b][1])
    start = max(made.offsets[a], made.offsets[b])
    meet = start < min(made.offsets[a] + size(a), made.offsets[b] + size(b))
    require(
      not (together and meet) or frozenset((a, b)) in allowed,
      f'{graph.tensors[a].name} and {graph.tensors[b].name} meet at byte {start}',
    )


def timeline(graph: Graph, made: Plan) -> np.ndarray:
  """Bytes alive at each op."""
  return np.array([live(graph, made, i) for i in range(len(graph.ops))])
