"""Plain convolutional networks: Conv-2, Conv-4 and Conv-6, and VGG-19 as used on CIFAR-10."""

import flax.linen as nn
import jax

from reduction.errors import require
from reduction.models.layers import BatchNorm, Conv, Dense, max_pool
from reduction.models.mlp import MLP

POOL = 'pool'
VGG11 = (32, 32, POOL, 64, 64, POOL, *(128,) * 3, POOL, *(256,) * 3, POOL)
VGG19 = (64, 64, POOL, 128, 128, POOL, *(256,) * 4, POOL, *(512,) * 4, POOL, *(512,) * 4)


class ConvNet(nn.Module):
  """3 x 3 convolutions 'conv1'... with relu, two to a pooling, then the layers of an MLP 'head'.

  channels: of each pair. dropout: of the hidden units of the head. filters: of every convolution,
  where those of a pair differ.
  """

  channels: tuple[int, ...]
  widths: tuple[int, ...]
  classes: int
  dropout: float = 0.0
  filters: tuple[int, ...] = ()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """x: [n, h, w, channels] -> logits [n, classes]."""
    for i, width in enumerate(self.channels):
      for j in (1, 2):
        count = self.filters[2 * i + j - 1] if self.filters else width
        x = nn.relu(Conv(count, (3, 3), name=f'conv{2 * i + j}')(x))
      x = max_pool(x)
    return MLP(self.widths, self.classes, self.dropout, name='head')(x, train)

  def narrowed(self, widths: dict[str, int]) -> 'ConvNet':
    """The same with other numbers of filters: {'conv3': 20}."""
    before = self.filters or tuple(w for w in self.channels for _ in (1, 2))
    filters = tuple(widths.get(f'conv{i + 1}', w) for i, w in enumerate(before))
    return self.clone(filters=filters)


def convolved(layers: tuple[int | str, ...], x: jax.Array, train: bool) -> jax.Array:
  """x through 3 x 3 convolutions of so many filters, 'conv1'..., and poolings, inside a module."""
  count = 0
  for width in layers:
    if width == POOL:
      x = max_pool(x)
      continue
    count += 1
    x = Conv(width, (3, 3), use_bias=False, name=f'conv{count}')(x)
    x = nn.relu(BatchNorm(use_running_average=not train, name=f'norm{count}')(x))
  return x


def narrower(layers: tuple[int | str, ...], widths: dict[str, int]) -> tuple[int | str, ...]:
  """layers with other numbers of filters: {'conv3': 20}."""
  names = iter(f'conv{i + 1}' for i in range(len(layers)))
  return tuple(w if w == POOL else widths.get(next(names), w) for w in layers)


class VGG(nn.Module):
  """3 x 3 convolutions with batch normalization and relu, poolings, the mean, then 'out'.

  flat: all pixels go into 'out' instead of their mean.
  """

  layers: tuple[int | str, ...]
  classes: int
  flat: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """x: [n, h, w, channels] -> logits [n, classes]."""
    x = convolved(self.layers, x, train)
    x = x.reshape(len(x), -1) if self.flat else x.mean((1, 2))
    return Dense(self.classes, name='out')(x)

  def narrowed(self, widths: dict[str, int]) -> 'VGG':
    """The same with other numbers of filters: {'conv3': 20}."""
    return self.clone(layers=narrower(self.layers, widths))


def convnet(
  *, depth: int, width: int = 64, widths: tuple[int, ...] = (256, 256), classes: int = 10,
  dropout: float = 0.0,
) -> ConvNet:  # fmt: skip
  """Conv-2, Conv-4 or Conv-6, scaled-down VGG (Frankle & Carbin 2019, figure 2).

  depth: convolutions, in pairs of width, 2 width and 4 width channels. The last pair is pooled as
  the others are, so that Conv-6 flattens 4 x 4 x 256 = 4,096 values: 2,261,184 weights on 32 x 32
  x 3 images, where the paper speaks of 1.7 million.
  """
  require(depth in (2, 4, 6), f'{depth=} of a convnet is not 2, 4 or 6')
  require(0 <= dropout < 1, f'{dropout=} must lie in [0, 1)')
  channels = tuple(width * 2**i for i in range(depth // 2))
  return ConvNet(channels, tuple(widths), classes, dropout)


def vgg(*, layers: tuple[int | str, ...], classes: int = 10, flat: bool = False) -> VGG:
  """Convolutions of so many filters, and 'pool': (16, 16, 'pool', 32). flat: of `VGG`."""
  good = layers and all(w == POOL or (isinstance(w, int) and w > 0) for w in layers)
  require(good, f"{layers=} of a vgg must be numbers of filters and '{POOL}'")
  return VGG(tuple(layers), classes, flat)


def vgg11(*, width: int = 32, classes: int = 10) -> VGG:
  """The ten convolutions of DTMM's VGG-11 (Han et al., INFOCOM 2024): 1,908,576 weights in them.

  width: filters of the first, 32 in the paper; all others follow. All pixels go into 'out'.
  """
  return VGG(tuple(w if w == POOL else w * width // 32 for w in VGG11), classes, True)


def vgg19(*, width: int = 64, classes: int = 10) -> VGG:
  """VGG-19 with one dense layer: 20,024,000 weights on 3 channels. Simonyan & Zisserman 2015.

  width: channels of the first layers, 64 in the paper; all others follow.
  """
  layers = tuple(w if w == POOL else w * width // 64 for w in VGG19)
  return VGG(layers, classes)
