"""Which weights of a whole net stay: structures, shares and rates, for each replicate its own."""

import re

import numpy as np

from reduction import tree
from reduction.errors import did_you_mean, require
from reduction.prune import channels, filterlet
from reduction.prune.channels import Structure
from reduction.prune.filterlet import STRUCTURES
from reduction.prune.importance import of_layers
from reduction.prune.masks import kept

OTHERS = 'pattern', 'N:M'  # as in '2:4'
SCOPES = 'global', 'normalized', 'layer'


def check(structure: str, share: float = 1.0):
  """Raises UsageError for a structure that is not known, or that cannot keep the share."""
  row = re.fullmatch(r'(\d+):(\d+)', structure)
  known = structure in (*STRUCTURES, 'pattern') or row
  require(known, f'{structure=} is unknown.{did_you_mean(structure, (*STRUCTURES, *OTHERS))}')
  require(0 < share <= 1, f'{share=} of the weights to keep must lie in (0, 1]')


def select(
  scores, masks, structure: str, net: Structure, share: float, *, scope: str = 'global',
  least: float = 0.05, filters: float = 0.0,
):  # fmt: skip
  """masks that keep `share` of the weights of plain convolutions, all that they ever had.

  scores, masks: trees like params, [R, ...]. structure: of `STRUCTURES`, 'pattern' (each 3 x 3
  kernel keeps 9 share places), or 'N:M', whose N the share says: 4 share of '2:4'. scope: 'global'
  ranks the blocks of all layers by score a weight, 'normalized' so too, with each layer's scores as
  shares of its sum, 'layer' those of each layer by themselves (where 'filter' keeps a share of the
  filters, hence about its square of the weights). filters: the share of whole filters that goes
  first, layer by layer (DTMM's beta; the rest of share is its alpha). Channels of which nothing is
  left are silenced, so that `channels.shrunk` changes no output.
  """
  check(structure, share)
  if scope == 'normalized':
    scores, scope = of_layers(scores), 'global'
  names = [leaf.removeprefix('params/') for leaf in net.convs]
  scores = {n: np.asarray(s) for n, s in tree.named(scores) if n in names}
  if structure == 'filter' and scope == 'global':
    return _narrowest(scores, masks, names, net, share, least)
  if filters or structure == 'filter':
    by_layer = 1 - filters if filters else share
    masks = _narrower(scores, masks, names, net, by_layer, 'layer', least)
  return (
    masks
    if structure == 'filter'
    else _each(lambda s, m: _one(s, m, structure, share, scope, least), scores, masks, names, net)
  )


def _each(cut, scores, masks, names, net):
  """masks cut replicate by replicate, and silenced where a channel has nothing left."""
  held = dict(tree.named(masks))
  after = [
    cut({n: scores[n][r] for n in names}, {n: np.asarray(held[n][r]) for n in names})
    for r in range(len(held[names[0]]))
  ]
  held |= {n: np.stack([one[n] for one in after]) for n in names}
  return _still(tree.unflatten(masks, list(held.values())), net)


def _still(masks, net: Structure):
  """masks in which filters that lost their last weight feed nothing."""
  gone = channels.dead(masks, net)
  return channels.silenced(masks, net, {i: ~g for i, g in gone.items() if g.any()})


def _narrower(scores, masks, names, net, share, scope, least):
  return _each(lambda s, m: _filters(s, m, net, share, scope, least), scores, masks, names, net)


def _narrowest(scores, masks, names, net, share, least):
  """The most filters with which `share` of the weights stays: what they feed goes with them."""
  if share == 1:
    return masks
  low, high, best = 0.0, 1.0, None
  for _ in range(12):  # to 1 / 4,096 of all weights
    middle = (low + high) / 2
    made = _narrower(scores, masks, names, net, middle, 'global', least)
    if kept(made, names) <= share:
      low, best = middle, made
    else:
      high = middle
  require(best is not None, f'{share=} is less than what {least=} of all filters hold')
  return best


