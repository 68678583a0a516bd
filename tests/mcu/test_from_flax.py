"""From a trained net to int8: the same function within a step, the same decisions on digits."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction import models, tree
from reduction.errors import DataError, UsageError
from reduction.mcu import from_flax
from reduction.mcu import trace as t
from reduction.net import Net, all_kept, create


class Mobile(nn.Module):
  """Everything that a trace must know: depthwise, relu6, normalization before and after."""

  @nn.compact
  def __call__(self, x, train=False):
    norm = lambda y: nn.BatchNorm(use_running_average=not train)(y)
    x = nn.relu6(norm(nn.Conv(8, (3, 3), (2, 2), use_bias=False)(norm(x))))
    y = nn.relu6(norm(nn.Conv(8, (3, 3), feature_group_count=8)(nn.Conv(8, (1, 1))(x))))
    x = nn.max_pool(x + norm(y), (2, 2), (2, 2))
    x = nn.relu(norm(nn.Dense(12)(x)) - 0.1)
    return nn.Dense(5)(x.mean((1, 2)) / 2.0)


MODULES = dict(
  resnet=models.resnet(layers=8, width=8),
  convnet=models.convnet(depth=2, width=4, widths=(16,)),
  mlp=models.mlp(widths=(20, 12)),
  mobile=Mobile(),
)


def made(name, replicas=2, seed=0):
  """(net [R] with moving statistics that are not the first ones, images)."""
  x = np.random.default_rng(seed).uniform(0, 1, (32, 8, 8, 3)).astype(np.float32)
  net = create(MODULES[name], jax.random.split(jax.random.key(seed), replicas), x[:1])
  moved = lambda w: w + 0.1 * jax.random.uniform(jax.random.key(1), w.shape)
  return net.replace(stats=tree.map(moved, net.stats)), x


def output(net, x, replica):
  one = tree.map(lambda w: w[replica], net)
  return np.asarray(one(x))


@pytest.mark.parametrize('name', MODULES)
def test_the_layers_found_compute_what_the_module_does(name):
  net, x = made(name)
  one = tree.map(lambda w: w[1], net)
  layers = t.trace(one, x.shape[1:])
  found = from_flax.evaluate(layers, x)[-1].reshape(len(x), -1)
  np.testing.assert_allclose(found, output(net, x, 1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('name', MODULES)
def test_int8_is_near_the_float_net(name):
  net, x = made(name)
  want = output(net, x, 1)
  graph = from_flax.convert(net, x, replica=1)
  found = from_flax.logits(graph, x)
  assert np.abs(found - want).max() <= 0.1 * np.abs(want).max()
  assert np.corrcoef(found.ravel(), want.ravel())[0, 1] > 0.99


def test_normalization_and_relu_leave_no_layer_of_their_own():
  net, x = made('resnet', replicas=1)
  kinds = [op.kind for op in from_flax.convert(net, x).ops]
  # 7 convolutions of blocks and 2 around shortcuts, as a resnet of 8 layers has them
  assert sorted(kinds) == sorted(['conv'] * 9 + ['add'] * 3 + ['mean', 'dense'])


def test_what_masks_prune_is_a_code_of_0():
  net, x = made('mlp')
  masks = tree.map(lambda m: m.at[:, ::2].set(False) if m.ndim == 3 else m, all_kept(net.params))
  graph = from_flax.convert(net.replace(masks=masks), x)
  for op in graph.ops:
    assert not op.weights[:, ::2].any() and op.weights[:, 1::2].any()


def test_weights_by_channel_by_hand():
  codes, scales = from_flax.per_channel(np.array([[1.0, -0.5, 0], [-2.54, 0.25, 0]], np.float32))
  assert codes.tolist() == [[50, -127, 0], [-127, 64, 0]]
  np.testing.assert_allclose(scales, [0.02, 0.5 / 127, 1])


def test_a_range_holds_0_exactly():
  for least, most in ((-1.0, 3.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 0.0)):
    layer = t.Layer('input', (), (1, 1, 2))
    tensor = from_flax._tensor('x', layer, np.array([least, most]))
    assert tensor.scale * 255 == pytest.approx(max(most, 0) - min(least, 0), abs=1e-5)
    assert -128 <= tensor.zero <= 127


class Odd(nn.Module):
  """An operation that no layer has."""

  @nn.compact
  def __call__(self, x, train=False):
    return nn.Dense(2)(jnp.sin(x).reshape(len(x), -1))


def test_an_operation_without_a_layer_is_named():
  x = np.zeros((2, 4, 4, 1), np.float32)
  with pytest.raises(UsageError, match='sin has no layer on a microcontroller'):
    from_flax.convert(create(Odd(), jax.random.key(0)[None], x[:1]), x)


def test_values_that_are_not_finite_are_refused():
  net, x = made('mlp')
  bad = tree.map(lambda w: w * jnp.nan, net.params)
  with pytest.raises(DataError, match='finite'):
    from_flax.convert(Net(net.module, bad), x)
