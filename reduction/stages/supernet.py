"""One-shot supernets: a space trained at once (Cai et al., ICLR 2020; Lin et al., NeurIPS 2020)."""

import jax
import jax.numpy as jnp
import numpy as np

from reduction.data.images import augmentation
from reduction.errors import require
from reduction.net import Net, create, over_replicas
from reduction.run import Run, Stage
from reduction.search import space as spaces
from reduction.search import supernet as s
from reduction.search.space import space as find_space
from reduction.train import check_schedule, train
from reduction.update import classified, sgd, start
from reduction.update import optimizer as build_optimizer

SEEN = 4, 250  # batches and images that statistics of a network are from
BESIDE = 10  # networks judged at a time


def supernet(
  *, space: dict, steps: int, batch: int, optimizer: dict, random: int = 2, every: int = 100,
  temperature: float = 1.0, phases: tuple[str, ...] = ('expansion',), transform: bool = False,
  augment: str | None = None,
) -> Stage:  # fmt: skip
  """Trains all networks of a space in one set of weights; returns the supernet.

  space: name and changes of `search.space.space`, of one resolution and width. random: networks
  drawn a step, beside the largest, which learns the labels, and the smallest; these learn the
  largest's outputs. phases: of `search.supernet.PHASES`, in order, each for `steps`: progressive
  shrinking is ('largest', 'kernel', 'depth', 'expansion'), and before channels become elastic they
  are sorted; one phase 'expansion' trains all at once. transform: learned matrices for smaller
  kernels. The net that comes is not looked at. Rows: 'curve', of the largest, and a 'supernet' for
  each phase: accuracy of the largest and the smallest.
  """
  check_schedule(steps=steps, batch=batch, every=every)
  whole = find_space(**space)
  module = s.elastic(whole, transform=transform)
  require(phases and all(p in s.PHASES for p in phases), f'{phases=}: of {", ".join(s.PHASES)}')
  require(random >= 0, f'{random=} must not be negative')
  tx, change = build_optimizer(**optimizer), augmentation(augment)
  update = sgd(s.sandwich(module, whole, random, temperature), tx)

  def stage(net: Net, run: Run) -> Net:
    check_data(whole, run.data)
    net = create(module, run.key('init', 0), run.data.train.x[:1])
    splits = jax.device_put(run.data.splits())
    watched = {n: splits[n] for n in ('validation',) if len(splits[n].y)}
    for number, phase in enumerate(phases):
      if phase == 'expansion' and number:
        params, stats = jax.vmap(lambda p, t: s.sorted_channels(whole, p, t))(net.params, net.stats)
        net = net.replace(params=params, stats=stats)
      low = jnp.tile(s.least(whole, phase), (len(run.seeds), 1))
      state = start(net.params, net.stats, None, tx, first=0)
      state, _ = train(
        update, classified(module), state, splits['train'], watched, run, steps=steps, batch=batch,
        every=every, augment=change or run.data.augment, given=({}, dict(low=low)), shuffle=number,
        name=f'train-{phase}' if len(phases) > 1 else 'train',
      )  # fmt: skip
      net = net.replace(params=state['params'], stats=state['stats'])
      small, large = (accuracies(net, run, g[None], 'test')[:, 0] for g in spaces.extremes(whole))
      run.log(
        kind='supernet', summary=True, seeds=run.seeds, phase=phase, steps=steps,
        networks=f'{whole.count():.3g}', smallest_test_accuracy=small,
        largest_test_accuracy=large,
      )  # fmt: skip
    return net

  return stage


def check_data(space, data):
  """Raises UsageError unless images are of the space's resolution, channels and classes."""
  shape = data.train.x.shape[1:]
  wanted = (space.resolutions[0],) * 2 + (space.channels,)
  require(shape == wanted, f'images of {data.name} are {shape}, networks of {space.name} {wanted}')
  require(space.classes == data.classes, f'{space.classes=}, but {data.name} has {data.classes}')


def accuracies(net: Net, run: Run, genes, split: str) -> np.ndarray:
  """float32 [R, n]: accuracy of networks [n, genes] of each supernet, statistics recalibrated."""
  seen = jnp.asarray(s.batches(run.data.train.x, *SEEN))
  part = jax.device_put(getattr(run.data, split))
  judge = over_replicas(s.judge(net.module), (None, None, 0, None, None))
  one = lambda r: jax.tree.map(lambda w: w[r], (net.params, net.stats))
  genes, found = np.asarray(genes, np.int32), []
  for first in range(0, len(genes), BESIDE):  # all of one shape, so that all are one program
    some = genes[first : first + BESIDE]
    filled = some if len(genes) <= BESIDE else np.resize(some, (BESIDE, genes.shape[1]))
    rows = [judge(*one(r), jnp.asarray(filled), seen, part) for r in range(len(run.seeds))]
    found.append(np.stack([row['accuracy'] for row in rows])[:, : len(some)])
  return np.concatenate(found, 1).astype(np.float32)
