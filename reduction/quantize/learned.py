"""AWQ whose scales are learned: gradient descent on the loss that the grid is searched by.

The grid of Lin et al. 2024 has one number for an input, the exponent; here each channel's scale is
free. Rounding is passed straight through: its error is held in steps of a group, and the step moves
with the scales, which is what there is to win.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from reduction import tree
from reduction.qtensor import Scheme, spread
from reduction.quantize.awq import GRID, Scales, candidate, centered, relative_errors, through, tied
from reduction.quantize.calibrate import Statistics
from reduction.quantize.rtn import grid, snapped

STEPS = 100
RATE = 0.05  # of Adam on the logarithms of scales, falling to 0 along a cosine


@functools.partial(jax.jit, static_argnames=('scheme', 'loss'))
def refined(
  kernels, statistics: Statistics, ties, found: Scales, *, scheme: Scheme, loss=relative_errors,
  on=None, held=None,
) -> Scales:  # fmt: skip
  """The scales of one input, learned from the best of the grid.

  found: by `awq.search`, which had the same arguments. The learned are kept only where their loss
  is no larger than that of the grid's best on the tokens that were searched, and smaller than that
  of found on those held back; otherwise found is.
  """
  on = statistics if on is None else on
  start = candidate(statistics.mean, found.losses.argmin() / GRID, ties)
  tx = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))
  scale_of = lambda logs: centered(jnp.exp(tied(logs, ties)))

  def smooth_loss(logs):
    return loss(through(kernels, scale_of(logs), scheme, straight), kernels, on)

  def step(carry, _):
    logs, state, least, best = carry
    value, slope = jax.value_and_grad(smooth_loss)(logs)
    least, best = tree.select(value < least, (value, logs), (least, best))
    updates, state = tx.update(slope, state)
    return (optax.apply_updates(logs, updates), state, least, best), None

  first = jnp.log(start)
  carry = first, tx.init(first), jnp.float32(jnp.inf), first
  (*_, logs), _ = jax.lax.scan(step, carry, length=STEPS)
  scale, judge = scale_of(logs), on if held is None else held
  loss_on = lambda on, scale: loss(through(kernels, scale, scheme, snapped), kernels, on)
  better = loss_on(on, scale) <= loss_on(on, start)
  better &= loss_on(judge, scale) < loss_on(judge, found.scale)
  return found._replace(scale=jnp.where(better, scale, found.scale))


def straight(w, scheme: Scheme) -> jax.Array:
  """`rtn.snapped` of w [rows, columns], whose gradient holds what rounding changes, in steps."""
  by = spread(grid(w, scheme).scale, scheme, len(w))
  steps = w / by
  rounded = jax.lax.stop_gradient(snapped(w, scheme) / by - steps)
  return (steps + rounded) * by
