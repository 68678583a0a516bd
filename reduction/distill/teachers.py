"""Who teaches: nets of this run or of another, one for each student or all as an ensemble."""

import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from reduction import checkpoint, models, saved, tree
from reduction.distill import ensembles, targets
from reduction.errors import MissingInput, UsageError, require
from reduction.net import Net

MEMBERS = ('own', 'all')
BLOCK = 500  # inputs


def find(name: str, nets: dict[str, Net]) -> Net:
  """The net of that name: of an earlier stage, or what a run left in its workdir.

  name: a key of nets, or a workdir, with ':stage' for another than its last. Raises UsageError or
  MissingInput, naming what there is.
  """
  if name in nets:
    return nets[name]
  workdir, _, stage = name.partition(':')
  folder = pathlib.Path(workdir)
  if not (folder / 'config.json').is_file():
    known = ', '.join(nets) or 'none'
    what = f'{name!r} is no earlier stage ({known}) and no workdir of a run'
    raise MissingInput(what) if '/' in name else UsageError(what)
  stage = stage or checkpoint.read_json(folder / 'config.json')['stages'][-1]
  return saved.read(folder / 'nets' / stage, models)


def check(nets: Sequence[Net], replicas: int, members: str):
  """Raises UsageError where 'own' finds neither one replicate nor one for each student."""
  for net in nets:
    count = len(tree.leaves(net.params)[0])
    require(
      members == 'all' or count in (1, replicas),
      f'a teacher of {count} seeds cannot teach {replicas} students one each; '
      "members='all' makes an ensemble of them",
    )


def kept_logits(
  nets: Sequence[Net], x, replicas: int, *, members: str, mean: str, temperature, folder=None
) -> np.ndarray:
  """Logits [replicas, n, members, classes] on x; one member where temperature is a number.

  folder: where each teacher's logits are kept, or None.
  """
  each = [targets.logits(net, x, folder) for net in nets]  # [seeds, n, classes]
  rows = each
  if members == 'own':
    rows = [l if len(l) == replicas else np.broadcast_to(l, (replicas, *l.shape[1:])) for l in each]
    stacked = np.stack(rows, 1)  # [replicas, teachers, n, classes]
  else:
    stacked = np.concatenate(rows)[None]
  if not callable(temperature):
    stacked = jax.vmap(lambda l: ensembles.combined(l, temperature, mean=mean))(stacked)[:, None]
  found = np.moveaxis(np.asarray(stacked), 1, 2)
  return np.broadcast_to(found, (replicas, *found.shape[1:]))


def kept_top(
  nets: Sequence[Net],
  x,
  replicas: int,
  k: int,
  *,
  members: str,
  mean: str,
  temperature,
  folder=None,
) -> tuple[np.ndarray, np.ndarray]:
  """`ensembles.top` of the teachers as one: logits [replicas, n, k + 1], indices [replicas, n, k].

  Made from BLOCK inputs at a time, so that neither memory nor the folder, where they are kept or
  None, ever holds all classes. temperature: a number.
  """
  how = dict(members=members, mean=mean, temperature=temperature)
  rows = 1 if members == 'all' else replicas

  def compute():
    parts = []
    for i in range(0, len(x), BLOCK):
      here = kept_logits(nets, x[i : i + BLOCK], rows, **how)[:, :, 0]
      bins, indices = map(np.asarray, ensembles.top(jnp.asarray(here), k, temperature))
      kind = [('top', bins.dtype, bins.shape[2:]), ('indices', 'int32', indices.shape[2:])]
      parts.append(np.zeros(bins.shape[:2], kind))
      parts[-1]['top'], parts[-1]['indices'] = bins, indices
    return np.concatenate(parts, 1)

  found = targets.kept(compute, folder, nets, x, k=k, rows=rows, **how)
  placed = lambda part: np.broadcast_to(part, (replicas, *part.shape[1:]))
  return placed(found['top']), placed(found['indices'])


def live(nets: Sequence[Net], replicas: int, members: str) -> tuple:
  """For each net its (params, stats) [replicas, members, ...], to be applied to changed inputs."""

  def placed(x):
    if members == 'all' or len(x) == 1:
      return jnp.broadcast_to(x[None], (replicas, *x.shape))
    return x[:, None]

  kept = [(tree.keep(net.params, net.masks), net.stats) for net in nets]
  return tuple(tree.map(placed, variables) for variables in kept)
