"""Public examples, what clients say of them, and what they agree on: of FedMD."""

import jax
import jax.numpy as jnp
import numpy as np

from reduction.errors import require
from reduction.federate import clients
from reduction.predict import predictor
from reduction.run import Run


def set_apart(plan, public: int, run: Run):
  """(for each seed the examples of each client, public examples [R, public])."""
  y, owners, owned, shown = run.data.train.y, run.data.owners, [], []
  require(public < len(y), f'{public=} must be fewer than the {len(y)} training examples')
  for key in run.key('data', 2):
    rng = clients.generator(key)
    mixed = rng.permutation(len(y)) if public else np.arange(len(y))
    shown.append(mixed[:public])
    rest = np.sort(mixed[public:])
    parts = plan.split(y[rest], None if owners is None else owners[rest], rng)
    owned.append([rest[part] for part in parts])
  return owned, np.stack(shown)


def speaker(module):
  """(params, stats [C, ...], x) -> logits [C, n, classes]."""
  return jax.vmap(predictor(module), (0, 0, None))


def agreed(said) -> tuple[jax.Array, np.ndarray]:
  """(the mean [R, n, classes] of logits [R, C, n, classes], which clients' are finite [R, C])."""
  fine = jnp.isfinite(said).all((2, 3))
  total = jnp.where(like(fine, said), said, 0.0).sum(1)
  return total / like(jnp.maximum(fine.sum(1), 1), total), np.asarray(fine)


def like(flags, x):
  """flags with as many axes as x."""
  return flags.reshape(flags.shape + (1,) * (x.ndim - flags.ndim))
