"""Which linears share an input, and which weights make it: read from the module's own program.

A scale for each channel of a linear's input can hide in what makes that input: q, k and v read a
norm's output, whose gain takes it; the output projection of attention reads what the value
projection makes, through softmax, grouped heads and transpositions. Papers list such places by
architecture (Lin et al. 2024, appendix). Here they are found: a scale is followed backwards from
the input, operation by operation, to weights.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import numpy as np

from reduction.quantize.program import KERNEL, Step, Value, linear, moved, trace, unconverted

NONE = -1  # the channel of an entry that makes none


class Source(NamedTuple):
  """A weight that divides the input when it is divided itself.

  channels: int, as many axes as the weight, 1 entry where it does not matter: which channel's scale
  divides each entry, NONE for no channel. offset: what the module adds to the weight (1 + gamma).
  """

  path: str
  channels: np.ndarray
  offset: float


class Input(NamedTuple):
  """What some linears read.

  linears: their paths, 'layer0/mlp/up'. rows: channels of the input. ties: int [rows], channels of
  one number must have one scale (query heads that share a value head). sources: the weights to
  divide, none where a scale cannot hide; why: the reason then.
  """

  linears: tuple[str, ...]
  rows: int
  ties: np.ndarray
  sources: tuple[Source, ...]
  why: str = ''


def find(module: nn.Module, params, x) -> list[Input]:
  """The inputs of all `nn.Dense` of a module, in the order of use. Nothing is computed.

  params: of one replicate, x: a batch of one or more inputs, each of two or more tokens where it is
  text; shapes are enough for both.
  """
  program = trace(module, params, x)
  readers: dict[Value, dict[Step, str]] = {}
  for step in program.steps:
    if (name := linear(program, step)) is not None:
      value, first = unconverted(program, step.ins[0], step)
      readers.setdefault(value, {})[first] = name
  return [_input(program, value, linears) for value, linears in readers.items()]


def _input(program, value, linears: dict) -> Input:
  names, rows = tuple(dict.fromkeys(linears.values())), value.shape[-1]
  channels = np.broadcast_to(np.arange(rows), value.shape)
  try:
    for name in names:
      if len(program.readers[program.weights[name + KERNEL]]) > 1:
        raise _Stop(f'{name} is used more than once')
    found = _back(program, value, channels, set(linears))
  except _Stop as stop:
    return Input(names, rows, np.arange(rows), (), str(stop))
  return Input(names, rows, _classes(rows, found.ties), tuple(found.sources))


class _Stop(Exception):
  """A scale does not pass here."""


class _Found(NamedTuple):
  sources: list[Source]
  ties: list[tuple[np.ndarray, np.ndarray]]  # channels that must have the same scales

  def __add__(self, other):
    return _Found(self.sources + other.sources, self.ties + other.ties)


def _back(program, value, channels, came: set) -> _Found:
  """The weights that make the entries of value, each divided by the scale of its channel.

  came: the steps from which the scale comes; nothing else may read what it divides.
  """
  if not isinstance(value, Value):
    raise _Stop('a constant')
  if value.shape != channels.shape:  # an axis of 1 meets a longer one
    entries = np.arange(math.prod(value.shape)).reshape(value.shape)
    wide, came_from = channels, np.broadcast_to(entries, channels.shape)
    first, ties = _gathered(came_from.reshape(-1), wide.reshape(-1), entries.size)
    found = _back(program, value, first.reshape(value.shape), came)
    return _Found(found.sources, [*found.ties, ties])
  if value in program.names:
    return _weight(program, value, channels, came, 0.0)
  _only(program, value, channels, came)
  if value not in program.makers:
    raise _Stop("the module's own input")
  step = program.makers[value]
  rule = RULES.get(step.name)
  if rule is None:
    raise _Stop(f'made by {step.name}, which no scale passes')
  return rule(program, step, value, channels)


def _weight(program, value, channels, came, offset) -> _Found:
  _only(program, value, channels, came)
  for axis in range(channels.ndim):
    first = channels[(slice(None),) * axis + (slice(1),)]  # take would copy what is broadcast
    if channels.strides[axis] == 0 or (channels == first).all():
      channels = first
  return _Found([Source(program.names[value], channels, offset)], [])


def _only(program, value, channels, came):
  """Stops where another step reads the entries that are to be divided."""
  for step in set(program.readers[value]) - came:
    if step is not None and step.name == 'slice':
      (read,) = moved(step)
      if (channels.reshape(-1)[read] == NONE).all():
        continue
    what = f'{program.names[value]} is ' if value in program.names else ''
    raise _Stop(f'{what}also ' + (f'read by {step.name}' if step else 'a result of the module'))


def _through(program, step, value, channels) -> _Found:
  """Passes on to the first operand: a change of type or sign, a division."""
  return _back(program, step.ins[0], channels, {step})


def _product(program, step, value, channels) -> _Found:
  """Either factor takes the scale: a gain, or what is multiplied by a gate."""
  reasons = []
  for operand in step.ins[::-1]:
    try:
      return _back(program, operand, channels, {step})
    except _Stop as stop:
      reasons.append(str(stop))
  raise _Stop(min(reasons, key=lambda reason: reason == 'a constant'))


def _sum(program, step, value, channels) -> _Found:
  """All terms take it; a constant can be added to a weight alone."""
  constants = [v for v in step.ins if not isinstance(v, Value)]
  terms = [v for v in step.ins if isinstance(v, Value)]
  if constants and terms and step.name == 'add':
    weight, reader = unconverted(program, terms[0], step)
    if weight in program.names:
      return _weight(program, weight, channels, {reader}, float(constants[0].val))
  found = _Found([], [])
  for term in step.ins:
    found += _back(program, term, channels, {step})
  return found


def _positive(program, step, value, channels) -> _Found:
  """max(x, 0) and where(condition, x, 0) of a positive scale are that scale's of x."""
  operands = step.ins[1:] if step.name == 'select_n' else step.ins
  rest = [v for v in operands if not _zero(program, v)]
  if len(rest) != 1:
    raise _Stop(f'made by {step.name} of two values')
  return _back(program, rest[0], channels, {step})


