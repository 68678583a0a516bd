"""A generalist and specialists for classes it confuses, agreeing on every input.

Hinton, Vinyals & Dean 2015, section 5.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

STEPS = 30


class Specialists(nn.Module):
  """Asks those specialists that know one of the generalist's first classes, and finds q of eq. 5.

  generalist, specialists: modules; specialist m has logits for the classes sets[m], then one for
  all others, the dustbin, to which corrections[m] is added. asked: how many of the generalist's
  first classes count. x -> log q [n, classes].
  """

  generalist: nn.Module
  specialists: tuple[nn.Module, ...]
  sets: tuple[tuple[int, ...], ...]
  corrections: tuple[float, ...]
  asked: int = 1

  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Log-probabilities [n, classes]."""
    general = nn.softmax(self.generalist(x, train))
    classes = general.shape[-1]
    _, first = jax.lax.top_k(general, self.asked)
    special, active = [], []
    for module, members, correction in zip(self.specialists, self.sets, self.corrections):
      special.append(nn.softmax(module(x, train).at[:, -1].add(correction)))
      active.append(jnp.isin(first, jnp.array(members)).any(-1))
    masks = jnp.stack([jnp.zeros(classes, bool).at[jnp.array(m)].set(True) for m in self.sets])
    spread = [jnp.zeros((len(x), classes)).at[:, jnp.array(m)].set(p[:, :-1])
              for m, p in zip(self.sets, special)]  # fmt: skip
    dustbins = jnp.stack([p[:, -1] for p in special], 1)
    agree = jax.vmap(agreed, (0, 0, 0, None, 0))
    return jnp.log(agree(general, jnp.stack(spread, 1), dustbins, masks, jnp.stack(active, 1)))


def agreed(general, special, dustbins, masks, active, steps: int = STEPS) -> jax.Array:
  """q [classes] of the least KL(general, q) + sum over active m of KL(p_m, q as m sees it).

  general: [classes]. special: [specialists, classes], 0 outside of a specialist's classes masks
  [specialists, classes]; dustbins: [specialists], its probability of all others, which is compared
  with q's sum there. active: [specialists].
  The objective is convex in q, and at its minimum q is the mean of the distributions, each dustbin
  shared among its classes as q has them. Taking that mean again and again goes down monotonically
  (it is expectation maximization of a mixture) and needs no step size; with every class covered it
  arrives in one step at the arithmetic mean.
  """
  weights = active.astype(general.dtype)

  def step(q, _):
    outside = jnp.where(masks, 0.0, q)  # [specialists, classes]
    shares = outside / jnp.maximum(outside.sum(-1, keepdims=True), 1e-30)
    lifted = special + dustbins[:, None] * shares
    return (general + weights @ lifted) / (1 + weights.sum()), None

  return jax.lax.scan(step, general, length=steps)[0]
