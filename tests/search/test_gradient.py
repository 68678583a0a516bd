"""Differentiable search: gates, the exact second order, rewards; by hand and in closed form."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction import models
from reduction.errors import UsageError
from reduction.models.choice import mixed
from reduction.run import Run
from reduction.search import gradient as g
from reduction.search import rewards
from reduction.search.paths import gates, networks, strongest

ALPHA = jnp.array([[0.0, 1.0, -1.0], [2.0, 0.0, 0.0]])


def test_gates_of_each_method():
  keys = jax.random.split(jax.random.key(0), 4_000)
  np.testing.assert_allclose(g.gates('darts', ALPHA, None, 1.0).sum(1), 1, rtol=1e-6)
  hard = jax.vmap(lambda k: g.gates('proxyless', ALPHA, k, 1.0))(keys)
  np.testing.assert_allclose(jnp.sort(hard, -1)[..., -1], 1, atol=1e-6)
  np.testing.assert_allclose(hard.sum(-1), 1, atol=1e-6)
  np.testing.assert_allclose(hard.mean(0), jax.nn.softmax(ALPHA), atol=0.03)
  cold = jax.vmap(lambda k: g.gates('fbnet', ALPHA, k, 1e-3))(keys)
  np.testing.assert_allclose(cold.mean(0), jax.nn.softmax(ALPHA), atol=0.03)  # Gumbel-max


def test_proxyless_gradient_is_equation_4():
  """dL/d alpha_i = sum_j dL/d g_j p_j (delta_ij - p_i)."""
  slopes = jnp.array([[1.0, -2.0, 3.0], [0.5, 0.0, 1.0]])
  weighted = lambda a: jnp.sum(slopes * g.gates('proxyless', a, jax.random.key(1), 1.0))
  found = jax.grad(weighted)(ALPHA)
  p = jax.nn.softmax(ALPHA)
  want = p * slopes - p * (p * slopes).sum(1, keepdims=True)
  np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)


def test_second_order_is_exact_on_quadratic_losses():
  """train = |w - A a|^2 / 2, valid = |w|^2 / 2 + c.a: w' = w - r (w - A a), d/da = r A' w' + c."""
  a_matrix = jnp.array([[1.0, 2.0], [0.0, -1.0]])
  c, w, a, rate = jnp.array([0.3, -0.2]), jnp.array([1.0, -3.0]), jnp.array([0.5, 2.0]), 0.1
  train = lambda w, a: jnp.sum((w - a_matrix @ a) ** 2) / 2
  valid = lambda w, a: jnp.sum(w**2) / 2 + c @ a
  ahead = w - rate * (w - a_matrix @ a)
  np.testing.assert_allclose(g.unrolled(train, valid, w, a, rate), rate * a_matrix.T @ ahead + c,
                             rtol=1e-5)  # fmt: skip
  np.testing.assert_allclose(g.unrolled(train, valid, w, a, 0.0), c)


def test_the_expected_cost_is_the_mean_over_drawn_networks():
  table = jnp.array([[1.0, 5.0, 2.0], [0.0, 3.0, 7.0]])
  drawn = jax.random.categorical(jax.random.key(0), ALPHA, shape=(20_000, 2))
  costs = table[jnp.arange(2), drawn].sum(1)
  assert abs(float(costs.mean()) - float(g.expected(ALPHA, table))) < 0.08


FBNET, PROXYLESS = g.METHODS.index('fbnet'), g.METHODS.index('proxyless')


def test_prices_by_hand():
  """Costs e^6 and e^12: the ratio of their logs is a half, of themselves e^-6."""
  cost, dearest = np.exp(6.0), np.exp(12.0)
  for push, wanted in (0.0, 3.0), (1.0, 1.5), (2.0, 0.75):
    assert float(g.priced(3.0, cost, push, dearest, FBNET)) == pytest.approx(wanted)
  assert float(g.priced(3.0, cost, 2.0, dearest, PROXYLESS)) == pytest.approx(3 + 2 * np.exp(-6))
  assert float(g.priced(3.0, cost, 0.0, dearest, g.METHODS.index('darts'))) == 3


def test_fbnet_s_price_is_equation_2_but_for_its_scale():
  """CE 0.2 log(LAT)^0.6 of any two losses and costs: the gradients differ by one factor."""
  paper = lambda loss, cost: loss * 0.2 * jnp.log(cost) ** 0.6
  ours = lambda loss, cost: g.priced(loss, cost, 0.6, 9e5, FBNET)
  points = (0.3, 2e5), (2.0, 9e5), (1.1, 4e5)
  ratios = [np.array(jax.grad(ours, (0, 1))(*at)) / np.array(jax.grad(paper, (0, 1))(*at))
            for at in points]  # fmt: skip
  np.testing.assert_allclose(ratios, np.full((3, 2), 1 / (0.2 * np.log(9e5) ** 0.6)), rtol=1e-4)


def test_the_price_of_what_is_drawn_has_the_gradient_of_the_expected_cost():
  """Of ProxylessNAS, whose gates' gradient is that of the probabilities."""
  table = jnp.array([[1.0, 5.0, 2.0], [0.0, 3.0, 7.0]])
  drawn = lambda a: (g.gates('proxyless', a, jax.random.key(2), 1.0) * table).sum()
  found, wanted = (jax.grad(f)(ALPHA) for f in (drawn, lambda a: g.expected(a, table)))
  np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_costs_that_are_shares_are_refused():
  """The table of a network whose dearest has 1: its logs are below 0, their powers no numbers."""
  shares = np.array([[0.1, 0.5], [0.0, 0.3]])
  with pytest.raises(UsageError, match='have no log above 0'):
    g.costing(shares, 0.2, 1.0)
  counts = g.costing(1e5 * shares, 2e4, 1e5)
  prices = [g.priced(1.0, counts['shared'] + c, 30.0, counts['dearest'], FBNET) for c in (1e4, 8e4)]
  assert 0 < prices[0] < prices[1] == 1


