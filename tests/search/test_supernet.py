"""A supernet's networks: taken out they compute the same; one program serves all; what is drawn."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction import tree
from reduction.errors import UsageError
from reduction.models import mobile
from reduction.models.mobile import forward
from reduction.net import apply
from reduction.search import space as s
from reduction.search import supernet
from tests.search.test_space import TINY

ONE = dataclasses.replace(TINY.at(8, 1.0), kernels=(1, 3))


compiled = functools.partial(jax.jit, static_argnums=0, static_argnames='train')
run = compiled(forward)
recalibrate = jax.jit(supernet.recalibrated, static_argnums=0)


def disturbed(variables, seed=0):
  """Variables none of which is 0 or 1 any more, variances still above 0."""
  random = np.random.default_rng(seed)

  def changed(name, w):
    low = 0.1 if name.endswith('/var') else -0.3
    return w + jnp.array(random.uniform(low, 0.3, w.shape), jnp.float32)

  return tree.map_named(changed, variables)


@pytest.fixture(scope='module')
def made():
  """made(space, transform) -> (module, params, stats, x) with weights that tell all apart."""

  def make(space=ONE, transform=True):
    module = supernet.elastic(space, transform=transform)
    x = jnp.array(np.random.default_rng(1).normal(size=(4, 8, 8, space.channels)), jnp.float32)
    variables = disturbed(jax.jit(module.init)(jax.random.key(0), x))
    return module, variables['params'], variables['batch_stats'], x

  return make


@pytest.mark.parametrize(
  'count, expansions, kernels, transform',
  [
    (2, (2, 3, 4), (1, 3), True), (1, (1,), (1, 3), True),
    pytest.param(48, (2, 3, 4), (1, 3), False, marks=pytest.mark.slow),
    pytest.param(48, (2, 4, 6), (1, 3, 5), True, marks=pytest.mark.slow),
    pytest.param(48, (1,), (1, 3, 5, 7), True, marks=pytest.mark.slow),
  ],
)  # fmt: skip
def test_networks_taken_out_compute_what_the_supernet_does(
  count, expansions, kernels, transform, made, monkeypatch
):
  # XLA's own convolutions, which are compiled once a shape when called op by op
  monkeypatch.setattr(mobile, 'Conv', nn.Conv)
  space = dataclasses.replace(ONE, head=24, expansions=expansions, kernels=kernels)
  module, params, stats, x = made(space, transform)
  random = np.random.default_rng(0)
  drawn = random.permutation(np.unique(s.sample(space, random, 4 * count), axis=0))[:count]
  assert len(drawn) == count
  genes = np.concatenate([s.extremes(space), drawn])
  traces = []

  @jax.jit
  def within(genes):
    traces.append(1)
    return forward(module, params, stats, x, genes)

  for row in genes:
    small = supernet.network(s.decode(space, row))
    new, new_stats = supernet.extract(space, params, stats, row)
    want = within(jnp.array(row))
    found = apply(small, new, new_stats, x)
    np.testing.assert_allclose(found, want, rtol=2e-4, atol=2e-4 * float(jnp.abs(want).max()))
  assert len(traces) == 1
  whole = compiled(apply)(module, params, stats, x)
  np.testing.assert_allclose(within(jnp.array(genes[1])), whole, rtol=1e-4)


def test_different_networks_give_different_outputs(made):
  module, params, stats, x = made()
  outputs = jax.jit(jax.vmap(lambda g: forward(module, params, stats, x, g)))(
    jnp.array(s.enumerate_all(ONE))
  )
  flat = np.asarray(outputs).reshape(len(outputs), -1)
  apart = np.abs(flat[:, None] - flat[None]).max(-1) + np.eye(len(flat))
  assert apart.min() > 1e-4


def test_sorted_channels_change_only_smaller_networks(made):
  module, params, stats, x = made()
  ordered = supernet.sorted_channels(ONE, params, stats)
  want = compiled(apply)(module, params, stats, x)
  np.testing.assert_allclose(compiled(apply)(module, *ordered, x), want, rtol=1e-3, atol=1e-4)
  smallest = jnp.array(s.extremes(ONE)[0])
  before, after = (run(module, *v, x, smallest) for v in ((params, stats), ordered))
  assert float(jnp.abs(before - after).max()) > 1e-3
  norms = jnp.abs(ordered[0]['block2_project']['kernel']).sum((0, 1, 3))
  assert bool((jnp.diff(norms) <= 0).all())


def test_recalibrated_statistics_are_the_mean_of_batches(made):
  module, params, stats, x = made()
  genes = jnp.array(s.extremes(ONE)[0])
  seen = jnp.stack([x, 2 * x])
  found = recalibrate(module, params, stats, genes, seen)
  stem = jax.lax.conv_general_dilated(
    seen.reshape(-1, *x.shape[1:]), params['stem']['kernel'], (1, 1), ((1, 1), (1, 1)),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  ).reshape(2, -1, 8)  # fmt: skip
  np.testing.assert_allclose(found['stem_norm']['mean'], stem.mean(1).mean(0), rtol=1e-3, atol=1e-5)
  np.testing.assert_allclose(found['stem_norm']['var'], stem.var(1).mean(0), rtol=1e-3)
  # evaluated on the batch it was calibrated on, a network computes what it does in training
  one = recalibrate(module, params, stats, genes, x[None])
  trained, _ = run(module, params, stats, x, genes, train=True)
  np.testing.assert_allclose(run(module, params, one, x, genes), trained, rtol=1e-3, atol=1e-4)


def test_a_sandwich_s_gradient_is_the_sum_of_its_networks(made):
  module, params, stats, x = made()
  labels = jnp.arange(4)
  loss = supernet.sandwich(module, ONE, 0)
  low = jnp.array(supernet.least(ONE, 'expansion'))
  found, (new, told) = jax.jit(loss)(params, stats, (x, labels, dict(low=low)), jax.random.key(0))
  small, large = map(jnp.array, s.extremes(ONE))
  teacher, large_stats = run(module, params, stats, x, large, train=True)
  student, _ = run(module, params, stats, x, low, train=True)
  hard = -jax.nn.log_softmax(teacher)[jnp.arange(4), labels].mean()
  soft = -(jax.nn.softmax(teacher) * jax.nn.log_softmax(student)).sum(-1).mean()
  np.testing.assert_allclose(found, hard + soft, rtol=1e-4)
  np.testing.assert_allclose(told['largest_loss'], hard, rtol=1e-4)
  np.testing.assert_allclose(new['stem_norm']['mean'], large_stats['stem_norm']['mean'], rtol=1e-4)
  np.testing.assert_array_equal(low[2:4], small[2:4])


def test_phases_make_one_more_choice_elastic_each():
  low = {phase: supernet.least(ONE, phase) for phase in supernet.PHASES}
  choices = ONE.choices() - 1
  np.testing.assert_array_equal(low['largest'], choices)
  for phase, sizes in dict(kernel=(1, 1, 0), depth=(1, 0, 0), expansion=(0, 0, 0)).items():
    expansion, depth, kernel = sizes
    wanted = [0, 0, depth, 0, *(kernel, expansion) * 3]
    assert low[phase].tolist() == wanted, phase


def test_a_supernet_has_one_resolution():
  with pytest.raises(UsageError, match='several resolutions'):
    supernet.elastic(TINY)
