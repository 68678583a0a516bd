"""Linear mode connectivity: how accuracy changes on the line between two trained nets."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from reduction import tree
from reduction.net import apply
from reduction.update import classified


@functools.lru_cache(maxsize=16)
def accuracies(module: nn.Module, points: int, batches: int = 50, batch: int = 256):
  """(params, params, stats, train x, split) -> accuracy [points] from the first net to the second.

  Batch statistics, where the module has some, are measured anew at every point on `batches` batches
  of training images: those of neither end fit in between. Frankle et al. 2020, section 2.
  """
  evaluate = classified(module)

  def measured(params, stats, x):
    count = min(batches, max(1, len(x) // batch))
    x = x[: count * batch].reshape(count, -1, *x.shape[1:])
    keys = dict(dropout=jax.random.key(0))
    step = lambda stats, images: (apply(module, params, stats, images, True, keys)[1], None)
    return jax.lax.scan(step, stats, x)[0]

  def along(first, second, stats, x, split):
    def point(share):
      params = tree.map(lambda a, b: (1 - share) * a + share * b, first, second)
      at = measured(params, stats, x) if tree.leaves(stats) else stats
      return evaluate(params, at, split)['accuracy']

    return jax.lax.map(point, jnp.linspace(0.0, 1.0, points))

  return along


def instability(accuracy) -> jax.Array:
  """The highest error on the line less the mean error of its ends. accuracy: [..., points].

  Stable, by the paper, is below 0.02.
  """
  return (accuracy[..., 0] + accuracy[..., -1]) / 2 - accuracy.min(-1)
