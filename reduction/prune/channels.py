"""Which axes of a net's weights are the same channels: what must go when a filter goes.

Read from the jaxpr of any module: every axis of every weight begins as channels of its own, and
each operation says which of them are one. A sum ties the filters of its terms (a residual block), a
flattening repeats channels over pixels.
"""

import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from reduction import tree
from reduction.errors import require
from reduction.net import Net, apply


class Axis(NamedTuple):
  """An axis of a leaf that runs over channels; repeat: over pixels, of which channels are inner."""

  leaf: str  # 'params/conv1/kernel', 'stats/norm1/mean'
  axis: int
  repeat: int = 1


class Group(NamedTuple):
  """Channels that are one: size of them, made by `filters`, the leaves of convolutions."""

  size: int
  filters: tuple[str, ...]
  axes: tuple[Axis, ...]


class Structure(NamedTuple):
  """convs: leaves of plain convolutions. depthwise: of those with more groups than one.

  groups: the channels that may be removed; those of inputs and outputs of the net may not.
  """

  convs: tuple[str, ...]
  depthwise: tuple[str, ...]
  groups: tuple[Group, ...]


class _Spaces:
  """Sets of axes that are found to be one; a value's axis holds (space, repeat) or None."""

  def __init__(self):
    self.parent, self.fixed, self.axes = [], set(), {}

  def new(self, *axes) -> int:
    self.parent.append(len(self.parent))
    self.axes[self.parent[-1]] = list(axes)
    return self.parent[-1]

  def root(self, space: int) -> int:
    while self.parent[space] != space:
      space = self.parent[space]
    return space

  def fix(self, *marks):
    self.fixed.update(mark[0] for mark in marks if mark)

  def join(self, a, b):
    """Makes two marks one; where one repeats, so do the axes of the other."""
    if not a or not b:
      return a or b
    few, many = sorted((a, b), key=lambda mark: mark[1])
    left, right, more = self.root(few[0]), self.root(many[0]), many[1] // few[1]
    if left == right:
      self.fix(*((few, many) if more > 1 else ()))
      return many
    self.axes[right] += [x._replace(repeat=x.repeat * more) for x in self.axes.pop(left)]
    self.parent[left] = right
    return many[0], max(few[1], many[1])


def structure(module, params, stats, x) -> Structure:
  """The structure of a module with params and stats of one replicate; x: inputs [n, ...]."""
  shapes = jax.tree.map(lambda w: jax.ShapeDtypeStruct(w.shape, w.dtype), (params, stats, x))
  program = jax.make_jaxpr(lambda *given: apply(module, *given))(*shapes).jaxpr
  leaves = [*_leaves('params', params), *_leaves('stats', stats)]
  spaces, found, values = _Spaces(), dict(convs=[], depthwise=[]), {}
  for variable, (name, shape) in zip(program.invars, leaves):
    values[variable] = tuple((spaces.new(Axis(name, i)), 1) for i in range(len(shape)))
  inside = (spaces.new(), 1)
  spaces.fix(inside)
  values[program.invars[-1]] = (*(None,) * (x.ndim - 1), inside)
  names = {variable: name for variable, (name, _) in zip(program.invars, leaves)}
  _walk(program, values, names, spaces, found)
  for variable in program.outvars:
    spaces.fix(*_read(values, variable))
  fixed = {spaces.root(space) for space in spaces.fixed}
  sizes, made = dict(leaves), []
  for space, axes in spaces.axes.items():
    filters = tuple(a.leaf for a in axes if a.leaf in found['convs'] and a.axis == 3)
    if filters and space not in fixed:
      made.append(Group(sizes[filters[0]][3], filters, tuple(sorted(axes))))
  return Structure(tuple(found['convs']), tuple(found['depthwise']), tuple(made))


def _leaves(kind, given):
  return [(f'{kind}/{name}', leaf.shape) for name, leaf in tree.named(given)]


def _read(values, variable) -> tuple:
  known = None if hasattr(variable, 'val') else values.get(variable)
  return known or (None,) * len(variable.aval.shape)


