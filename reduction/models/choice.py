"""A net whose layers are mixtures of candidate operations, for differentiable search.

Liu et al., DARTS, ICLR 2019; Cai et al., ProxylessNAS, ICLR 2019; Wu et al., FBNet, CVPR 2019.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from reduction.errors import did_you_mean, require
from reduction.kernels.conv import patches
from reduction.models.layers import BatchNorm, Dense, glorot
from reduction.net import apply

OPERATIONS = ('skip', 'conv1', 'conv3', 'conv5', 'separable3', 'separable5')

# of weights [edges, k, k, c, o], as `layers.glorot` of each
stacked = nn.initializers.variance_scaling(1.0, 'fan_avg', 'normal', batch_axis=(0,))


class Choice(nn.Module):
  """A convolution 'stem', `layers` mixtures with means of 2 x 2 between them, the mean, then 'out'.

  kept: 0, or layers are the nodes of DARTS' cell: each adds a mixture of the stem's output and one
  of every node before, of all of which a network has the `kept` strongest; images keep their size,
  and 'out' sees the means of all nodes beside each other. operations: of OPERATIONS, all from width
  to width channels. A convolution is followed by a normalization and relu; a separable one is
  depthwise, then 1 x 1. An operation's weights are one array for all mixtures, and all operations
  of a mixture are one product of matrices: a program of a tenth of the size, and one that an
  accelerator is fast at for many nets beside each other, which it is not at their convolutions.
  """

  layers: int
  operations: tuple[str, ...]
  width: int
  classes: int
  kept: int = 0

  @property
  def edges(self) -> tuple[tuple[int, int], ...]:
    """(from, to) of each mixture, by the layer that adds it; 0 is the stem."""
    first = lambda to: 0 if self.kept else to - 1
    return tuple((i, to) for to in range(1, self.layers + 1) for i in range(first(to), to))

  def into(self, to: int) -> np.ndarray:
    """The places of the mixtures that a layer adds."""
    return np.array([e for e, (_, end) in enumerate(self.edges) if end == to])

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False, gates=None) -> jax.Array:
    """x: [n, h, w, channels] -> logits [n, classes].

    gates: [edges, operations], the weight of each; None adds all. Where they are 0 but for a 1 in
    each edge, the net is that of those operations alone.
    """
    shape = len(self.edges), len(self.operations)
    gates = jnp.ones(shape) if gates is None else gates
    normal = functools.partial(BatchNorm, use_running_average=not train)
    stem = self.param('stem', glorot, (3, 3, x.shape[-1], self.width))
    x = nn.relu(normal(name='stem_norm')(seen(x, 3) @ stem.reshape(-1, self.width)))
    kinds = tuple(kind for kind in self.operations if kind != 'skip')
    places = np.array([self.operations.index(kind) for kind in kinds])
    size = max(map(size_of, kinds))
    kernels = jnp.stack([self._kernel(kind, size) for kind in kinds], -2)
    kernels = kernels.reshape(len(self.edges), -1, len(kinds) * self.width)
    nodes = [x]
    for to in range(1, self.layers + 1):
      if to > 1 and not self.kept:
        n, h, w, c = x.shape
        # a mean: a maximum's gradient looks for equal values, which a sum computed again may miss
        nodes[-1] = x.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))
      into = self.into(to)
      given = [nodes[self.edges[e][0]] for e in into]
      y = jnp.concatenate([seen(x, size) @ kernels[e] for x, e in zip(given, into)], -1)
      y = y.reshape(*y.shape[:3], len(into) * len(kinds), self.width)
      y = nn.relu(normal(name=f'layer{to}_norm', axis=(-2, -1))(y))
      x = (y * gates[into[:, None], places].reshape(-1, 1)).sum(-2)
      if 'skip' in self.operations:
        skip = self.operations.index('skip')
        x += sum(gates[e, skip] * x for x, e in zip(given, into))
      nodes.append(x)
    means = [x.mean((1, 2)) for x in (nodes[1:] if self.kept else nodes[-1:])]
    return Dense(self.classes, name='out')(jnp.concatenate(means, -1))

  def _kernel(self, kind, size):
    """[edges, size, size, c, c]: the convolution that an operation is, zeros around it."""
    own, c, edges = size_of(kind), self.width, len(self.edges)
    if kind.startswith('separable'):
      deep = self.param(f'{kind}_depthwise', stacked, (edges, own, own, 1, c))
      kernel = deep.swapaxes(3, 4) * self.param(kind, stacked, (edges, 1, 1, c, c))
    else:
      kernel = self.param(kind, stacked, (edges, own, own, c, c))
    around = ((size - own) // 2,) * 2
    return jnp.pad(kernel, ((0, 0), around, around, (0, 0), (0, 0)))


def size_of(kind: str) -> int:
  """Of an operation's window; 0 of 'skip'."""
  return 0 if kind == 'skip' else int(kind[-1])


def seen(x, size: int) -> jax.Array:
  """What a window of each pixel sees: [n, h, w, c] -> [n, h, w, size * size * c]."""
  return patches(x, (size, size), (1, 1), ((size // 2,) * 2,) * 2) if size > 1 else x


def choice(
  *, operations: tuple[str, ...], layers: int = 3, width: int = 8, classes: int = 10, kept: int = 0,
) -> Choice:  # fmt: skip
  """A net of mixtures; see Choice. operations: of OPERATIONS, each once. kept: of DARTS 2."""
  for kind in operations:
    require(kind in OPERATIONS, f'operation {kind!r} is unknown.{did_you_mean(kind, OPERATIONS)}')
  different = len(set(operations)) == len(operations) > 1
  require(different and layers > 0, f'{operations=}, {layers=}: two different ones at least')
  require(kept >= 0, f'{kept=} must not be negative')
  return Choice(layers, tuple(operations), width, classes, kept)


def mixed(module: Choice, params, stats, x, gates, train: bool = False):
  """Logits of the net with gates; in training (logits, new stats)."""
  return apply(module, params, stats, x, train, gates=gates)
