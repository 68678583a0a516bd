"""`Arch`, one mobile network as data; it reads and writes the JSON of the MCUNet zoo.

Lin et al., MCUNet, NeurIPS 2020; blocks: Sandler et al., MobileNetV2, CVPR 2018.
"""

import json
import pathlib
from typing import NamedTuple

from reduction.errors import DataError, MissingInput, require

FAULTS = (KeyError, TypeError, ValueError, IndexError, AttributeError)


class Block(NamedTuple):
  """Expand by a 1 x 1 convolution to `middle` channels, depthwise, project to `out`.

  cin = middle: no expansion. shortcut: the input is added; it needs stride 1 and cin = out.
  """

  cin: int
  middle: int
  out: int
  kernel: int
  stride: int
  shortcut: bool


class Arch(NamedTuple):
  """A convolution `stem` (channels, kernel, stride), blocks, `head` channels (0: none), classes.

  For images of resolution x resolution x channels. separable: a DS-CNN (Zhang et al. 2017), whose
  blocks neither expand nor have shortcuts, with a ReLU after both of their convolutions. Hashable:
  a field of a Flax module.
  """

  resolution: int
  channels: int
  stem: tuple[int, int, int]
  blocks: tuple[Block, ...]
  head: int
  classes: int
  separable: bool = False


def check(arch: Arch):
  """Raises UsageError where an Arch is no network."""
  numbers = arch.resolution, arch.channels, *arch.stem, arch.classes
  require(min(numbers) > 0 <= arch.head and arch.blocks, f'{arch} has a size below 1 or no block')
  cin = arch.stem[0]
  for i, block in enumerate(arch.blocks):
    require(min(block[:5]) > 0, f'block {i} has a size below 1: {block}')
    require(block.cin == cin, f'block {i} reads {block.cin} channels, where {cin} come')
    require(block.kernel % 2 == 1, f'block {i} has an even kernel {block.kernel}')
    same = block.stride == 1 and block.cin == block.out
    require(same or not block.shortcut, f'block {i} has a shortcut but changes shape: {block}')
    plain = block.middle == cin and not block.shortcut
    require(plain or not arch.separable, f'block {i} of separable convolutions has more: {block}')
    cin = block.out


def make_divisible(value: float, divisor: int = 8) -> int:
  """The multiple of divisor near value, at least 0.9 of it, as MobileNet's code has it."""
  near = max(divisor, int(value + divisor / 2) // divisor * divisor)
  return near + divisor if near < 0.9 * value else near


def read(path, *, resolution: int | None = None, channels: int = 3) -> Arch:
  """An Arch from a file of the zoo. resolution: None takes what the file says.

  Raises MissingInput where path is not there, DataError where it is no such description.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise MissingInput(f'{path} is not there; a JSON file of the MCUNet zoo is wanted')
  try:
    arch = described(json.loads(path.read_text()), resolution, channels)
  except FAULTS as error:
    raise DataError(f'{path} describes no MCUNet: {type(error).__name__} {error}') from error
  check(arch)
  return arch


def described(given: dict, resolution: int | None = None, channels: int = 3) -> Arch:
  """As `read`, from what the file says."""
  first, mixing = given['first_conv'], given.get('feature_mix_layer')
  stem = first['out_channels'], first['kernel_size'], first['stride']
  blocks, cin = [], stem[0]
  for one in given['blocks']:
    inner = one['mobile_inverted_conv']
    if inner['name'] == 'ZeroLayer':  # only the way around is left
      continue
    middle = inner.get('mid_channels') or round(cin * inner['expand_ratio'])
    middle = cin if inner['expand_ratio'] == 1 else middle
    blocks.append(Block(cin, middle, inner['out_channels'], inner['kernel_size'],
                        inner['stride'], bool(one['shortcut'])))  # fmt: skip
    cin = inner['out_channels']
  size = given['resolution'] if resolution is None else resolution
  head = mixing['out_channels'] if mixing else 0
  classes, separable = given['classifier']['out_features'], given.get('separable', False)
  return Arch(int(size), channels, stem, tuple(blocks), head, classes, bool(separable))


def description(arch: Arch) -> dict:
  """What the zoo's file of an Arch says; `described` gives the Arch back."""
  out, kernel, stride = arch.stem
  conv = lambda cin, cout, k, s: dict(
    name='ConvLayer', in_channels=cin, out_channels=cout, kernel_size=k, stride=s, use_bn=True,
    act_func='relu6', bias=False,
  )  # fmt: skip
  blocks = [
    dict(
      name='MobileInvertedResidualBlock',
      mobile_inverted_conv=dict(
        name='MBInvertedConvLayer', in_channels=b.cin, out_channels=b.out, kernel_size=b.kernel,
        stride=b.stride, expand_ratio=b.middle / b.cin, mid_channels=b.middle, act_func='relu6',
      ),
      shortcut=dict(name='IdentityLayer') if b.shortcut else None,
    )
    for b in arch.blocks
  ]  # fmt: skip
  last = arch.blocks[-1].out
  return dict(
    name='ProxylessNASNets', resolution=arch.resolution, separable=arch.separable,
    first_conv=conv(arch.channels, out, kernel, stride), blocks=blocks,
    feature_mix_layer=conv(last, arch.head, 1, 1) if arch.head else None,
    classifier=dict(name='LinearLayer', in_features=arch.head or last, out_features=arch.classes),
  )  # fmt: skip
