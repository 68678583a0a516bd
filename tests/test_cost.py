"""The columns of the before/after table, against numbers by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction import models, prune, tree
from reduction.cost import cost
from reduction.net import Net, create

KEYS = jnp.stack([jax.random.key(0), jax.random.key(1)])


def test_lenet_by_hand():
  row = cost(create(models.lenet(), KEYS, jnp.ones((1, 28, 28, 1))), jnp.ones((1, 28, 28, 1)))
  weights = 784 * 300 + 300 * 100 + 100 * 10
  assert row['macs'] == weights
  assert row['params'] == weights + 410
  assert list(row['nonzero']) == [weights] * 2  # biases begin at 0
  assert row['peak_sram'] == 4 * (784 + 300)  # the first layer's input and output
  dense = 4 * weights + 410 / 8  # biases that are 0 cost their bitmap
  assert abs(row['bytes'][0] - dense) <= 2


def test_pruned_leaves_are_values_and_a_bitmap():
  net = create(models.mlp(widths=()), KEYS, jnp.ones((1, 80)))
  cut = lambda w: prune.smallest(prune.magnitude(w), prune.all_kept(w), 0.75)
  masks = jax.vmap(cut)(net.params)
  row = cost(net.replace(masks=masks), jnp.ones((1, 80)))
  assert list(row['nonzero']) == [200, 200]
  assert list(row['bytes']) == [4 * 200 + 100 + 2] * 2  # 800 weights; 10 biases that are 0
  full = cost(net, jnp.ones((1, 80)))
  assert (row['energy_uj'] < full['energy_uj']).all() and row['macs'] == full['macs'] == 800


@pytest.mark.parametrize(
  'module, macs, largest',
  [
    # 3 -> 64 and 64 -> 64 at 32 x 32, then 16,384 -> 256 -> 256 -> 10
    (models.convnet(depth=2), 1024 * 9 * 64 * (3 + 64) + 256 * (16_384 + 256 + 10), 2 * 64 * 1024),
    # He et al. 2016 with 1 x 1 shortcuts; a block holds its input, a result and a sum of two
    (models.resnet(), 40_813_184, 2 * 16 * 1024),
  ],
)
def test_convolutions_of_any_form_count_the_same(module, macs, largest):
  x = jnp.ones((1, 32, 32, 3))
  row = cost(create(module, KEYS[:1], x), x)
  assert row['macs'] == macs
  assert 4 * largest <= row['peak_sram'] <= 4 * 2 * largest


def test_convolutions_count_a_kernel_for_each_output():
  class Conv(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
      return nn.Conv(8, (3, 3), strides=2, feature_group_count=2, name='c')(x)

  x = jnp.ones((1, 16, 16, 4))
  params = Conv().init(jax.random.key(0), x)['params']
  row = cost(Net(Conv(), tree.map(lambda w: w[None], params)), x)
  assert row['macs'] == 8 * 8 * 8 * 3 * 3 * 2
  assert row['peak_sram'] == 4 * (16 * 16 * 4 + 8 * 8 * 8)
  assert np.isfinite(row['energy_uj']).all()


@pytest.mark.parametrize('dtype, each', [('float32', 4.6), ('float16', 1.5), ('bfloat16', 1.5)])
def test_energy_is_of_the_numbers_that_are_multiplied(dtype, each):
  class Dense(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
      return nn.Dense(8, use_bias=False, dtype=dtype, name='d')(x)

  net = Net(Dense(), dict(d=dict(kernel=jnp.ones((1, 100, 8)))))
  row = cost(net, jnp.ones((1, 100)))
  # 800 products, and as many weights of 4 bytes at 160 picojoules each
  np.testing.assert_allclose(row['energy_uj'], (800 * each + 3_200 * 160) / 1e6, atol=1e-3)