def test_one_gate_a_layer_is_the_net_of_that_operation():
  module = models.choice(operations=('skip', 'conv1'), layers=2, width=4)
  x = jnp.array(np.random.default_rng(0).normal(size=(3, 4, 4, 1)), jnp.float32)
  variables = jax.jit(module.init)(jax.random.key(0), x)
  params, stats = variables['params'], variables['batch_stats']
  gates = jnp.array([[1.0, 0.0], [0.0, 1.0]])
  run = jax.jit(lambda p: mixed(module, p, stats, x, gates))
  other = dict(params, conv1=params['conv1'].at[0].add(1))
  np.testing.assert_array_equal(run(params), run(other))  # which layer 1 does not take
  used = dict(params, conv1=params['conv1'].at[1].add(1))
  assert float(jnp.abs(run(params) - run(used)).max()) > 1e-3


CELL = models.choice(operations=('skip', 'conv1'), layers=3, width=4, kept=2)


def test_a_cell_has_the_edges_and_networks_of_darts():
  assert CELL.edges == ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
  paths = networks(CELL)
  assert len(set(map(tuple, paths))) == len(paths) == 2 * 2**2 * 3 * 2**2
  for to, kept in ((1, 1), (2, 2), (3, 2)):
    assert ((paths[:, CELL.into(to)] >= 0).sum(1) == kept).all()
  chain = models.choice(operations=('skip', 'conv1', 'conv3'), layers=2, width=4)
  assert chain.edges == ((0, 1), (1, 2))
  assert len(networks(chain)) == 9 and networks(chain).min() == 0


def test_the_strongest_edges_of_a_cell_stay_with_their_best_operations():
  """Softmax of (a, b) has its largest share at the larger |a - b|."""
  alpha = jnp.array([[0.0, 0.1], [9.0, 9.0], [5.0, 5.1], [1.0, 0.0], [0.0, 3.0], [7.0, 9.0]])
  assert strongest(CELL, alpha).tolist() == [1, 0, 1, -1, 1, 1]
  one = dataclasses.replace(CELL, kept=1)
  assert strongest(one, alpha).tolist() == [1, -1, 1, -1, 1, -1]
  np.testing.assert_array_equal(gates(CELL, [1, 0, -1, -1, 1, 1])[[0, 2]], [[0, 1], [0, 0]])


def test_a_cell_of_skips_adds_up_what_its_nodes_read():
  """Nodes of a cell that skips everywhere: s, s + s, then s + 2 s, beside each other."""
  x = jnp.array(np.random.default_rng(0).normal(size=(3, 4, 4, 1)), jnp.float32)
  variables = jax.jit(CELL.init)(jax.random.key(0), x)
  params, stats = variables['params'], variables['batch_stats']
  path = gates(CELL, [0, 0, 0, -1, 0, 0])
  found = mixed(CELL, params, stats, x, jnp.array(path))
  seen = jax.lax.conv_general_dilated(
    x, params['stem'], (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  stem = jax.nn.relu(seen / np.sqrt(1 + 1e-5)).mean((1, 2))
  nodes = jnp.concatenate([stem, 2 * stem, 3 * stem], -1)
  wanted = nodes @ params['out']['kernel'] + params['out']['bias']
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  'cost, soft, hard',
  [(50.0, 0.7 * 2**0.07, 0.7), (100.0, 0.7, 0.7), (200.0, 0.7 * 2**-0.07, 0.35)],
)
def test_mnasnet_s_rewards(cost, soft, hard):
  assert float(rewards.mnas(0.7, cost, 100.0)) == pytest.approx(soft)
  assert float(rewards.mnas(0.7, cost, 100.0, rewards.HARD)) == pytest.approx(hard)


def test_reinforce_finds_the_best_of_a_table():
  table = np.random.default_rng(0).uniform(0.5, 0.6, (4, 4, 4))
  table[2, 1, 3] = 0.9
  table[2, 1], table[2, :, 3] = table[2, 1] + 0.1, table[2, :, 3] + 0.1  # neighbors are good too
  keys = jax.random.key(0)[None]
  for epochs, steps in (1, 300), (4, 150):  # REINFORCE, PPO
    settings = dict(steps=steps, epochs=epochs)
    logits, drawn = rewards.reinforce(keys, jnp.array(table), Run(), **settings)
    assert tuple(logits[0].argmax(-1).tolist()) == np.unravel_index(table.argmax(), table.shape)
  assert 1 < rewards.trained(drawn) <= 64


def test_one_step_of_a_policy_is_adam_s_along_the_score_by_hand():
  """With one epoch nothing is clipped. Adam's first step is rate * the gradient's sign."""
  table = jnp.array(np.random.default_rng(3).normal(size=(3, 3)))
  keys = jax.random.split(jax.random.key(2), 1)
  settings = dict(steps=1, samples=5, rate=0.1)
  (logits,), ((drawn,),) = rewards.reinforce(keys, table, Run(), **settings)
  reward = table[drawn[:, 0], drawn[:, 1]]
  one_hot = jax.nn.one_hot(drawn, 3)
  score = ((one_hot - 1 / 3) * (reward - reward.mean())[:, None, None]).mean(0)
  np.testing.assert_allclose(logits, 0.1 * jnp.sign(score), atol=1e-4)


def test_settings_that_are_none_are_refused():
  with pytest.raises(UsageError, match="Did you mean 'conv1'"):
    models.choice(operations=('skip', 'con1'))
