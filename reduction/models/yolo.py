"""A tiny one-stage detector: convolutions to a grid of cells, each of which may tell one box."""

import flax.linen as nn
import jax

from reduction.errors import require
from reduction.models.convnet import POOL, convolved, narrower
from reduction.models.layers import Conv

LAYERS = (16, 16, POOL, 32, 32, POOL, 64, 64, POOL, 128, 128, 128, POOL)


class Yolo(nn.Module):
  """3 x 3 convolutions with normalization and relu, poolings, then 'out', 1 x 1, on every cell."""

  layers: tuple[int | str, ...]
  kinds: int

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """x: [n, h, w, channels] -> [n, h / 16, w / 16, 5 + kinds], as `detection` reads them."""
    x = convolved(self.layers, x, train)
    return Conv(5 + self.kinds, (1, 1), name='out')(x)

  def narrowed(self, widths: dict[str, int]) -> 'Yolo':
    """The same with other numbers of filters: {'conv3': 20}."""
    return self.clone(layers=narrower(self.layers, widths))


def yolo(*, width: int = 16, kinds: int = 1) -> Yolo:
  """DTMM's detector of faces (Han et al., INFOCOM 2024), 112 x 112 pixels to 7 x 7 cells.

  width: filters of the first convolutions, 16 in the paper; all others follow. kinds: of things.
  """
  require(width > 0 and kinds > 0, f'{width=} and {kinds=} must be above 0')
  return Yolo(tuple(w if w == POOL else w * width // 16 for w in LAYERS), kinds)
