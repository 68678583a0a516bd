"""Supermasks: the mask is trained and the weights are not.

Zhou et al., Deconstructing lottery tickets, NeurIPS 2019 (Bernoulli masks); Ramanujan et al.,
What's hidden in a randomly weighted neural network?, CVPR 2020 (edge-popup).
"""

import functools
import re

import jax
import jax.numpy as jnp

from reduction import losses, prune, tree
from reduction.errors import did_you_mean, require
from reduction.net import Net, apply, over_replicas
from reduction.prune import supermask as ways
from reduction.run import Run, Stage
from reduction.train import check_schedule, train
from reduction.update import classified, sgd, start
from reduction.update import optimizer as build_optimizer

WEIGHTS = ('first', 'signed_constant')


def supermask(
  *,
  steps: int,
  batch: int,
  optimizer: dict,
  every: int = 100,
  method: str = 'bernoulli',
  layers: str = 'kernel',
  kept: float = 0.5,
  weights: str = 'signed_constant',
  rescale: bool = False,
) -> Stage:
  """Learns which of the first weights to keep; no weight is trained.

  method: 'bernoulli' draws the mask anew each step from learned probabilities, and keeps in the end
  what is likelier than not; 'edge_popup' keeps the `kept` largest scores of each layer. layers: a
  pattern of the names of weights that are masked. weights: 'first' are those of the net,
  'signed_constant' their signs times the layer's deviation. rescale: weights are divided by the
  share of the layer that the mask keeps ('dynamic weight rescaling'). Returns the masked net, its
  weights rescaled where asked. Rows: 'curve', and one 'supermask'.
  """
  for name, value, known in ('method', method, SCORES), ('weights', weights, WEIGHTS):
    require(value in known, f'{name}={value!r} is unknown.{did_you_mean(value, known)}')
  require(0 < kept < 1, f'{kept=} must lie between 0 and 1')
  check_schedule(steps=steps, batch=batch, every=every)
  tx = build_optimizer(**optimizer)

  def stage(net: Net, run: Run) -> Net:
    splits = jax.device_put(run.data.splits())
    loss, evaluate, masked = learner(net.module, method, kept, rescale)
    fixed = net.params
    if weights == 'signed_constant':
      fixed = over_replicas(prune.signed_constant)(fixed)
    chosen = [name for name in tree.names(fixed) if re.search(layers, name)]
    require(chosen, f'{layers=} is in no name; the names: {", ".join(tree.names(fixed))}')
    fixed = tree.map_named(lambda n, w, first: w if n in chosen else first, fixed, net.params)
    fixed = tree.keep(fixed, net.masks)
    named = dict(tree.named(fixed))
    scores = over_replicas(SCORES[method])(run.key('mask', 0), {n: named[n] for n in chosen})
    state = dict(scores=scores, weights=fixed)
    # only scores move: to `sgd` the weights are as good as pruned, and frozen
    stay = tree.map(lambda w: jnp.zeros(w.shape, bool), fixed)
    moves = dict(scores=prune.all_kept(scores), weights=stay)
    last, best = train(
      sgd(loss, tx), evaluate, start(state, net.stats, moves, tx, frozen=True), splits['train'],
      dict(validation=splits['validation']), run, steps=steps, batch=batch, every=every,
    )  # fmt: skip
    params, masks = over_replicas(masked)(last['params'])
    if net.masks is not None:
      masks = tree.map(jnp.logical_and, masks, net.masks)
    found = net.replace(params=params, stats=last['stats'], masks=masks)
    score = over_replicas(classified(net.module), (0, 0, None))
    run.log(
      kind='supermask', summary=True, seeds=run.seeds, steps=steps, early_stop_step=best.step,
      kept=prune.kept(masks, chosen),
      test_accuracy=score(found.params, found.stats, splits['test'])['accuracy'],
    )  # fmt: skip
    return found

  return stage


def _even(key, named):
  """Scores of an even chance."""
  del key
  return tree.map(jnp.zeros_like, named)


def _uniform(key, named):
  """PyTorch's default for weights, which the authors take for scores: Kaiming with a = sqrt 5."""
  keys = jax.random.split(key, len(named))
  bound = lambda w: (w.size // w.shape[-1]) ** -0.5
  draw = lambda key, w: jax.random.uniform(key, w.shape, minval=-bound(w), maxval=bound(w))
  return {name: draw(key, w) for key, (name, w) in zip(keys, named.items())}


SCORES = dict(bernoulli=_even, edge_popup=_uniform)  # first scores by name


@functools.lru_cache(maxsize=16)
def learner(module, method: str, kept: float, rescale: bool):
  """(loss, evaluate, masked) of params dict(scores={name: ...}, weights=...)."""
  score = classified(module)

  def hard(scores):
    if method == 'bernoulli':
      return {name: s > 0 for name, s in scores.items()}
    return prune.smallest(prune.magnitude(scores), prune.all_kept(scores), 1 - kept)

  def under(weights, masks):
    def leaf(name, w):
      if name not in masks:
        return w
      mask = masks[name].astype(w.dtype)
      return w * mask / jnp.maximum(mask.mean(), 1 / mask.size) if rescale else w * mask

    return tree.map_named(leaf, weights)

  def loss(params, stats, batch, key):
    x, labels = batch
    keys = dict(zip(params['scores'], jax.random.split(key, len(params['scores']))))
    soft = {
      name: ways.bernoulli(keys[name], s) if method == 'bernoulli' else ways.top(s, kept)
      for name, s in params['scores'].items()
    }
    weights = under(jax.lax.stop_gradient(params['weights']), soft)
    logits, stats = apply(module, weights, stats, x, train=True, rngs=dict(dropout=key))
    return losses.cross_entropy(logits, labels), (stats, {})

  def masked(params):
    masks = hard(params['scores'])
    all_masks = tree.map_named(
      lambda name, w: masks.get(name, jnp.ones(w.shape, bool)), params['weights']
    )
    return under(params['weights'], masks), all_masks

  evaluate = lambda params, stats, split: score(masked(params)[0], stats, split)
  return loss, evaluate, masked
