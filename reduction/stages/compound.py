"""EfficientNet: depth, width and resolution grow together (Tan & Le, ICML 2019)."""

import itertools

from reduction.errors import require
from reduction.models.mobile import Mobile, Shrunk
from reduction.net import Net, create
from reduction.predict import logits, scores
from reduction.run import Run, Stage
from reduction.search import scaling
from reduction.search.arch import Arch
from reduction.search.cost import cost, ops_of_arch
from reduction.search.supernet import network
from reduction.stages.tune import tune


def compound(
  *, resolution: int, phis: tuple[float, ...], steps: int, batch: int, optimizer: dict,
  step: float = 0.1, growth: float = 2.0, tolerance: float = 0.1, multiple: int = 4,
  every: int = 100, augment: str | None = None,
) -> Stage:  # fmt: skip
  """Finds how a network grows best, then grows it; returns the last network of the family.

  The net that comes is a `Mobile` (a model mobilenetv2), the smallest, on images shrunk to
  `resolution`. step, growth, tolerance: of `scaling.grid`, all the ways to about `growth` times its
  multiply-accumulates; each is trained, and the best by validation accuracy, the mean over seeds,
  gives the coefficients; ways that rounding makes equal are one, to the base none. phis: of the
  family, rising. multiple: what resolutions divide by. steps, batch, optimizer, every, augment: as
  for `tune`. Rows: 'scaled' for the base, each way ('grid') and the family: what grows by how much,
  costs and accuracies.
  """
  ways = scaling.grid(step, growth, tolerance)
  require(ways, f'no coefficients in steps of {step=} are within {tolerance=} of {growth=}')
  rising = all(a < b for a, b in itertools.pairwise((0.0, *phis)))
  require(phis and rising, f'{phis=} must rise from above 0')
  require(resolution > 0 and resolution % multiple == 0, f'{resolution=} must divide by {multiple}')
  train = tune(steps=steps, batch=batch, optimizer=optimizer, every=every, augment=augment)

  def stage(net: Net, run: Run) -> Net:
    base = described(net.module, resolution, run)
    trained(base, run.child('base'), train, role='base', phi=0.0)
    grown = {scaling.scaled(base, way, 1.0, multiple=multiple): way for way in reversed(ways)}
    grown.pop(base, None)
    require(grown, f'rounded to {multiple=} pixels and 8 channels no way changes {base}')
    found = {}
    for i, (arch, way) in enumerate(reversed(grown.items())):
      _, right = trained(arch, run.child(f'grid-{i}'), train, role='grid', phi=1.0, way=way)
      found[way] = right.mean()
    best = max(found, key=found.get)
    for i, phi in enumerate(phis):
      arch = scaling.scaled(base, best, phi, multiple=multiple)
      net, _ = trained(arch, run.child(f'family-{i}'), train, role='family', phi=phi, way=best)
    return net

  return stage


def described(module, resolution: int, run: Run) -> Arch:
  """The architecture of a module, on images of so many pixels a side."""
  require(isinstance(module, Mobile), f'{type(module).__name__} is no Mobile: model mobilenetv2')
  _, side, _, channels = run.data.train.x.shape
  require(resolution <= side, f'{resolution=} is above the {side} pixels of {run.data.name}')
  blocks = tuple(scaling.Block(*block) for block in module.blocks)
  return Arch(resolution, channels, module.stem, blocks, module.head, module.classes,
              module.separable)  # fmt: skip


def trained(arch: Arch, run: Run, train: Stage, *, role: str, phi: float, way=None):
  """(the network, its validation accuracy [R]) after its row."""
  x, side = run.data.train.x[:1], run.data.train.x.shape[1]
  told = f'{role} at {phi=}: {arch.resolution} pixels are more than the {side} of {run.data.name}'
  require(arch.resolution <= side, told)
  net = create(Shrunk(network(arch), arch.resolution), run.key('init', 0), x)
  net = train(net, run)
  right, found = {}, cost(ops_of_arch(arch))
  for part, split in (('validation', run.data.validation), ('test', run.data.test)):
    right |= scores(logits(net, split.x), split.y, split=part)
  ways = dict(zip(('alpha', 'beta', 'gamma'), way or (1.0, 1.0, 1.0)))
  run.log(
    kind='scaled', summary=True, seeds=run.seeds, role=role, phi=phi, **ways,
    resolution=arch.resolution, depth=len(arch.blocks), width=arch.blocks[-1].out,
    **{key: int(found[key][0]) for key in ('macs', 'params', 'flash', 'sram')},
    energy_uj=round(float(found['energy_uj'][0]), 4),
    **{f'{part}_accuracy': right[f'{part}_accuracy'] for part in ('validation', 'test')},
  )  # fmt: skip
  return net, right['validation_accuracy']
