"""What the choices of `prune.schedule` cost for a net: bytes counted, instructions measured."""

import functools
import math
from typing import NamedTuple

import numpy as np

from reduction import tree
from reduction.errors import require
from reduction.mcu import graph as g
from reduction.mcu import latency
from reduction.mcu.narrow import holds_wide, narrowed
from reduction.mcu.plan import plan
from reduction.prune import select
from reduction.prune.channels import Structure
from reduction.prune.schedule import Choice, Layer, Problem

STEP = 4  # filters come in fours: what a dual product reads at once of the next layer's input


class Setting(NamedTuple):
  """Shares of filters that a group may keep, and of filterlets that a convolution may."""

  filters: tuple[float, ...] = (1.0, 0.75, 0.5)
  filterlets: tuple[float, ...] = (1.0, 0.8, 0.65, 0.5, 0.35, 0.25, 0.15)


class Budget(NamedTuple):
  """problem: to solve. widths: group -> channels of each of its options. shares: of filterlets.

  forms: of each convolution [inputs, outputs, shares], how its weights are stored.
  """

  problem: Problem
  widths: tuple[tuple[int, ...], ...]
  shares: tuple[float, ...]
  forms: tuple[np.ndarray, ...]


def told(made: Budget, net: Structure, choice: Choice) -> tuple[dict, dict, list[str]]:
  """What a choice says: group -> channels, leaf -> share of filterlets, forms of convolutions."""
  widths = {i: made.widths[i][option] for i, option in enumerate(choice.groups)}
  shares = {leaf: made.shares[share] for leaf, share in zip(net.convs, choice.layers)}
  ends = [tuple(0 if g is None else choice.groups[g] for g in layer.groups)
          for layer in made.problem.layers]  # fmt: skip
  forms = [str(form[(*at, share)]) for form, at, share in zip(made.forms, ends, choice.layers)]
  return widths, shares, forms


def budget(
  graph: g.Graph, net: Structure, scores, table: latency.Table, limits: dict,
  setting: Setting,
) -> Budget:  # fmt: skip
  """What choices of a net cost: instructions, bytes, loss; within a RAM that the planner says.

  graph: the integer network of the dense net. scores: a tree like params, [R, ...]. limits: 'bytes'
  of Flash for constants, 'ram' of the arena, 'loss', the share of all importance that may go; each
  optional. A 1 x 1 filterlet is its filter, so that those keep all that their groups do.
  """
  ops = [op for op in graph.ops if op.kind == 'conv']
  require(len(ops) == len(net.convs), f'{len(ops)} convolutions in C, {len(net.convs)} in the net')
  named = {n: np.asarray(s).mean(0) for n, s in tree.named(scores)}
  kernels = [named[leaf.removeprefix('params/')] for leaf in net.convs]
  widths = tuple(_options(group.size, setting.filters) for group in net.groups)
  total = float(sum(k.sum() for k in kernels))
  order = {i: select.ranked(named, group) for i, group in enumerate(net.groups)}
  without = () if holds_wide(graph, limits.get('ram')) else ('wide',)
  best, made = functools.partial(table.best, without=without), []
  for leaf, op, kernel in zip(net.convs, ops, kernels):
    ends = tuple(_group(net, leaf, axis) for axis in (2, 3))
    shape = latency.shape_of(graph, op)
    made.append(_layer(leaf, ends, shape, kernel / total, widths, order, best, setting))
  layers, forms = map(list, zip(*made))
  layers += _rest(graph, net, widths)
  sums = {n: v for n, v in limits.items() if n != 'ram'}
  check = None
  if 'ram' in limits:
    peak = functools.cache(lambda counts, chosen: plan(narrowed(graph, counts, chosen)).peak)

    def check(groups, shares):
      counts, chosen = [], []
      for layer, form, share, op in zip(layers, forms, shares, ops):
        i, o = (0 if e is None else groups[e] for e in layer.groups)
        counts.append(len(op.weights) if layer.groups[1] is None else widths[layer.groups[1]][o])
        chosen.append(str(form[i, o, share]))
      return _over(peak(tuple(counts), tuple(chosen)), limits['ram'])

  problem = Problem(tuple(map(len, widths)), tuple(layers), sums, check=check)
  return Budget(problem, widths, setting.filterlets, tuple(forms))


def _over(peak: int, most: int) -> dict | None:
  return dict(ram=peak / most - 1) if peak > most else None


def _options(size: int, shares) -> tuple[int, ...]:
  """Filters to keep: multiples of STEP below all of them, each once, falling."""
  counts = {size} | {max(STEP, round(s * size / STEP) * STEP) for s in shares if s < 1}
  return tuple(sorted((c for c in counts if c <= size), reverse=True))


def _group(net: Structure, leaf: str, axis: int) -> int | None:
  """The group of an axis of a leaf; None where it is the net's input or output."""
  holds = (i for i, group in enumerate(net.groups) for a in group.axes if a[:2] == (leaf, axis))
  return next(holds, None)


def _layer(leaf, ends, shape, kernel, widths, order, best, setting):
  """(costs, form) [inputs, outputs, shares] of a convolution; kernel: its share of all scores."""
  inputs = widths[ends[0]] if ends[0] is not None else (shape.cin,)
  outputs = widths[ends[1]] if ends[1] is not None else (shape.cout,)
  size = len(inputs), len(outputs), len(setting.filterlets)
  found = {name: np.zeros(size) for name in ('instructions', 'bytes', 'loss')}
  forms = np.full(size, 'dense', object)
  places = kernel.sum(2).reshape(-1, kernel.shape[3])
  for o, cout in enumerate(outputs):
    stays = order[ends[1]][:cout] if ends[1] is not None else np.arange(cout)
    ranked = np.sort(places[:, stays].ravel())[::-1]
    for a, share in enumerate(setting.filterlets):
      kept = select.filterlets(shape.kernel, cout, share)
      found['loss'][:, o, a] = places.sum() - ranked[:kept].sum()
      for i, cin in enumerate(inputs):
        now = shape._replace(cin=cin, cout=cout)
        found['instructions'][i, o, a], form = best(now, kept)
        found['bytes'][i, o, a] = _bytes(form, now, kept) + 9 * cout
        forms[i, o, a] = form
  return Layer(leaf, ends, found), forms


def _bytes(form: str, shape, kept: int) -> int:
  if form in ('dense', 'wide'):
    return shape.places * shape.cin * shape.cout
  index = 2 * kept + 2 * (shape.cout + 1)
  return kept * shape.cin + (index if form == 'fwcs' else math.ceil(shape.places * shape.cout / 8))


def _rest(graph, net: Structure, widths) -> list[Layer]:
  """Dense layers: their bytes and multiplications, by the channels that come in."""
  found = []
  for i, group in enumerate(net.groups):
    for axis in group.axes:
      if axis.leaf in net.convs or axis.axis != 0 or not axis.leaf.endswith('kernel'):
        continue
      (op,) = (op for op in graph.ops if op.kind == 'dense'
               and op.weights.shape[1] == axis.repeat * group.size)  # fmt: skip
      size = np.array([w * axis.repeat * len(op.weights) for w in widths[i]], float)[:, None, None]
      tables = dict(instructions=latency.DENSE * size, bytes=size + 9 * len(op.weights))
      found.append(Layer(axis.leaf, (i, None), dict(tables, loss=0 * size)))
  return found
