"""How much the loss depends on each weight: |w g| and its kin, batch by batch, on a fixed net.

The mean gradient vanishes near a minimum, so that |w g| of it says nothing there; the mean of each
batch's |w g|, or of its squares (the diagonal of Fisher's matrix), does not. Normalization runs by
its moving statistics: a score does not depend on what else is in the batch.
"""

import functools

import jax
import jax.numpy as jnp

from reduction import losses, tree
from reduction.net import apply

# of the weights, one batch's gradient
KINDS = {
  'taylor': lambda w, g: jnp.abs(w * g),
  'fisher': lambda w, g: jnp.square(w * g),
  'signed': lambda w, g: w * g,  # the authors': its mean is taken before its magnitude
  'magnitude': lambda w, g: jnp.abs(w),
}


@functools.lru_cache(maxsize=64)
def importance(module, kind: str):
  """(params, stats, x [batches, n, ...], labels [batches, n]) -> a tree like params, of scores.

  kind: of KINDS; params are those that masks keep. Molchanov et al. 2019, section 3.1.
  """
  score = KINDS[kind]

  def loss(params, stats, x, labels):
    return losses.cross_entropy(apply(module, params, stats, x), labels)

  def scores(params, stats, x, labels):
    def add(total, batch):
      grads = jax.grad(loss)(params, stats, *batch)
      return tree.map(lambda t, w, g: t + score(w, g), total, params, grads), None

    total, _ = jax.lax.scan(add, tree.map(jnp.zeros_like, params), (x, labels))
    return tree.map(lambda t: jnp.abs(t) / len(x), total)

  return scores


def of_layers(scores):
  """scores [R, ...] over their sum in each leaf: layers count alike, whatever their gradients.

  Molchanov et al. 2017 do so by each layer's l2 norm.
  """

  def share(values):
    total = values.sum(range(1, values.ndim), keepdims=True)
    return values / jnp.where(total == 0, 1, total)

  return tree.map(share, scores)
