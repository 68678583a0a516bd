"""A net whose layers are mixtures of candidate operations, for differentiable search.

Liu et al., DARTS, ICLR 2019; Cai et al., ProxylessNAS, ICLR 2019; Wu et al., FBNet, CVPR 2019.
"""

import flax.linen as nn
import jax
import numpy as np

from reduction.errors import did_you_mean, require
from reduction.kernels.depthwise import depthwise
from reduction.models.layers import BatchNorm, Conv, Dense, glorot
from reduction.net import apply

OPERATIONS = ('skip', 'conv1', 'conv3', 'conv5', 'separable3', 'separable5')


class Choice(nn.Module):
  """A convolution 'stem', `layers` mixtures with means of 2 x 2 between them, the mean, then 'out'.

  operations: of OPERATIONS, all from width to width channels. A convolution is followed by a
  normalization and relu; a separable one is depthwise, then 1 x 1.
  """

  layers: int
  operations: tuple[str, ...]
  width: int
  classes: int

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False, gates=None) -> jax.Array:
    """x: [n, h, w, channels] -> logits [n, classes].

    gates: [layers, operations], the weight of each; None adds all. Where they are 0 but for a 1 in
    each layer, the net is that of those operations alone.
    """
    x = self._normal(Conv(self.width, (3, 3), use_bias=False, name='stem')(x), 'stem', train)
    for i in range(self.layers):
      if i:
        n, h, w, c = x.shape
        # a mean: a maximum's gradient looks for equal values, which a sum computed again may miss
        x = x.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))
      outputs = [self._operation(x, kind, f'layer{i + 1}_{kind}', train)
                 for kind in self.operations]  # fmt: skip
      weights = [1.0] * len(outputs) if gates is None else gates[i]
      x = sum(weights[j] * y for j, y in enumerate(outputs))
    return Dense(self.classes, name='out')(x.mean((1, 2)))

  def _normal(self, x, name, train):
    return nn.relu(BatchNorm(use_running_average=not train, name=f'{name}_norm')(x))

  def _operation(self, x, kind, name, train):
    if kind == 'skip':
      return x
    size = int(kind[-1])
    if kind.startswith('separable'):
      w = self.param(f'{name}_depthwise', glorot, (size, size, 1, self.width))
      x, size = depthwise(x, w, 1), 1
    x = Conv(self.width, (size, size), use_bias=False, name=name)(x)
    return self._normal(x, name, train)


def choice(
  *, operations: tuple[str, ...], layers: int = 3, width: int = 8, classes: int = 10
) -> Choice:
  """A net of mixtures; see Choice. operations: of OPERATIONS, each once."""
  for kind in operations:
    require(kind in OPERATIONS, f'operation {kind!r} is unknown.{did_you_mean(kind, OPERATIONS)}')
  different = len(set(operations)) == len(operations) > 1
  require(different and layers > 0, f'{operations=}, {layers=}: two different ones at least')
  return Choice(layers, tuple(operations), width, classes)


def mixed(module: Choice, params, stats, x, gates, train: bool = False):
  """Logits of the net with gates; in training (logits, new stats)."""
  return apply(module, params, stats, x, train, gates=gates)


def costs(module: Choice, shape) -> np.ndarray:
  """float32 [layers, operations]: multiply-accumulates, the dearest network's sum 1."""
  table = np.zeros((module.layers, len(module.operations)))
  for i in range(module.layers):
    pixels = (shape[0] >> i) * (shape[1] >> i)
    for j, kind in enumerate(module.operations):
      area = int(kind[-1]) ** 2 if kind != 'skip' else 0
      w = module.width
      each = area * w + w * w if kind.startswith('separable') else area * w * w
      table[i, j] = pixels * each
  return (table / table.max(1).sum()).astype(np.float32)