def _zero(program, value) -> bool:
  while isinstance(value, Value) and value in program.makers:
    step = program.makers[value]
    if step.name not in ('broadcast_in_dim', 'convert_element_type'):
      return False
    value = step.ins[0]
  return not isinstance(value, Value) and np.ndim(value.val) == 0 and float(value.val) == 0


def _dot(program, step, value, channels) -> _Found:
  """Either side takes the scale of its own axes, alike along those of the other side."""
  (contracted, batch) = step.params['dimension_numbers']
  ranks = [len(v.shape) for v in step.ins]
  free = [[d for d in range(r) if d not in (*c, *b)] for r, c, b in zip(ranks, contracted, batch)]
  lead = len(batch[0])
  axes = [range(lead, lead + len(free[0])), range(lead + len(free[0]), channels.ndim)]
  reasons = []
  for side in (1, 0):
    operand, others = step.ins[side], tuple(axes[1 - side])
    first = channels[tuple(slice(0, 1 if d in others else None) for d in range(channels.ndim))]
    wide = np.broadcast_to(first, channels.shape)
    if len(np.unique(first)) == 1 < len(np.unique(channels)):
      reasons.append('made by a product that mixes its channels')
      continue
    mine = first.reshape([n for d, n in enumerate(first.shape) if d not in others])
    order = [*batch[side], *free[side], *contracted[side]]  # of the operand's axes
    mine = mine.reshape(*mine.shape, *[1] * len(contracted[side])).transpose(np.argsort(order))
    try:
      found = _back(program, operand, np.broadcast_to(mine, operand.shape), {step})
      return found + _Found([], [(wide[wide != channels], channels[wide != channels])])
    except _Stop as stop:
      reasons.append(str(stop))
  raise _Stop(reasons[0])


def _move(program, step, value, channels) -> _Found:
  """Entries that only change places take the scales of where they go, alike if to many places."""
  sizes = [math.prod(v.shape) for v in step.ins]
  places = moved(step)[step.outs.index(value)]
  first, ties = _gathered(places, channels.reshape(-1), sum(sizes))
  found = _Found([], [ties])
  for operand, part in zip(step.ins, np.split(first, np.cumsum(sizes)[:-1])):
    mine = part.reshape(operand.shape)
    if (mine != NONE).any():
      found += _back(program, operand, mine, {step})
  return found


def _gathered(places, channels, size: int):
  """(the channel of each of size entries, ties) where entry places[i] goes to channels[i]."""
  goes = channels != NONE
  places, channels = places[goes], channels[goes]
  first = np.full(size, NONE)
  first[places[::-1]] = channels[::-1]
  return first, (first[places], channels)


MOVES = ('reshape', 'transpose', 'broadcast_in_dim', 'squeeze', 'slice', 'split', 'concatenate')
RULES = dict.fromkeys(MOVES, _move) | dict.fromkeys(
  ('convert_element_type', 'neg', 'div', 'copy', 'reduce_precision'), _through
)
RULES |= dict(mul=_product, add=_sum, sub=_sum, max=_positive, select_n=_positive, dot_general=_dot)


def _classes(rows: int, ties) -> np.ndarray:
  """Numbers [rows], the same for channels that ties join."""
  classes = np.arange(rows)
  pairs = [np.stack([a, b]) for a, b in ties if (a != b).any()]
  joined = np.concatenate(pairs, 1) if pairs else np.zeros((2, 0), int)
  while True:
    least = np.minimum(classes[joined[0]], classes[joined[1]])
    before = classes.copy()
    np.minimum.at(classes, joined[0], least)
    np.minimum.at(classes, joined[1], least)
    classes = classes[classes]
    if (classes == before).all():
      return np.unique(classes, return_inverse=True)[1]
