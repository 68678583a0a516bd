"""`Space`, families of mobile networks, and its genes: integers that say which of each choice.

The genes of one network: [resolution, width, the depth of each stage, then for each place of a
block its kernel and its expansion]; each the index of a choice. Genes of places beyond a stage's
depth mean nothing and are 0 in canonical genes. All functions work on many networks [n, genes].
Spaces: Cai et al., Once-for-All, ICLR 2020; Lin et al., MCUNet, NeurIPS 2020.
"""

import dataclasses
import functools
import itertools
import math
from typing import NamedTuple

import numpy as np

from reduction.errors import UsageError, did_you_mean, require
from reduction.search.arch import Arch, Block, make_divisible


class Stage(NamedTuple):
  """Blocks of `width` channels at a width multiplier of 1, the first of stride `stride`."""

  width: int
  stride: int
  depths: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Space:
  """stem: (channels, kernel, stride). first: width of a first block without expansion, 0: none.

  head: channels of a last 1 x 1 convolution, 0: none; it grows with the width multiplier but does
  not shrink. resolutions, widths (multipliers), kernels, expansions, depths rise strictly.
  A block whose stride is 1 and whose channels stay has a shortcut, but for the first block.
  expansions=(1,): separable convolutions, as `Arch` has them.
  """

  name: str
  stages: tuple[Stage, ...]
  resolutions: tuple[int, ...]
  widths: tuple[float, ...] = (1.0,)
  kernels: tuple[int, ...] = (3, 5, 7)
  expansions: tuple[int, ...] = (3, 4, 6)
  stem: tuple[int, int, int] = (32, 3, 2)
  first: int = 16
  head: int = 0
  classes: int = 1000
  channels: int = 3

  def __post_init__(self):
    lists = dict(
      resolutions=self.resolutions, widths=self.widths, kernels=self.kernels,
      expansions=self.expansions, **{f'depths of stage {i}': s.depths for i, s in
                                     enumerate(self.stages)},
    )  # fmt: skip
    for name, values in lists.items():
      rising = all(a < b for a, b in itertools.pairwise(values))
      require(values and rising and values[0] > 0, f'{name}={values} must rise from above 0')
    require(all(k % 2 for k in self.kernels), f'kernels={self.kernels} must be odd')
    least = self.expansions[0]
    told = f'an expansion of {least} leaves the layer out: alone, as (1,), or begin with 2 or more'
    require(least > 1 or self.separable, told)
    require(all(r % 4 == 0 for r in self.resolutions), f'{self.resolutions=} must divide by 4')
    require(self.stages, f'space {self.name!r} has no stages')

  @property
  def separable(self) -> bool:
    """Whether no block expands."""
    return self.expansions == (1,)

  @property
  def slots(self) -> int:
    """Places for blocks, over all stages at their deepest."""
    return sum(stage.depths[-1] for stage in self.stages)

  def places(self) -> list[tuple[int, int]]:
    """(stage, index within it) of each place."""
    return [(i, j) for i, s in enumerate(self.stages) for j in range(s.depths[-1])]

  def choices(self) -> np.ndarray:
    """int [genes]: how many choices each gene has."""
    block = len(self.kernels), len(self.expansions)
    depths = (len(stage.depths) for stage in self.stages)
    return np.array([len(self.resolutions), len(self.widths), *depths, *block * self.slots])

  def count(self) -> int:
    """Different networks; a Python integer, exact."""
    block = len(self.kernels) * len(self.expansions)
    stages = (sum(block**d for d in stage.depths) for stage in self.stages)
    return len(self.resolutions) * len(self.widths) * math.prod(stages)

  def at(self, resolution: int, width: float) -> 'Space':
    """The space of one resolution and width multiplier."""
    return dataclasses.replace(self, resolutions=(resolution,), widths=(width,))

  def meaning(self, genes: np.ndarray) -> np.ndarray:
    """bool [n, genes]: which genes mean something."""
    here = np.repeat(active(self, genes), 2, axis=1)
    return np.concatenate([np.ones((len(genes), 2 + len(self.stages)), bool), here], 1)

  def width(self, base: int, multiplier: float) -> int:
    """Channels at a width multiplier: a multiple of 8."""
    return make_divisible(base * multiplier)


