"""The networks have the papers' weights, shapes and behaviour in training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction import models, tree
from reduction.errors import UsageError
from reduction.models.layers import max_pool
from reduction.net import apply


def shapes(module, image=(32, 32, 3)):
  """Name -> shape of every weight."""
  init = lambda key: module.init(key, jnp.zeros((1, *image)), train=False)['params']
  return {name: leaf.shape for name, leaf in tree.named(jax.eval_shape(init, jax.random.key(0)))}


# Frankle & Carbin 2019, figure 2: weights in kernels, of them in convolutions
@pytest.mark.parametrize(
  'module, weights, convolutions',
  [
    (models.convnet(depth=2), 4_300_992, 38_592),
    (models.convnet(depth=4), 2_425_024, 259_776),
    (models.convnet(depth=6), 2_261_184, 1_144_512),
    (models.resnet(), 270_896, 270_256),
    (models.vgg19(), 20_024_000, 20_018_880),
  ],
)
def test_networks_have_the_paper_s_weights(module, weights, convolutions):
  kernels = [shape for name, shape in shapes(module).items() if name.endswith('kernel')]
  assert sum(map(np.prod, kernels)) == weights
  assert sum(np.prod(shape) for shape in kernels if len(shape) == 4) == convolutions


@pytest.mark.parametrize(
  'initializer, deviation', [('glorot', 2 / 700), ('lecun_normal', 1 / 400), ('he_normal', 2 / 400)]
)
def test_weights_begin_as_their_initializer_says(initializer, deviation):
  module = models.mlp(widths=(300,), classes=300, initializer=initializer)
  params = module.init(jax.random.key(0), jnp.zeros((1, 400)))['params']
  assert params['fc1']['kernel'].var() == pytest.approx(deviation, rel=0.05)
  assert not params['fc1']['bias'].any()
  with pytest.raises(UsageError, match="initializer='he_norm' is unknown"):
    models.mlp(widths=(3,), initializer='he_norm')


def test_resnet_20_has_20_layers_and_two_downsamplings():
  found = shapes(models.resnet())
  names = [n for n in found if n.endswith('kernel')]
  down = [n for n in names if 'downsample' in n]
  assert len(names) - len(down) == 20 and len(down) == 2
  assert sum(np.prod(found[n]) for n in (*down, 'out/kernel')) == 3_200


def test_first_weights_are_gaussian_glorot():
  start = jax.jit(models.convnet(depth=2).init)
  net = start(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))['params']
  for name, fans in (('conv2/kernel', 9 * 128), ('head/fc2/kernel', 512)):
    w = dict(tree.named(net))[name]
    assert float(w.std()) == pytest.approx((2 / fans) ** 0.5, rel=0.02)
    assert float(jnp.abs(w).max() / w.std()) > 3.2  # tails that a truncated normal lacks


@pytest.mark.parametrize('module', [models.resnet(layers=8, width=4), models.vgg19(width=4)])
def test_batch_statistics_move_in_training_alone(module):
  x = jax.random.uniform(jax.random.key(1), (8, 32, 32, 3))
  variables = module.init(jax.random.key(0), x, train=False)
  params, stats = variables['params'], variables['batch_stats']
  logits, new = apply(module, params, stats, x, train=True)
  assert logits.shape == (8, 10)
  assert any((a != b).any() for a, b in zip(tree.leaves(stats), tree.leaves(new)))
  assert apply(module, params, stats, x).shape == (8, 10)


def test_dropout_drops_in_training_alone():
  module = models.convnet(depth=2, width=4, widths=(32, 32), dropout=0.5)
  x = jax.random.uniform(jax.random.key(1), (4, 8, 8, 3))
  params = module.init(jax.random.key(0), x, train=False)['params']
  seen = [
    apply(module, params, {}, x, train=True, rngs=dict(dropout=jax.random.key(k)))[0]
    for k in (0, 0, 1)
  ]
  assert np.array_equal(seen[0], seen[1]) and not np.array_equal(seen[0], seen[2])
  assert np.array_equal(apply(module, params, {}, x), apply(module, params, {}, x))


def test_max_pool_is_flax_s():
  import flax.linen as nn

  x = jax.random.normal(jax.random.key(0), (2, 6, 4, 3))
  pooled = lambda f: jax.value_and_grad(lambda x: (f(x) ** 2).sum())(x)
  mine, flax = pooled(max_pool), pooled(lambda x: nn.max_pool(x, (2, 2), (2, 2)))
  np.testing.assert_allclose(mine[0], flax[0], rtol=1e-6)
  np.testing.assert_allclose(mine[1], flax[1], rtol=1e-6)


@pytest.mark.parametrize(
  'make, says',
  [
    (lambda: models.convnet(depth=3), 'depth=3 of a convnet is not 2, 4 or 6'),
    (lambda: models.convnet(depth=2, dropout=1.0), 'dropout=1.0 must lie'),
    (lambda: models.resnet(layers=18), 'layers=18 of a resnet must be 8, 14, 20'),
  ],
)
def test_settings_that_make_no_network_are_refused(make, says):
  with pytest.raises(UsageError, match=says):
    make()
