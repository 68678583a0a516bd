"""Deep mutual learning: two nets, each the other's teacher (Zhang et al. 2018, 1706.00384)."""

import functools

import jax

from reduction import losses
from reduction.net import apply
from reduction.update import Update, sgd


def mutual(a, b, tx, *, joint: bool = False) -> Update:
  """The update of modules a and b: each learns the labels, and KL(the other's softmax || its own).

  params and stats of the state: dict(a=, b=); tx: `matching.apart(a=, b=)` of the same that the
  state is started with; batch: (x, labels). Each net takes the other's output as it is, so that one
  step of both is a step of each; joint: the gradient goes into the other's output too. There is no
  temperature. Logged: 'a_hard_loss' and 'a_kl', the same for b. Sections 3.1 and 3.2.
  """
  return sgd(_both(a, b, joint), tx)


@functools.lru_cache(maxsize=64)
def _both(a, b, joint: bool):
  """The loss of a and b, a function for `update.sgd`."""
  modules = dict(a=a, b=b)

  def loss(params, stats, batch, key):
    x, labels = batch[:2]
    keys = dict(zip(modules, jax.random.split(key)))
    ran = {
      n: apply(module, params[n], stats[n], x, train=True, rngs={'dropout': keys[n]})
      for n, module in modules.items()
    }
    told = {}
    for own, other in ('a', 'b'), ('b', 'a'):
      logits, target = ran[own][0], ran[other][0]
      told[f'{own}_hard_loss'] = losses.cross_entropy(logits, labels)
      told[f'{own}_kl'] = losses.soft_divergence(logits, target, stop=not joint)
    return sum(told.values()), ({n: new for n, (_, new) in ran.items()}, told)

  return loss