def split(space: Space, genes: np.ndarray):
  """(resolution, width [n], depths [n, stages], kernels, expansions [n, slots]) as indices."""
  stages = len(space.stages)
  blocks = genes[:, 2 + stages :].reshape(len(genes), space.slots, 2)
  return genes[:, 0], genes[:, 1], genes[:, 2 : 2 + stages], blocks[..., 0], blocks[..., 1]


def active(space: Space, genes: np.ndarray) -> np.ndarray:
  """bool [n, slots]: which places have a block."""
  depths = split(space, genes)[2]
  most = np.stack([np.array(s.depths)[depths[:, i]] for i, s in enumerate(space.stages)], 1)
  return np.stack([j < most[:, i] for i, j in space.places()], 1)


def canonical(space: Space, genes) -> np.ndarray:
  """Genes [n, genes] with 0 where they mean nothing. Raises UsageError for what is no choice."""
  genes, choices = np.atleast_2d(np.asarray(genes, np.int64)), space.choices()
  require(genes.shape[1] == len(choices), f'{genes.shape[1]} genes, not {len(choices)}')
  good = (genes >= 0) & (genes < choices)
  require(good.all(), f'genes {genes[~good.all(1)][:1].tolist()} are no choices of {space.name}')
  return genes * space.meaning(genes)


def sample(space: Space, random: np.random.Generator, count: int) -> np.ndarray:
  """int [count, genes]: every gene drawn evenly, as Once-for-All does."""
  choices = space.choices()
  return canonical(space, random.integers(0, choices, (count, len(choices))))


def extremes(space: Space) -> np.ndarray:
  """int [2, genes]: the smallest network, every choice the first, and the largest."""
  largest = space.choices() - 1
  return canonical(space, np.stack([np.zeros_like(largest), largest]))


def mutate(space: Space, genes: np.ndarray, rate: float, random) -> np.ndarray:
  """Draws each gene again with probability rate."""
  fresh = random.integers(0, space.choices(), genes.shape)
  return canonical(space, np.where(random.random(genes.shape) < rate, fresh, genes))


def cross(space: Space, mothers: np.ndarray, fathers: np.ndarray, random) -> np.ndarray:
  """Takes each gene from one of two parents, evenly."""
  return canonical(space, np.where(random.random(mothers.shape) < 0.5, mothers, fathers))


def enumerate_all(space: Space, most: int = 100_000) -> np.ndarray:
  """int [space.count(), genes]: every network once. Raises UsageError above `most`."""
  count = space.count()
  require(count <= most, f'{space.name} has {count:,} networks, above {most:,}: sample it')
  stages = []
  for stage in space.stages:
    block = np.array(np.meshgrid(range(len(space.kernels)), range(len(space.expansions)),
                                 indexing='ij')).reshape(2, -1).T  # fmt: skip
    rows = []
    for d, depth in enumerate(stage.depths):
      index = np.indices((len(block),) * depth).reshape(depth, -1).T
      filled = np.zeros((len(index), 2 * stage.depths[-1]), np.int64)
      filled[:, : 2 * depth] = block[index].reshape(len(index), -1)
      rows.append(np.concatenate([np.full((len(index), 1), d), filled], 1))
    stages.append(np.concatenate(rows))
  parts = [np.arange(len(space.resolutions))[:, None], np.arange(len(space.widths))[:, None]]
  index = np.indices([len(p) for p in (*parts, *stages)]).reshape(len(parts) + len(stages), -1)
  heads = [p[i] for p, i in zip((*parts, *stages), index)]
  return np.concatenate([*heads[:2], *(h[:, :1] for h in heads[2:]), *(h[:, 1:] for h in
                                                                       heads[2:])], 1)  # fmt: skip


