"""EfficientNet's compound scaling: depth, width and resolution grow together (Tan & Le, ICML 2019).

depth alpha^phi, width beta^phi, resolution gamma^phi, where alpha beta^2 gamma^2 is about 2, so
that multiply-accumulates double with each phi.
"""

import math
from typing import NamedTuple

import numpy as np

from reduction.errors import require
from reduction.search.arch import Arch, Block, make_divisible


class Coefficients(NamedTuple):
  """alpha of depth, beta of width, gamma of resolution, each at least 1."""

  alpha: float
  beta: float
  gamma: float

  @property
  def growth(self) -> float:
    """Factor of multiply-accumulates for each phi, before rounding."""
    return self.alpha * self.beta**2 * self.gamma**2


PAPER = Coefficients(1.2, 1.1, 1.15)


def grid(step: float = 0.05, growth: float = 2.0, tolerance: float = 0.1) -> list[Coefficients]:
  """All coefficients on a grid from 1 whose growth is within tolerance of the wanted one."""
  require(step > 0 and growth > 1, f'{step=} must be above 0, {growth=} above 1')
  sides = [np.arange(1.0, growth ** (1 / power) + step, step) for power in (1, 2, 2)]
  every = (Coefficients(*map(float, np.round(one, 6))) for one in np.stack(
    np.meshgrid(*sides, indexing='ij'), -1).reshape(-1, 3))  # fmt: skip
  return [c for c in every if abs(c.growth - growth) <= tolerance]


def scaled(arch: Arch, coefficients: Coefficients, phi: float, *, multiple: int = 8) -> Arch:
  """A larger (phi > 0) or smaller network of the same family.

  A stage, the blocks from one that changes channels or stride to the next such, has its depth
  rounded up; channels become multiples of 8 and the resolution one of `multiple`.
  """
  deep, wide, fine = (c**phi for c in coefficients)
  width = lambda channels: make_divisible(channels * wide)
  stages: list[list[Block]] = []
  for block in arch.blocks:
    if stages and block.stride == 1 and block.cin == block.out:
      stages[-1].append(block)
    else:
      stages.append([block])
  blocks, cin = [], width(arch.stem[0])
  for stage in stages:
    for i in range(math.ceil(deep * len(stage) - 1e-9)):
      like, new = stage[min(i, len(stage) - 1)], i >= len(stage)
      stride, out = 1 if new else like.stride, width(like.out)
      middle = cin if like.middle == like.cin else round(cin * like.middle / like.cin)
      around = like.shortcut or (new and not arch.separable)
      shortcut = around and stride == 1 and cin == out
      blocks.append(Block(cin, middle, out, like.kernel, stride, shortcut))
      cin = out
  resolution = max(multiple, round(arch.resolution * fine / multiple) * multiple)
  stem = width(arch.stem[0]), *arch.stem[1:]
  head = width(arch.head) if arch.head else 0
  return arch._replace(resolution=resolution, stem=stem, blocks=tuple(blocks), head=head)


def family(arch: Arch, coefficients: Coefficients, phis) -> list[Arch]:
  """The networks of a family, one for each phi."""
  return [scaled(arch, coefficients, phi) for phi in phis]
