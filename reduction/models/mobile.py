"""Networks of inverted bottlenecks: one, and an elastic one that holds a whole space of them.

Sandler et al., MobileNetV2, CVPR 2018; Cai et al., Once-for-All, ICLR 2020.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from reduction.errors import require
from reduction.kernels.depthwise import convolve, reference
from reduction.models.layers import BatchNorm, Conv, Dense, glorot
from reduction.net import apply


class Depthwise(nn.Module):
  """A depthwise convolution 'kernel' [k, k, 1, c], padded by k // 2; choice: as `chosen_kernel`.

  To train, it takes the form that is faster; to run on a microcontroller it is read as XLA's.
  """

  kernel: int
  stride: int
  kernels: tuple[int, ...] = ()
  transform: bool = False

  @nn.compact
  def __call__(self, x, train: bool, choice=None):
    channels = x.shape[-1]
    w = self.param('kernel', glorot, (self.kernel, self.kernel, 1, channels))
    if choice is None:
      return (convolve if train else reference)(x, w, self.stride)
    matrices = {}
    for k in self.kernels[:-1] if self.transform else ():
      eye = lambda key, shape: jnp.eye(*shape)
      matrices[k] = self.param(f'transform_{k}', eye, (k * k, k * k))
    return convolve(x, chosen_kernel(w, self.kernels, choice, matrices), self.stride)


def smaller_kernels(w, kernels: tuple[int, ...], matrices: dict) -> list[jax.Array]:
  """The middle of w [K, K, 1, c] for each of kernels, the largest first, each from the one before.

  matrices: size -> [k k, k k], which a kernel of that size is multiplied by, none for identity.
  """
  found = [w]
  for k in reversed(kernels[:-1]):
    off = (found[-1].shape[0] - k) // 2
    middle = found[-1][off : off + k, off : off + k]
    if k in matrices:
      flat = middle.reshape(k * k, -1)
      middle = (matrices[k] @ flat).reshape(middle.shape)
    found.append(middle)
  return found


def chosen_kernel(w, kernels: tuple[int, ...], choice, matrices: dict) -> jax.Array:
  """The kernel of size kernels[choice], a traced index, within zeros of the shape of w."""
  found = smaller_kernels(w, kernels, matrices)
  around = lambda v: jnp.pad(v, (((w.shape[0] - v.shape[0]) // 2,) * 2,) * 2 + ((0, 0),) * 2)
  return jnp.stack([around(v) for v in found[::-1]])[choice]


class Mobile(nn.Module):
  """stem: (channels, kernel, stride). blocks: (cin, middle, out, kernel, stride, shortcut) each.

  separable: relu6 after a projection too, as DS-CNN has it. Layers 'stem', 'block1_expand',
  'block1_depthwise', 'block1_project' ... 'head', 'out', each but the last followed by a
  normalization '..._norm'; relu6 but after a projection.
  """

  stem: tuple[int, int, int]
  blocks: tuple[tuple[int, int, int, int, int, bool], ...]
  head: int
  classes: int
  separable: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """x: [n, h, w, channels] -> logits [n, classes]."""
    x = nn.relu6(_conv_norm(x, self.stem[0], 'stem', train, *self.stem[1:]))
    for i, (cin, middle, out, kernel, stride, shortcut) in enumerate(self.blocks, 1):
      start, name = x, f'block{i}'
      if middle != cin:
        x = nn.relu6(_conv_norm(x, middle, f'{name}_expand', train))
      x = Depthwise(kernel, stride, name=f'{name}_depthwise')(x, train)
      x = nn.relu6(_norm(x, f'{name}_depthwise', train))
      x = _conv_norm(x, out, f'{name}_project', train)
      x = nn.relu6(x) if self.separable else x
      x = x + start if shortcut else x
    if self.head:
      x = nn.relu6(_conv_norm(x, self.head, 'head', train))
    return Dense(self.classes, name='out')(x.mean((1, 2)))


class Shrunk(nn.Module):
  """A network, on images shrunk to side x side; larger ones are not made."""

  network: nn.Module
  side: int

  @property
  def classes(self) -> int:
    """Of the network."""
    return self.network.classes

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """x: [n, h, w, channels] -> logits [n, classes]."""
    n, *sides, channels = x.shape
    require(min(sides) >= self.side, f'{x.shape} has fewer than {self.side} pixels a side')
    return self.network(jax.image.resize(x, (n, self.side, self.side, channels), 'linear'), train)


def _norm(x, name, train):
  return BatchNorm(use_running_average=not train, name=f'{name}_norm')(x)


def _conv_norm(x, width, name, train, kernel=1, stride=1):
  pad = ((kernel // 2,) * 2,) * 2
  layer = Pointwise(width, name=name) if kernel == stride == 1 else Conv(
    width, (kernel, kernel), (stride, stride), pad, use_bias=False, name=name
  )
  return _norm(layer(x), name, train)


class Pointwise(nn.Module):
  """A 1 x 1 convolution 'kernel' [1, 1, cin, width] as one product of matrices."""

  width: int

  @nn.compact
  def __call__(self, x):
    return x @ self.param('kernel', glorot, (1, 1, x.shape[-1], self.width))[0, 0]


class Elastic(nn.Module):
  """All networks of a space in one set of weights: smaller kernels are the middle of the largest,
  fewer channels the first ones, fewer blocks the first of a stage.

  stem, head, classes: as of Mobile. first: width of a first block without expansion, 0: none.
  stages: (width, stride, depths) each. kernels, expansions: rise; (1,): as a separable Mobile.
  transform: smaller kernels are multiplied by a learned matrix (Once-for-All). Layers are named as
  those of the largest network.
  """

  stem: tuple[int, int, int]
  first: int
  stages: tuple[tuple[int, int, tuple[int, ...]], ...]
  kernels: tuple[int, ...]
  expansions: tuple[int, ...]
  head: int
  classes: int
  transform: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False, genes=None) -> jax.Array:
    """x: [n, h, w, channels] -> logits [n, classes].

    genes: int [genes], traced: of `search.space`, whose first two, resolution and width, mean
    nothing here; None is the largest network, at no cost for choosing.
    """
    at = 2 + len(self.stages)
    x = nn.relu6(_conv_norm(x, self.stem[0], 'stem', train, *self.stem[1:]))
    number = 0
    if self.first:
      number = 1
      x = Depthwise(3, 1, name='block1_depthwise')(x, train)
      x = nn.relu6(_norm(x, 'block1_depthwise', train))
      x = self._after(_conv_norm(x, self.first, 'block1_project', train))
    slot = 0
    for i, (width, stride, depths) in enumerate(self.stages):
      for j in range(depths[-1]):
        number, start = number + 1, x
        pick = None if genes is None else genes[at + 2 * slot : at + 2 * slot + 2]
        x = self._block(x, f'block{number}', train, width, 1 if j else stride, pick)
        if genes is not None and j >= depths[0]:
          x = jnp.where(j < jnp.array(depths)[genes[2 + i]], x, start)
        slot += 1
    if self.head:
      x = nn.relu6(_conv_norm(x, self.head, 'head', train))
    return Dense(self.classes, name='out')(x.mean((1, 2)))

  def _block(self, x, name, train, width, stride, pick):
    cin, start, most = x.shape[-1], x, self.expansions[-1]
    keep = lambda y: y
    if pick is not None:
      few = cin * jnp.array(self.expansions)[pick[1]]
      keep = lambda y: jnp.where(jnp.arange(cin * most) < few, y, 0.0)
    if most > 1:
      x = keep(nn.relu6(_conv_norm(x, cin * most, f'{name}_expand', train)))
    layer = Depthwise(self.kernels[-1], stride, self.kernels, self.transform,
                      name=f'{name}_depthwise')  # fmt: skip
    # at first, so that all its weights are made
    choice = len(self.kernels) - 1 if self.is_initializing() else None
    x = layer(x, train, choice if pick is None else pick[0])
    x = keep(nn.relu6(_norm(x, f'{name}_depthwise', train)))
    x = self._after(_conv_norm(x, width, f'{name}_project', train))
    return x + start if stride == 1 and cin == width and most > 1 else x

  def _after(self, x):
    return nn.relu6(x) if self.expansions == (1,) else x


def forward(module: Elastic, params, stats, x, genes, train: bool = False):
  """Logits of the network of genes; in training (logits, new stats)."""
  return apply(module, params, stats, x, train, genes=genes)


MOBILENET_V2 = (  # expansion, channels, blocks (table 2 of the paper)
  (1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1),
)  # fmt: skip


def mobilenetv2(
  *, width: float = 1.0, classes: int = 10, strides: tuple[int, ...] = (2, 1, 2, 2, 2, 1, 2, 1),
  head: int = 1280, stages: tuple[tuple[int, int, int], ...] = MOBILENET_V2,
) -> Mobile:  # fmt: skip
  """MobileNetV2 (Sandler et al. 2018): 3,504,872 parameters at width 1 and 1,000 classes.

  width: multiplies channels, to multiples of 8. strides: of the first convolution and the stages of
  blocks; fewer of 2 suit small images. head: channels of the last 1 x 1 convolution, 0: none.
  stages: (expansion, channels, blocks) each, by default those of the paper.
  """
  require(width > 0, f'{width=} must be above 0')
  wanted = 1 + len(stages)
  text = f'{strides=} must be {wanted}: of the first convolution and {wanted - 1} stages'
  require(len(strides) == wanted, text)
  rounded = lambda channels: _divisible(channels * width)
  stem = rounded(32)
  blocks, cin = [], stem
  for (expansion, channels, count), stage_stride in zip(stages, strides[1:]):
    out = rounded(channels)
    for j in range(count):
      stride = stage_stride if j == 0 else 1
      blocks.append((cin, cin * expansion, out, 3, stride, stride == 1 and cin == out))
      cin = out
  last = _divisible(head * max(width, 1.0)) if head else 0
  return Mobile((stem, 3, strides[0]), tuple(blocks), last, classes)


def _divisible(value: float) -> int:
  """See `search.arch.make_divisible`."""
  near = max(8, int(value + 4) // 8 * 8)
  return near + 8 if near < 0.9 * value else near