def _walk(program, values, names, spaces, found):
  """Follows the equations of a jaxpr; values: variable -> its marks, names: of whole leaves."""
  for equation in program.eqns:
    given = [_read(values, v) for v in equation.invars]
    shapes = [v.aval.shape for v in equation.invars]
    name = equation.primitive.name
    if _is_convolution(name, shapes, equation):
      results = [_convolution(equation, given, shapes, names, spaces, found)]
    elif (inner := _inner(equation)) is not None:
      values |= dict(zip(inner.invars, given))
      names |= {
        v: names[u] for u, v in zip(equation.invars, inner.invars)
        if not hasattr(u, 'val') and u in names
      }  # fmt: skip
      _walk(inner, values, names, spaces, found)
      results = [_read(values, v) for v in inner.outvars]
    else:
      rule = RULES.get(name, _elementwise)
      results = rule(equation, given, shapes, spaces)
    values |= dict(zip(equation.outvars, results))


def _inner(equation):
  for key in ('jaxpr', 'call_jaxpr', 'fun_jaxpr'):
    found = equation.params.get(key)
    if hasattr(found, 'jaxpr') and equation.primitive.name not in ('scan', 'while', 'cond'):
      return found.jaxpr
  return None


def _is_convolution(name, shapes, equation) -> bool:
  """XLA's own, or `kernels.conv.chunked`: a call whose shapes are those of images and a kernel."""
  if name == 'conv_general_dilated':
    return True
  ranks = [len(s) for s in shapes] + [len(v.aval.shape) for v in equation.outvars]
  return name == 'custom_vjp_call' and ranks == [4, 4, 4]


def _convolution(equation, given, shapes, names, spaces, found):
  (x, w), (_, (*_, inputs, outputs)) = given, shapes
  leaf = names.get(equation.invars[1])
  groups = equation.params.get('feature_group_count', 1)
  if groups > 1:
    found['depthwise'].append(leaf)
    joined = spaces.join(x[3], w[3])
    if inputs > 1 or outputs != groups:
      spaces.fix(joined)
    return None, None, None, joined
  found['convs'].append(leaf)
  spaces.join(x[3], w[2])
  return None, None, None, w[3]


def _elementwise(equation, given, shapes, spaces):
  """Operands of one shape share their axes; what is not known to be so keeps its channels."""
  results = []
  for variable in equation.outvars:
    shape, marks = variable.aval.shape, [None] * len(variable.aval.shape)
    for mark, size in zip(given, shapes):
      if len(size) != len(shape):
        spaces.fix(*mark)
        continue
      for i, (n, m) in enumerate(zip(size, shape)):
        if n == m:
          marks[i] = spaces.join(marks[i], mark[i])
        else:
          spaces.fix(mark[i])
    results.append(tuple(marks))
  return results


def _broadcast(equation, given, shapes, spaces):
  del spaces
  marks = [None] * len(equation.params['shape'])
  for i, at in enumerate(equation.params['broadcast_dimensions']):
    if shapes[0][i] == equation.params['shape'][at]:
      marks[at] = given[0][i]
  return [tuple(marks)]


def _reduce(equation, given, shapes, spaces):
  del shapes
  axes = equation.params['axes']
  spaces.fix(*(given[0][a] for a in axes))
  return [tuple(mark for i, mark in enumerate(given[0]) if i not in axes)]


def _transpose(equation, given, shapes, spaces):
  del shapes, spaces
  return [tuple(given[0][i] for i in equation.params['permutation'])]


def _squeeze(equation, given, shapes, spaces):
  del shapes, spaces
  axes = equation.params['dimensions']
  return [tuple(mark for i, mark in enumerate(given[0]) if i not in axes)]


def _reshape(equation, given, shapes, spaces):
  """Axes that keep their size keep their channels; several that become one repeat the last's."""
  old, new = shapes[0], equation.params['new_sizes']
  marks, i, j = [None] * len(new), 0, 0
  while i < len(old) and j < len(new):
    if (old[i] == 1) != (new[j] == 1):
      i, j = i + (old[i] == 1), j + (new[j] == 1)
      continue
    i2, j2 = i + 1, j + 1
    while math.prod(old[i:i2]) != math.prod(new[j:j2]):
      small = math.prod(old[i:i2]) < math.prod(new[j:j2])
      i2, j2 = i2 + small, j2 + (not small)
    part = given[0][i:i2]
    if j2 == j + 1 and not any(part[:-1]) and part[-1]:
      marks[j] = part[-1][0], part[-1][1] * math.prod(old[i : i2 - 1])
    else:
      spaces.fix(*part)
    i, j = i2, j2
  return [tuple(marks)]


def _dot(equation, given, shapes, spaces):
  del shapes
  (left, right), batch = equation.params['dimension_numbers']
  for a, b in zip(left, right):
    spaces.join(given[0][a], given[1][b])
  rest = lambda mark, gone: [m for i, m in enumerate(mark) if i not in gone]
  if batch != ((), ()):
    spaces.fix(*itertools.chain(*given))
  return [(*rest(given[0], left), *rest(given[1], right))]