def _one(scores, masks, structure, share, scope, least) -> dict:
  if structure == 'pattern':
    entries = lambda m: round(share * m.shape[0] * m.shape[1])
    return {n: filterlet.patterns(scores[n], m, entries(m)) if m.shape[:2] != (1, 1) else m
            for n, m in masks.items()}  # fmt: skip
  if structure not in STRUCTURES:
    size = int(structure.split(':')[1])
    few = max(1, round(share * size))
    return {n: filterlet.n_of_m(scores[n], m, few, size) for n, m in masks.items()}
  block = STRUCTURES[structure]
  if scope == 'layer':
    total = {n: filterlet.block_count(m.shape, block) for n, m in masks.items()}
    keep = {n: round(share * count) for n, count in total.items()}
    return filterlet.smallest_blocks(scores, masks, block, keep)
  live = {n: filterlet.alive(m, block) for n, m in masks.items()}
  units = {n: np.where(live[n], filterlet.sums(np.where(m, scores[n], 0), block), -np.inf)
           for n, m in masks.items()}  # fmt: skip
  sizes = {n: float(np.prod(block.over(m.shape))) for n, m in masks.items()}
  budget = share * sum(m.size for m in masks.values())
  return filterlet.smallest_blocks(
    scores, masks, block, filterlet.shares(units, sizes, budget, least)
  )


def _filters(scores, masks, net, share, scope, least) -> dict:
  """masks without whole filters: the least of each group of tied ones, by the sum of its terms."""
  units, sizes = {}, {}
  for i, group in enumerate(net.groups):
    leaves = [leaf.removeprefix('params/') for leaf in group.filters]
    total = sum(np.where(masks[n], scores[n], 0).sum((0, 1, 2)) for n in leaves)
    live = np.any([masks[n].any((0, 1, 2)) for n in leaves], 0)
    units[i] = np.where(live, total, -np.inf)
    sizes[i] = float(sum(np.prod(masks[n].shape[:3]) for n in leaves))
  if scope == 'layer':
    keep = {i: max(1, round(share * len(u))) for i, u in units.items()}
  else:
    rest = {n: m.size for n, m in masks.items()
            if not any(f'params/{n}' in g.filters for g in net.groups)}  # fmt: skip
    budget = share * sum(m.size for m in masks.values()) - sum(rest.values())
    keep = filterlet.shares(units, sizes, max(budget, 1), least)
  masks = dict(masks)
  for i, group in enumerate(net.groups):
    rank = np.argsort(np.argsort(-units[i], kind='stable'), kind='stable')
    for leaf in group.filters:
      name = leaf.removeprefix('params/')
      masks[name] = masks[name] & (rank < keep[i])
  return masks


def ranked(scores: dict, group) -> np.ndarray:
  """Channels of a group, those that matter most first: sums over all filters that make them."""
  leaves = (leaf.removeprefix('params/') for leaf in group.filters)
  return np.argsort(-sum(scores[n].sum((0, 1, 2)) for n in leaves), kind='stable')


def filterlets(kernel: int, filters: int, share: float) -> int:
  """How many a convolution of so many filters keeps: of 1 x 1 all, else the share, one at least."""
  return filters if kernel == 1 else max(1, round(share * kernel**2 * filters))


def by_layer(scores, masks, net: Structure, widths: dict, shares: dict):
  """masks of given channels and filterlets, each replicate's own best: DTMM's beta and alpha.

  widths: group -> channels to keep. shares: leaf of a convolution -> the share of the filterlets of
  the filters it keeps; of 1 x 1 convolutions only whole filters go.
  """
  scores = {n: np.asarray(s) for n, s in tree.named(scores)}
  replicas = range(len(next(iter(scores.values()))))
  one = [{n: s[r] for n, s in scores.items()} for r in replicas]
  stays = {
    i: np.stack([np.isin(np.arange(net.groups[i].size), ranked(s, net.groups[i])[:width])
                 for s in one])
    for i, width in widths.items()
  }  # fmt: skip
  made = channels.silenced(tree.map(np.asarray, masks), net, stays)
  held = dict(tree.named(made))
  for leaf, share in shares.items():
    name = leaf.removeprefix('params/')
    keep = [filterlets(m.shape[0], int(m.any((0, 1, 2)).sum()), share) for m in held[name]]
    cut = lambda s, m, k: filterlet.smallest_blocks(
      {0: s}, {0: m}, STRUCTURES['filterlet'], {0: k}
    )[0]
    held[name] = np.stack([cut(s[name], m, k) for s, m, k in zip(one, held[name], keep)])
  return _still(tree.unflatten(masks, list(held.values())), net)
