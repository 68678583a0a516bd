"""Mutual learning: one update of two nets is two updates of one net each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction import losses, models, tree
from reduction.distill.matching import apart
from reduction.distill.mutual import mutual
from reduction.net import apply
from reduction.update import optimizer, sgd, start

A, B = models.mlp(widths=(16,), dropout=0.2), models.mlp(widths=(12,))
MODULES = dict(a=A, b=B)
# a step that depends on the whole net's gradient, and one that knows a layer's name
TX = dict(a=optimizer('adam', learning_rate=2e-2, max_norm=3.0),
          b=optimizer('sgd', learning_rate=0.1, momentum=0.9))  # fmt: skip
STEPS = 60


@pytest.fixture(scope='module')
def started(digits):
  """(params, batches, keys of the steps)."""
  rng = np.random.default_rng(0)
  draw = lambda s: jnp.asarray(rng.standard_normal(s.shape) * 0.2, s.dtype)
  shapes = {n: jax.eval_shape(m.init, jax.random.key(0), digits.train.x[:1])['params']
            for n, m in MODULES.items()}  # fmt: skip
  batches = tuple(v[: STEPS * 20].reshape(STEPS, 20, *v.shape[1:]) for v in digits.train)
  return tree.map(draw, shapes), batches, jax.random.split(jax.random.key(0), STEPS)


def begin(params, tx, stats):
  """The state of one replicate."""
  state = start(tree.map(lambda w: w[None], params), {}, None, tx)
  return dict(tree.map(lambda w: w[0], state), stats=stats)


def both(params, batches, keys, **settings):
  tx = apart(**TX)
  update = mutual(A, B, tx, **settings)
  state = begin(params, tx, dict(a={}, b={}))
  return jax.jit(lambda s: jax.lax.scan(lambda s, at: update(s, *at), s, (batches, keys)))(state)


def test_a_step_of_both_is_a_step_of_each_beside_what_the_other_said(started):
  params, batches, keys = started
  state, _ = both(*started)

  def alone(name, number):
    def loss(params, stats, batch, key):
      x, labels, target = batch
      logits, stats = apply(MODULES[name], params, stats, x, train=True, rngs={'dropout': key})
      kl = losses.soft_divergence(logits, target)
      return losses.cross_entropy(logits, labels) + kl, (stats, {})

    update = sgd(loss, TX[name])
    return lambda state, x, y, target, key: update(
      state, (x, y, target), jax.random.split(key)[number]
    )[0]

  updates = dict(a=alone('a', 0), b=alone('b', 1))

  def step(states, at):
    (x, y), key = at
    said = {
      n: apply(MODULES[n], states[n]['params'], {}, x, True, dict(dropout=jax.random.split(key)[i]))
      for i, n in enumerate(MODULES)
    }
    return {n: updates[n](states[n], x, y, said[other][0], key)
            for n, other in (('a', 'b'), ('b', 'a'))}, None  # fmt: skip

  states = {n: begin(params[n], TX[n], {}) for n in MODULES}
  states, _ = jax.jit(lambda s: jax.lax.scan(step, s, (batches, keys)))(states)
  for name in MODULES:
    for x, y in zip(*(tree.leaves(p) for p in (states[name]['params'], state['params'][name]))):
      np.testing.assert_allclose(x, y, atol=1e-4)


def test_two_nets_learn_from_labels_and_each_other(started):
  _, rows = both(*started)
  for name in ('loss', 'a_hard_loss', 'b_hard_loss'):
    assert rows[name][-10:].mean() < 0.8 * rows[name][:10].mean()
  parts = sum(rows[f'{net}_{part}'] for net in MODULES for part in ('hard_loss', 'kl'))
  np.testing.assert_allclose(parts, rows['loss'], rtol=1e-5)
  state, joint = both(*started, joint=True)
  np.testing.assert_allclose(joint['loss'][0], rows['loss'][0], rtol=1e-6)  # the same loss,
  assert not np.allclose(joint['loss'], rows['loss'], rtol=1e-3)  # another gradient
  assert all(np.isfinite(w).all() for w in tree.leaves(state['params']))