def _window(equation, given, shapes, spaces):
  """A window over pixels alone: axes of one size stay what they are."""
  shape = equation.outvars[0].aval.shape
  spaces.fix(*(m for m, n, k in zip(given[0], shapes[0], shape) if n != k))
  return [tuple(m if n == k else None for m, n, k in zip(given[0], shapes[0], shape))]


RULES = {
  'broadcast_in_dim': _broadcast, 'reshape': _reshape, 'squeeze': _squeeze, 'dot_general': _dot,
  'transpose': _transpose, 'reduce_max': _reduce, 'reduce_sum': _reduce, 'pad': _window,
  'reduce_window_max': _window, 'reduce_window_sum': _window, 'slice': _window,
}  # fmt: skip


def dead(masks, structure: Structure) -> dict[int, np.ndarray]:
  """Group -> bool [R, size]: channels none of whose filters keeps a weight. masks: like params."""
  named = dict(tree.named(masks))
  found = {}
  for i, group in enumerate(structure.groups):
    alive = [np.asarray(named[f.removeprefix('params/')]).any((1, 2, 3)) for f in group.filters]
    found[i] = ~np.any(alive, 0)
  return found


def remove(trees: dict[str, Any], structure: Structure, kept: dict[int, np.ndarray]):
  """trees ('params', 'stats', 'masks': leaves [R, ...]) without the channels that kept leaves out.

  kept: group -> indices [R, n] of the channels that stay, rising.
  """
  cuts = {}
  for i, index in kept.items():
    for axis in structure.groups[i].axes:
      size = structure.groups[i].size
      whole = (np.arange(axis.repeat)[:, None] * size + index[:, None]).reshape(len(index), -1)
      cuts.setdefault(axis.leaf, []).append((axis.axis, whole))

  def leaf(kind, name, w):
    for axis, index in cuts.get(f'{"params" if kind == "masks" else kind}/{name}', ()):
      w = np.stack([np.take(one, chosen, axis) for one, chosen in zip(np.asarray(w), index)])
    return w

  def cut(kind, given):
    return given and tree.map_named(lambda name, w: leaf(kind, name, w), given)

  return {kind: cut(kind, given) for kind, given in trees.items()}


def silenced(masks, structure: Structure, kept: dict[int, np.ndarray]):
  """masks that drop a group's channels wherever they are made, so that they are 0 and feed nothing.

  kept: group -> bool [R, size]. The normalization's scale and bias go too: a pruned filter without
  them would still pass on relu(bias), and removing it would change the net.
  """
  drops = {}
  for i, stays in kept.items():
    for axis in structure.groups[i].axes:
      whole = np.tile(stays, (1, axis.repeat))
      drops.setdefault(axis.leaf, []).append((axis.axis, whole))

  def leaf(name, m):
    for axis, stays in drops.get(f'params/{name}', ()):
      shape = [len(stays), *(1,) * (m.ndim - 1)]
      shape[axis + 1] = stays.shape[1]
      m = m & stays.reshape(shape)
    return m

  return tree.map_named(leaf, masks)


def shrunk(net: Net, structure: Structure) -> Net:
  """net without the channels that its masks keep nothing of, in any replicate's own places.

  As many go in each replicate as in the one that lost fewest. Raises UsageError for a module that
  cannot be narrowed, or where all filters of a layer are gone.
  """
  gone = dead(net.masks, structure)
  left = {i: int((~g).sum(1).max()) for i, g in gone.items()}
  for i, count in left.items():
    require(count > 0, f'all filters of {structure.groups[i].filters[0]} are pruned; keep one')
  kept = {
    i: np.sort(np.argsort(g, axis=1, kind='stable')[:, : left[i]], axis=1)
    for i, g in gone.items() if left[i] < g.shape[1]
  }  # fmt: skip
  if not kept:
    return net
  narrowed = getattr(net.module, 'narrowed', None)
  name = type(net.module).__name__
  require(narrowed is not None, f'{name} has no method narrowed(widths): its filters stay as zeros')
  given = dict(params=net.params, stats=net.stats, masks=net.masks)
  cut = jax.tree.map(jnp.asarray, remove(given, structure, kept))
  widths = {
    leaf.split('/')[-2]: left[i] for i in kept for leaf in structure.groups[i].filters
  }  # fmt: skip
  return Net(narrowed(widths), **cut)
