"""The residual networks of CIFAR-10: 6 n + 2 layers of 16, 32 and 64 channels (He et al. 2016)."""

import flax.linen as nn
import jax

from reduction.errors import require
from reduction.models.layers import BatchNorm, Conv, Dense


class ResNet(nn.Module):
  """A convolution 'conv', stages of `blocks` blocks, each of two, the mean, then 'out'.

  widths: channels of each stage; a stage after the first begins with stride 2, and there a 1 x 1
  convolution 'downsample' fits the shortcut. inner: channels between the two convolutions of each
  block, where they are not those of its stage.
  """

  blocks: int
  widths: tuple[int, ...]
  classes: int
  inner: tuple[int, ...] = ()

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
        middle = self.inner[i * self.blocks + j] if self.inner else width
        y = nn.relu(conv(x, middle, f'{name}_conv1', stride=stride))
        y = conv(y, width, f'{name}_conv2')
        if stride > 1:
          x = conv(x, width, f'{name}_downsample', kernel=1, stride=stride)
        x = nn.relu(x + y)
    return Dense(self.classes, name='out')(x.mean((1, 2)))

  def narrowed(self, widths: dict[str, int]) -> 'ResNet':
    """The same with other numbers of filters: {'stage1_block1_conv1': 20}."""
    names = [(i, f'stage{i + 1}_block{j + 1}') for i in range(len(self.widths))
             for j in range(self.blocks)]  # fmt: skip
    inner = self.inner or tuple(self.widths[i] for i, _ in names)
    inner = tuple(widths.get(f'{name}_conv1', w) for (_, name), w in zip(names, inner))
    stages = tuple(
      widths.get(f'stage{i + 1}_block1_conv2', w) for i, w in enumerate(self.widths)
    )
    return self.clone(widths=stages, inner=inner)


def resnet(*, layers: int = 20, width: int = 16, classes: int = 10) -> ResNet:
  """ResNet-20 and its kin: 270,896 weights on 3 channels.

  The lottery ticket papers call it ResNet-18 (2019) and ResNet-20 (2020). layers: 6 n + 2.
  """
  require(layers % 6 == 2 and layers > 2, f'{layers=} of a resnet must be 8, 14, 20, 26 ...')
  return ResNet((layers - 2) // 6, (width, 2 * width, 4 * width), classes)


def resnet12(*, width: int = 32, classes: int = 10) -> ResNet:
  """DTMM's ResNet-12 (Han et al., INFOCOM 2024): four stages of one block, 32 to 256 channels.

  Twelve convolutions, three of them 1 x 1 around the blocks of stride 2. width: of the first stage.
  """
  return ResNet(1, tuple(width * 2**i for i in range(4)), classes)
