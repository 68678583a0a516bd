"""What a search maximizes where accuracy and cost are both wanted, and a policy that learns to.

Tan et al., MnasNet, CVPR 2019; Williams, REINFORCE, 1992; Schulman et al., PPO, 2017.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from reduction.errors import require
from reduction.run import Run

SOFT = -0.07, -0.07  # alpha, beta: below and above the target; 5 % of accuracy for twice the speed
HARD = 0.0, -1.0
HOW = dict(soft=SOFT, hard=HARD)


def mnas(accuracy, cost, target: float, exponents: tuple[float, float] = SOFT):
  """accuracy * (cost / target)^w, w = alpha where cost <= target, else beta (equation 2)."""
  alpha, beta = exponents
  ratio = jnp.asarray(cost) / target
  return accuracy * ratio ** jnp.where(ratio <= 1, alpha, beta)


def rewarded(accuracy: np.ndarray, costs: dict, *, cost: str, target: float, how: str = 'soft'):
  """`mnas` of accuracies [n] by one of costs, each [n]; how: 'soft' or 'hard', as in the paper."""
  require(how in HOW, f'{how=} is not one of {", ".join(HOW)}')
  require(cost in costs, f'{cost=} is not one of {", ".join(costs)}')
  require(target > 0, f'{target=} must be above 0')
  return np.asarray(mnas(accuracy, costs[cost], target, HOW[how]), np.float64)


def reinforce(keys, rewards, run: Run, *, steps: int, **settings):
  """(logits [R, layers, operations], choices [R, steps, samples, layers]) of policies that learn.

  keys: [R]. rewards: [operations] * layers, the reward of each network: what training it would
  give. settings: of `policy`. A fold of run over steps, which resumes.
  """
  begin, update = policy(**settings)
  drawing = jax.vmap(lambda key: jax.random.split(key, steps))(keys)

  def step(carry, index: int, run):
    del run
    carry, drawn = update(carry, drawing[:, index], rewards)
    return carry, dict(drawn=np.asarray(drawn))

  first = begin(len(keys), rewards.ndim, rewards.shape[0])
  carry, outs = run.fold('policy', step, first, steps)
  return carry['logits'], np.stack([out['drawn'] for out in outs], 1)


@functools.lru_cache(maxsize=16)
def policy(
  *, samples: int = 8, rate: float = 0.1, decay: float = 0.9, epochs: int = 1, clip: float = 0.2
):
  """(begin, update) of a policy that chooses each layer's operation by a softmax of its own.

  begin: (R, layers, operations) -> state. update: (state, keys [R], rewards) -> (state, choices [R,
  samples, layers]): draws `samples` networks and goes along the gradient of log probability times
  advantage over a moving average, by Adam. epochs: steps along that gradient for the same draws;
  with more than one it is PPO, whose ratio of probabilities is clipped to 1 +- clip (with one the
  ratio is 1 and the gradient that of REINFORCE).
  """
  tx = optax.adam(rate)

  def begin(replicas: int, layers: int, operations: int) -> dict:
    logits = jnp.zeros((replicas, layers, operations))
    return dict(logits=logits, opt=jax.vmap(tx.init)(logits), baseline=jnp.full(replicas, jnp.nan))

  def update(state, key, rewards):
    logits, opt, baseline = state['logits'], state['opt'], state['baseline']
    drawn = jax.random.categorical(key, logits, shape=(samples, len(logits)))
    reward = rewards[tuple(drawn.T)]
    baseline = jnp.where(jnp.isnan(baseline), reward.mean(), baseline)

    places = jnp.arange(len(logits))
    chance = lambda logits: jax.nn.log_softmax(logits)[places, drawn].sum(1)
    before, advantage = chance(logits), reward - baseline

    def loss(logits):
      ratio = jnp.exp(chance(logits) - before)
      cut = jnp.clip(ratio, 1 - clip, 1 + clip)
      return -jnp.mean(jnp.minimum(ratio * advantage, cut * advantage))

    def along(state, _):
      logits, opt = state
      updates, opt = tx.update(jax.grad(loss)(logits), opt)
      return (optax.apply_updates(logits, updates), opt), None

    (logits, opt), _ = jax.lax.scan(along, (logits, opt), None, length=epochs)
    baseline = decay * baseline + (1 - decay) * reward.mean()
    return dict(logits=logits, opt=opt, baseline=baseline), drawn

  return begin, jax.jit(jax.vmap(update, (0, 0, None)))


def trained(drawn) -> int:
  """How many different networks a policy asked to be trained. drawn: int [..., layers]."""
  return len(np.unique(np.asarray(drawn).reshape(-1, np.shape(drawn)[-1]), axis=0))
