"""What nets say of examples, and how often they are right."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from reduction import tree
from reduction.net import Net, apply, over_replicas


@functools.lru_cache(maxsize=64)
def predictor(module, block: int = 500):
  """(params, stats, x [n, ...]) -> logits [n, classes], made from `block` inputs at a time."""

  def predict(params, stats, x):
    whole, parts = len(x) // block * block, []
    if whole:
      blocks = x[:whole].reshape(-1, block, *x.shape[1:])
      found = jax.lax.map(lambda b: apply(module, params, stats, b), blocks)
      parts.append(found.reshape(whole, *found.shape[2:]))
    if whole < len(x):
      parts.append(apply(module, params, stats, x[whole:]))
    return jnp.concatenate(parts)

  return predict


def logits(net: Net, x) -> np.ndarray:
  """Logits [R, n, classes], float32, of every replicate of net on x [n, ...]."""
  found = over_replicas(predictor(net.module), (0, 0, None))(
    tree.keep(net.params, net.masks), net.stats, jnp.asarray(x)
  )
  return np.asarray(found, np.float32)


def scores(logits, labels, missing: tuple[int, ...] = (), *, split: str = 'test') -> dict:
  """test_accuracy [R], test_errors [R] and, of the classes missing, missing_accuracy [R].

  logits: [R, n, classes] on all examples of the split; labels: int [n].
  """
  labels = np.asarray(labels)
  right = np.asarray(logits).argmax(-1) == labels
  found = {
    f'{split}_accuracy': right.mean(1, dtype=np.float32),
    f'{split}_errors': (~right).sum(1),
  }
  if missing:
    of_these = np.isin(labels, missing)
    found['missing_accuracy'] = right[:, of_these].mean(1, dtype=np.float32)
  return found
