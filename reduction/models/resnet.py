"""The residual networks of CIFAR-10: 6 n + 2 layers of 16, 32 and 64 channels (He et al. 2016)."""

import flax.linen as nn
import jax

from reduction.errors import require
from reduction.models.layers import BatchNorm, Conv, Dense


class ResNet(nn.Module):
  """A convolution 'conv', stages of `blocks` blocks, each of two, the mean, then 'out'.

  widths: channels of each stage; a stage after the first begins with stride 2, and there a 1 x 1
  convolution 'downsample' fits the shortcut.
  """

  blocks: int
  widths: tuple[int, ...]
  classes: int

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """x: [n, h, w, channels] -> logits [n, classes]."""

    def conv(x, width, name, kernel=3, stride=1):
      x = Conv(width, (kernel, kernel), (stride, stride), use_bias=False, name=name)(x)
      return BatchNorm(use_running_average=not train, name=f'{name}_norm')(x)

    x = nn.relu(conv(x, self.widths[0], 'conv'))
    for i, width in enumerate(self.widths):
      for j in range(self.blocks):
        name, stride = f'stage{i + 1}_block{j + 1}', 2 if i and not j else 1
        y = nn.relu(conv(x, width, f'{name}_conv1', stride=stride))
        y = conv(y, width, f'{name}_conv2')
        if stride > 1:
          x = conv(x, width, f'{name}_downsample', kernel=1, stride=stride)
        x = nn.relu(x + y)
    return Dense(self.classes, name='out')(x.mean((1, 2)))


def resnet(*, layers: int = 20, width: int = 16, classes: int = 10) -> ResNet:
  """ResNet-20 and its kin: 270,896 weights on 3 channels.

  The lottery ticket papers call it ResNet-18 (2019) and ResNet-20 (2020). layers: 6 n + 2.
  """
  require(layers % 6 == 2 and layers > 2, f'{layers=} of a resnet must be 8, 14, 20, 26 ...')
  return ResNet((layers - 2) // 6, (width, 2 * width, 4 * width), classes)
