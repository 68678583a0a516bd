"""Nets that start from another's weights: DistilBERT's student takes every second layer."""

import jax.numpy as jnp

from reduction import tree
from reduction.errors import did_you_mean, require
from reduction.net import Net, all_kept

FRESH = ('out',)


def inherit(net: Net, source: Net, *, layers: dict | None = None, fresh=FRESH) -> Net:
  """net with the weights of source, and its masks where it has some; each as in `adopted`."""
  known = dict(layers=layers, fresh=fresh)
  params = adopted(net.params, dict(tree.named(source.params)), **known)
  if source.masks is None:
    return net.replace(params=params)
  return net.replace(
    params=params, masks=adopted(all_kept(net.params), dict(tree.named(source.masks)), **known)
  )


def adopted(own, source: dict, *, layers: dict | None = None, fresh=FRESH):
  """The tree own, leaves [R, ...], with what source holds in their places.

  source: path -> array [R, ...], or [1, ...], which every replicate gets. layers: where a module
  has another name in source, {'layer1': 'layer3'}. fresh: modules that keep their own. Raises
  UsageError, with its name, where source lacks a leaf or holds it in another shape, and for a
  module that is not there.
  """
  layers, used = dict(layers or {}), set()

  def taken(path, w):
    module = next((m for m in (*layers, *fresh) if path.startswith(f'{m}/')), None)
    used.add(module)
    if module in fresh:
      return w
    theirs = path if module is None else layers[module] + path.removeprefix(module)
    require(
      theirs in source,
      f'{path} finds no {theirs!r} to start from; name its module in fresh, or in layers with the '
      f'other name.{did_you_mean(theirs, source)}',
    )
    given = source[theirs]
    require(
      given.shape[1:] == w.shape[1:] and len(given) in (1, len(w)),
      f'{path} is {list(w.shape)} with its replicates, but {theirs} is {list(given.shape)}',
    )
    return jnp.broadcast_to(given, w.shape)

  found = tree.map_named(taken, own)
  for module in (*layers, *fresh):
    require(module in used, f'no weight of the net is in {module!r}')
  return found
