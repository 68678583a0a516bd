"""`Chain`, plain spaces of ConvNets and MLPs: pairs of convolutions, poolings, hidden layers.

The genes of one network: [pairs of convolutions, hidden layers, then the filters of each
convolution, the units of each hidden layer]; each the index of a choice. Genes of layers beyond the
two depths mean nothing and are 0. Sampling, mutation, crossing and evolution are those of
`search.space`, costs those of `search.cost` but for memory: convolutions that follow each other
overlap in ways that only the planner knows, so it plans each.
"""

import dataclasses
import itertools
import math

import numpy as np

from reduction.errors import UsageError, require
from reduction.mcu import plan, sketch
from reduction.mcu.graph import Graph
from reduction.models.convnet import ConvNet
from reduction.models.mlp import MLP
from reduction.search import cost
from reduction.search.cost import CONV, DENSE, POOL, Ops
from reduction.search.space import canonical


@dataclasses.dataclass(frozen=True)
class Chain:
  """shape: (side, side, channels) of images. pairs, layers: how many there may be.

  filters: of a 3 x 3 convolution. units: of a hidden layer. All rise; side divides by 2 ^ pairs.
  """

  name: str
  shape: tuple[int, int, int]
  pairs: tuple[int, ...] = (0,)
  layers: tuple[int, ...] = (1, 2)
  filters: tuple[int, ...] = (8, 16, 32)
  units: tuple[int, ...] = (16, 32, 64)
  classes: int = 10

  def __post_init__(self):
    for key in ('pairs', 'layers', 'filters', 'units'):
      values = getattr(self, key)
      rising = values and all(a < b for a, b in itertools.pairwise(values))
      require(rising and values[0] >= (key in ('filters', 'units')), f'{key}={values} must rise')
    (side, width, _), halves = self.shape, self.pairs[-1]
    fine = side == width and side % 2**halves == 0
    require(fine, f'shape={self.shape} is not square, or does not divide by 2 ^ {halves}')

  def choices(self) -> np.ndarray:
    """int [genes]: how many choices each gene has."""
    convolutions, hidden = 2 * self.pairs[-1], self.layers[-1]
    layers = [len(self.filters)] * convolutions + [len(self.units)] * hidden
    return np.array([len(self.pairs), len(self.layers), *layers])

  def meaning(self, genes) -> np.ndarray:
    """bool [n, genes]: which genes mean something."""
    depths = 2 * np.array(self.pairs)[genes[:, 0]], np.array(self.layers)[genes[:, 1]]
    places = 2 * self.pairs[-1], self.layers[-1]
    parts = [np.arange(most) < depth[:, None] for most, depth in zip(places, depths)]
    return np.concatenate([np.ones((len(genes), 2), bool), *parts], 1)

  def count(self) -> int:
    """Different networks, exact."""
    depths = (self.filters, [2 * p for p in self.pairs]), (self.units, self.layers)
    return math.prod(sum(len(values) ** d for d in many) for values, many in depths)


def sizes(chain: Chain, genes) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """(filters of each convolution, units of each hidden layer) of one row of genes."""
  row, most = canonical(chain, genes)[0], 2 * chain.pairs[-1]
  convolutions, hidden = 2 * chain.pairs[row[0]], chain.layers[row[1]]
  filters = tuple(chain.filters[i] for i in row[2 : 2 + convolutions])
  return filters, tuple(chain.units[i] for i in row[2 + most : 2 + most + hidden])


def enumerate_all(chain: Chain, most: int = 100_000) -> np.ndarray:
  """int [chain.count(), genes]: every network once. Raises UsageError above `most`."""
  every = math.prod(map(int, chain.choices()))
  require(every <= most, f'{chain.name} has {every:,} rows of genes, above {most:,}: sample it')
  rows = np.array(list(itertools.product(*map(range, chain.choices()))))
  return np.unique(canonical(chain, rows), axis=0)


def description(chain: Chain, genes) -> dict:
  """What JSON holds of one network; `described` gives the genes back."""
  filters, units = sizes(chain, genes)
  return dict(filters=list(filters), units=list(units))


def described(chain: Chain, given: dict) -> np.ndarray:
  """int [genes] of a `description`. Raises UsageError where it is no network of the chain."""
  try:
    filters, units = given['filters'], given['units']
    row = [chain.pairs.index(len(filters) / 2), chain.layers.index(len(units))]
    for values, chosen, most in (
      (chain.filters, filters, 2 * chain.pairs[-1]), (chain.units, units, chain.layers[-1]),
    ):  # fmt: skip
      row += [values.index(one) for one in chosen] + [0] * (most - len(chosen))
  except (KeyError, TypeError, ValueError) as error:
    raise UsageError(f'{given} is no network of {chain.name}: {error}') from error
  return canonical(chain, row)[0]


def network(chain: Chain, genes) -> ConvNet | MLP:
  """The module of one row of genes."""
  filters, units = sizes(chain, genes)
  if not filters:
    return MLP(units, chain.classes)
  return ConvNet(filters[::2], units, chain.classes, filters=filters)


def ops_of(chain: Chain, genes) -> Ops:
  """The ops of one network, [1, ops]."""
  filters, units = sizes(chain, genes)
  side, rows, cin = chain.shape[0], [], chain.shape[2]
  for i, cout in enumerate(filters):
    rows.append((CONV, side, side, cin, cout, 3, 1, 0))
    cin = cout
    if i % 2:
      rows.append((POOL, side, side // 2, cin, cin, 2, 2, 0))
      side //= 2
  cin = side * side * cin
  for cout in (*units, chain.classes):
    rows.append((DENSE, 1, 1, cin, cout, 1, 1, 1))
    cin = cout
  *fields, apart = (np.array(field, np.int64)[None] for field in zip(*rows))
  return Ops(*fields, held=np.zeros_like(apart), apart=apart)


def graph(chain: Chain, genes, *, blank: bool = False) -> Graph:
  """One network with random weights, or of zeros, for shapes alone."""
  filters, units = sizes(chain, genes)
  made, x = sketch.Sketch(chain.shape, blank=blank), 0
  for i, cout in enumerate(filters):
    x = sketch.conv(made, x, cout, kernel=3)
    x = sketch.pool(made, x, 'max') if i % 2 else x
  for cout in (*units, chain.classes):
    x = sketch.dense(made, x, cout)
  return sketch.finish(made, 'chain')


def costs(chain: Chain, genes, picojoules: dict | None = None) -> dict:
  """As `search.cost.cost`, of networks [n, genes]; memory by the planner, 100 networks a second."""
  genes, rows = np.atleast_2d(genes), []
  for row in genes:
    counted = cost.cost(ops_of(chain, row), picojoules=picojoules)
    found = {key: value[0] for key, value in counted.items()}
    # the authors' convention counts two a channel, for a normalization that is not here
    biases = [*sizes(chain, row)[0], *sizes(chain, row)[1], chain.classes]
    params = cost.weights(ops_of(chain, row)).sum() + sum(biases)
    rows.append(dict(found, params=params, sram=plan.plan(graph(chain, row, blank=True)).peak))
  return {key: np.array([row[key] for row in rows]) for key in rows[0]}