def decode(space: Space, genes) -> Arch:
  """The network of one row of genes."""
  row = canonical(space, genes)
  resolution, width, _, kernels, expansions = (part[0] for part in split(space, row))
  multiplier = space.widths[width]
  stem = space.width(space.stem[0], multiplier)
  blocks, cin = [], stem
  if space.first:
    out = space.width(space.first, multiplier)
    blocks.append(Block(cin, cin, out, 3, 1, False))
    cin = out
  for (i, j), here, k, e in zip(space.places(), active(space, row)[0], kernels, expansions):
    if not here:
      continue
    stage = space.stages[i]
    stride, out = 1 if j else stage.stride, space.width(stage.width, multiplier)
    shortcut = stride == 1 and cin == out and not space.separable
    blocks.append(Block(cin, cin * space.expansions[e], out, space.kernels[k], stride, shortcut))
    cin = out
  head = space.width(space.head, max(multiplier, 1.0)) if space.head else 0
  return Arch(space.resolutions[resolution], space.channels, (stem, *space.stem[1:]),
              tuple(blocks), head, space.classes, space.separable)  # fmt: skip


def encode(space: Space, arch: Arch) -> np.ndarray:
  """int [genes] of a network of the space. Raises UsageError where it is none of its networks."""
  rest, depths, blocks = list(arch.blocks[bool(space.first) :]), [], []
  try:
    head = [space.resolutions.index(arch.resolution)]
    for stage in space.stages:  # a stage begins with its stride; a stride of 1 with other channels
      taken = [rest.pop(0)]
      while (
        rest
        and rest[0].stride == 1
        and rest[0].out == taken[0].out
        and (len(taken) < stage.depths[-1])
      ):
        taken.append(rest.pop(0))
      depths.append(stage.depths.index(len(taken)))
      places = [(space.kernels.index(b.kernel), space.expansions.index(b.middle // b.cin))
                for b in taken]  # fmt: skip
      places += [(0, 0)] * (stage.depths[-1] - len(taken))
      blocks += [index for place in places for index in place]
  except (ValueError, IndexError) as error:
    raise UsageError(f'{arch} is no network of the space {space.name}: {error}') from error
  for width in range(len(space.widths)):
    genes = np.array([*head, width, *depths, *blocks])
    if decode(space, genes) == arch:
      return genes
  raise UsageError(f'{arch} is no network of the space {space.name}: its widths are others')


def _stages(widths, strides, depths) -> tuple[Stage, ...]:
  return tuple(map(Stage, widths, strides, depths))


_DEEP = ((2, 3, 4),) * 5 + ((1,),)
_proxyless = functools.partial(
  Space, stages=_stages((24, 40, 80, 96, 192, 320), (2, 2, 2, 1, 2, 1), _DEEP)
)
GRID = dict(resolutions=tuple(range(48, 225, 16)), widths=tuple(round(w / 10, 1) for w in
                                                                range(2, 11)))  # fmt: skip
SPACES = {
  # 12 resolutions x 9 widths. The released networks have expansions of 5 too.
  'mcunet': _proxyless('mcunet', **GRID),
  'proxyless': _proxyless(
    'proxyless', resolutions=(128, 160, 192, 224), widths=(1.0, 1.3), head=1280
  ),
  # its sizes, with relu6 and without squeeze and excitation
  'mobilenetv3': Space(
    'mobilenetv3',
    _stages((24, 40, 80, 112, 160), (2, 2, 2, 1, 2), ((2, 3, 4),) * 5),
    resolutions=(128, 160, 192, 224),
    widths=(1.0, 1.2),
    stem=(16, 3, 2),
    head=960,
  ),
}


def space(name: str, **changed) -> Space:
  """A space of SPACES, with fields changed; stages as (width, stride, depths).

  Raises UsageError with a suggestion.
  """
  require(name in SPACES, f'space {name!r} is not known.{did_you_mean(name, SPACES)}')
  fields = {field.name for field in dataclasses.fields(Space)}
  for key in changed:
    require(key in fields, f'a space has no {key!r}.{did_you_mean(key, fields)}')
  if 'stages' in changed:
    changed['stages'] = tuple(Stage(*stage) for stage in changed['stages'])
  return dataclasses.replace(SPACES[name], **changed)
