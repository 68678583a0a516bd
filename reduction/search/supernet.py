"""A supernet: training of all its networks at once, statistics of one, and one taken out.

Cai et al., Once-for-All, ICLR 2020; sandwich rule and in-place distillation: Yu & Huang,
Universally Slimmable Networks, ICCV 2019, and Yu et al., BigNAS, ECCV 2020.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from reduction import losses, tree
from reduction.errors import require
from reduction.models.mobile import Elastic, Mobile, forward, smaller_kernels
from reduction.search import space as spaces
from reduction.search.arch import Arch
from reduction.search.space import Space

MOMENTUM = 0.9  # of `models.layers.BatchNorm`
PHASES = ('largest', 'kernel', 'depth', 'expansion')  # what is elastic grows by one each


def elastic(space: Space, *, transform: bool = False) -> Elastic:
  """The module of a space of one resolution and one width multiplier."""
  one = len(space.resolutions) == len(space.widths) == 1
  require(one, f'{space.name} has several resolutions or widths: a supernet has one, see tinynas')
  width = lambda base: space.width(base, space.widths[0])
  stages = tuple((width(s.width), s.stride, s.depths) for s in space.stages)
  return Elastic(
    (width(space.stem[0]), *space.stem[1:]), width(space.first) if space.first else 0, stages,
    space.kernels, space.expansions,
    space.width(space.head, max(space.widths[0], 1.0)) if space.head else 0, space.classes,
    transform,
  )  # fmt: skip


def least(space: Space, phase: str) -> np.ndarray:
  """int32 [genes]: the smallest index of each choice in a phase of progressive shrinking."""
  elastic_now = PHASES.index(phase)
  low = space.choices() - 1
  blocks = 2 + len(space.stages)
  if elastic_now >= 1:
    low[blocks::2] = 0
  if elastic_now >= 2:
    low[2:blocks] = 0
  if elastic_now >= 3:
    low[blocks + 1 :: 2] = 0
  return low.astype(np.int32)


@functools.lru_cache(maxsize=16)
def sandwich(module: Elastic, space: Space, random: int, temperature: float = 1.0):
  """The loss of a step of a supernet, for `update.sgd`; batch: (x, labels, dict(low=[genes])).

  The largest network learns the labels; the smallest and `random` drawn ones learn its outputs. One
  network is traced for all. low: as of `least`. Statistics are those of the largest.
  """
  choices = space.choices().astype(np.int32)

  def one(params, teacher, fixed, at):
    stats, x, labels = fixed
    index, chosen = at
    logits, new = forward(module, params, stats, x, chosen, train=True)
    hard = losses.cross_entropy(logits, labels)
    soft = losses.soft_cross_entropy(logits, teacher, temperature=temperature)
    teacher = jnp.where(index == 0, jax.lax.stop_gradient(logits), teacher)
    return jnp.where(index == 0, hard, soft), (teacher, (hard, new))

  def loss(params, stats, batch, key):
    x, labels, given = batch
    low = given['low']
    drawn = jax.random.randint(key, (random, len(choices)), low, choices)
    genes = jnp.concatenate([jnp.stack([choices - 1, low]), drawn])
    start = jnp.zeros((len(x), module.classes))
    each = jnp.arange(len(genes)), genes
    total, (hard, new) = in_turn(one, params, start, (stats, x, labels), each)
    told = dict(largest_loss=hard[0], smallest_loss=hard[1])
    return total, (tree.map(lambda s: s[0], new), told)

  return loss


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def in_turn(one, params, start, fixed, each):
  """(the sum of values, outs [n, ...]) of one(params, carry, fixed, each[i]) -> (value, (carry,
  out)). Differentiable by params: the gradient of one is added before the next begins, so that
  what it is made from is kept for one alone."""

  def step(carry, at):
    value, (carry, out) = one(params, carry, fixed, at)
    return carry, (value, out)

  values, outs = jax.lax.scan(step, start, each)[1]
  return values.sum(), outs


def _in_turn_forward(one, params, start, fixed, each):
  def step(state, at):
    carry, total = state
    (value, (carry, out)), slope = jax.value_and_grad(one, has_aux=True)(params, carry, fixed, at)
    return (carry, tree.map(jnp.add, total, slope)), (value, out)

  zero = tree.map(jnp.zeros_like, params)
  (_, total), (values, outs) = jax.lax.scan(step, (start, zero), each)
  return (values.sum(), outs), total


def _in_turn_backward(one, total, given):
  return tree.map(lambda slope: given[0] * slope, total), None, None, None


in_turn.defvjp(_in_turn_forward, _in_turn_backward)


def recalibrated(module: Elastic, params, stats, genes, x):
  """Statistics of normalization of one network: the mean over batches x [b, n, h, w, c]."""
  zero = tree.map(jnp.zeros_like, stats)

  def add(total, batch):
    _, new = forward(module, params, zero, batch, genes, train=True)
    return tree.map(lambda t, s: t + s / (1 - MOMENTUM) / len(x), total, new), None

  return jax.lax.scan(add, zero, x)[0]


@functools.lru_cache(maxsize=16)
def judge(module: Elastic, block: int = 500):
  """(params, stats, genes, x [b, n, h, w, c] to calibrate on, (x, labels)) -> dict(loss, accuracy)
  of one network with statistics of its own."""

  def judged(params, stats, genes, seen, split):
    stats = recalibrated(module, params, stats, genes, seen)
    x, labels = split
    size = next(b for b in range(min(block, len(x)), 0, -1) if len(x) % b == 0)
    parts = x.reshape(-1, size, *x.shape[1:]), labels.reshape(-1, size)

    def one(part):
      logits = forward(module, params, stats, part[0], genes)
      return losses.cross_entropy(logits, part[1]), losses.accuracy(logits, part[1])

    loss, accuracy = jax.lax.map(one, parts)
    return dict(loss=loss.mean(), accuracy=accuracy.mean())

  return judged


def batches(x, count: int, size: int) -> np.ndarray:
  """The first count x size examples (all, where there are fewer) as [count, size, ...]."""
  size = min(size, len(x))
  count = max(1, min(count, len(x) // size))
  return np.asarray(x[: count * size]).reshape(count, size, *x.shape[1:])


def network(arch: Arch) -> Mobile:
  """The module of an architecture."""
  blocks = tuple(map(tuple, arch.blocks))
  return Mobile(arch.stem, blocks, arch.head, arch.classes, arch.separable)


def extract(space: Space, params, stats, genes) -> tuple[dict, dict]:
  """(params, stats) of the `network` of genes, whose outputs are the supernet's.

  stats: of the largest, or of this network by `recalibrated`.
  """
  arch = spaces.decode(space, genes)
  row = spaces.canonical(space, genes)
  here, (_, _, _, kernels, _) = spaces.active(space, row)[0], spaces.split(space, row)
  first = int(bool(space.first))
  sources = list(range(1, first + 1)) + [first + 1 + s for s in np.flatnonzero(here)]
  slots = [None] * first + list(np.flatnonzero(here))
  new, new_stats = {}, {}
  for name in ('stem', 'head', 'out'):
    for part in (name, f'{name}_norm'):
      if part in params:
        new[part] = params[part]
      if part in stats:
        new_stats[part] = stats[part]
  for i, (source, slot, block) in enumerate(zip(sources, slots, arch.blocks), 1):
    old, name, m = f'block{source}', f'block{i}', block.middle
    if f'{old}_expand' in params:
      new[f'{name}_expand'] = {'kernel': params[f'{old}_expand']['kernel'][..., :m]}
    deep = params[f'{old}_depthwise']
    kernel = deep['kernel']
    if slot is not None:
      matrices = {k: deep[f'transform_{k}'] for k in space.kernels if f'transform_{k}' in deep}
      kernel = smaller_kernels(kernel, space.kernels, matrices)[::-1][kernels[0, slot]]
    new[f'{name}_depthwise'] = {'kernel': kernel[..., :m]}
    new[f'{name}_project'] = {'kernel': params[f'{old}_project']['kernel'][:, :, :m]}
    for part, width in (('expand', m), ('depthwise', m), ('project', block.out)):
      at = f'{old}_{part}_norm'
      if at in params:
        new[f'{name}_{part}_norm'] = {k: v[:width] for k, v in params[at].items()}
        new_stats[f'{name}_{part}_norm'] = {k: v[:width] for k, v in stats[at].items()}
  return new, new_stats


def sorted_channels(space: Space, params, stats):
  """(params, stats) with the channels inside each block in falling order of their weights in the
  projection (L1): what the largest network computes is the same, smaller ones keep what counts.
  Blocks of separable convolutions have no channels of their own."""
  if space.separable:
    return params, stats
  params, stats = dict(params), dict(stats)
  for number in range(1 + bool(space.first), 1 + bool(space.first) + space.slots):
    name = f'block{number}'
    project = params[f'{name}_project']['kernel']
    order = jnp.argsort(-jnp.abs(project).sum((0, 1, 3)), stable=True)
    params[f'{name}_expand'] = {'kernel': params[f'{name}_expand']['kernel'][..., order]}
    deep = params[f'{name}_depthwise']
    params[f'{name}_depthwise'] = dict(deep, kernel=deep['kernel'][..., order])
    params[f'{name}_project'] = {'kernel': project[:, :, order]}
    for part in (f'{name}_expand_norm', f'{name}_depthwise_norm'):
      params[part], stats[part] = (
        {k: v[order] for k, v in t[part].items()} for t in (params, stats)
      )
  return params, stats


@functools.lru_cache(maxsize=16)
def alone(module: Elastic):
  """The loss of one network trained by itself, for `update.sgd`; batch: (x, labels, dict(genes)).

  It trains within the arrays of a supernet, so that one program trains any network: of the rest of
  the weights nothing is read.
  """

  def loss(params, stats, batch, key):
    del key
    x, labels, given = batch
    logits, stats = forward(module, params, stats, x, given['genes'], train=True)
    return losses.cross_entropy(logits, labels), (stats, {})

  return loss
