"""From a trained net to int8: the same function within a step, the same decisions on digits."""

import importlib.util

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction import models, tree
from reduction.errors import DataError, UsageError
from reduction.mcu import emit, flatbuffer, from_flax, host, interpret, reader, writer
from reduction.mcu import trace as t
from reduction.mcu.plan import plan
from reduction.net import Net, all_kept, create
from reduction.qtensor import Scheme, unpack
from reduction.quantize.qat import Plan, finished, prepared
from tests.mcu import nets


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


class Excited(nn.Module):
  """Squeeze and excitation, swish, and a gate of its own shape, normalized."""

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.BatchNorm(use_running_average=not train)(nn.Conv(8, (3, 3))(x))
    x = nn.swish(x)
    squeezed = nn.relu(nn.Dense(4)(x.mean((1, 2))))
    x = x * nn.sigmoid(nn.Dense(8)(squeezed))[:, None, None]
    y = nn.Conv(4, (1, 1))(x.mean((1, 2), keepdims=True))
    x = nn.sigmoid(nn.Conv(8, (1, 1))(nn.relu(y))) * x
    return nn.Dense(5)(x.mean((1, 2)))


class Pixel(nn.Module):
  """The mean of one pixel, which divides by 1."""

  @nn.compact
  def __call__(self, x, train=False):
    return nn.Dense(5)(nn.relu(nn.Conv(8, (3, 3), (8, 8))(x)).mean((1, 2)))


MODULES = dict(
  pixel=Pixel(),
  excited=Excited(),
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


def test_the_mean_of_one_pixel_is_a_mean_and_nothing_else():
  net, x = made('pixel')
  layers = t.trace(tree.map(lambda w: w[0], net), x.shape[1:])
  assert [layer.kind for layer in layers] == ['input', 'conv', 'mean', 'dense']


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


@pytest.mark.parametrize('name', ['excited', 'mobile'])
def test_what_a_net_became_can_be_a_file_and_c(name):
  net, x = made(name, replicas=1)
  graph = from_flax.convert(net, x)
  codes = interpret.quantize(x[:4], graph.tensors[0])
  want = interpret.interpret(graph, codes)[0]
  if importlib.util.find_spec('tflite'):
    assert nets.same(reader.build(flatbuffer.parse(writer.write(graph), 'net')), graph)
  if importlib.util.find_spec('jinja2') and host.compiler():
    assert np.array_equal(host.run(emit.emit(graph, plan(graph)), graph, codes)[0], want)


def test_normalization_and_relu_leave_no_layer_of_their_own():
  net, x = made('resnet', replicas=1)
  kinds = [op.kind for op in from_flax.convert(net, x).ops]
  # 7 convolutions of blocks and 2 around shortcuts, as a resnet of 8 layers has them
  assert sorted(kinds) == sorted(['conv'] * 9 + ['add'] * 3 + ['mean', 'dense'])


def test_gates_are_layers_of_their_own():
  """Two squeezes of a mean, two dense or pointwise layers, a logistic and a product each."""
  net, x = made('excited', replicas=1)
  kinds = [op.kind for op in from_flax.convert(net, x).ops]
  assert kinds.count('mul') == kinds.count('lookup') == 3
  assert kinds.count('mean') == 3 and kinds.count('dense') == 3 and kinds.count('conv') == 3
  assert len(kinds) == 15


def test_ranges_that_were_learned_are_used():
  net, x = made('mlp')
  found = from_flax.convert(net, x, ranges=dict(dense1=(-1.0, 4.1), input=(0.0, 1.0)))
  seen = from_flax.convert(net, x)
  by_name = {t.name: t for t in found.tensors}
  assert by_name['dense1'].scale == np.float32(5.1 / 255) and by_name['dense1'].zero == -78
  assert by_name['input'].scale == np.float32(1 / 255) and by_name['input'].zero == -128
  assert found.tensors[2:] == seen.tensors[2:] and found.tensors[1] != seen.tensors[1]
  with pytest.raises(UsageError, match=r"ranges of 'dens1', .* Did you mean 'dense1'"):
    from_flax.convert(net, x, ranges=dict(dens1=(0, 1)))


class Normalized(nn.Module):
  """Linears whose outputs are normalized, one by negative factors, and one that is not packed."""

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Dense(12, name='a')(x.reshape(len(x), -1))
    x = nn.relu(nn.BatchNorm(use_running_average=not train, name='norm')(x))
    return nn.Dense(5, name='out')(nn.relu(nn.Dense(9, name='b')(x) * -0.5))


@pytest.mark.parametrize('bits, group, learned', [(4, 'channel', True), (8, 'tensor', False)])
def test_trained_steps_reach_the_graph_code_by_code(bits, group, learned):
  """What training in few bits rounded to is what runs, whatever is folded into it."""
  x = np.random.default_rng(0).uniform(0, 1, (40, 8, 8, 1)).astype(np.float32)
  net = create(Normalized(), jax.random.split(jax.random.key(0), 2), x[:1])
  scheme = Scheme(bits, group, symmetric=True)
  small = finished(prepared(net, Plan(scheme, ('a', 'b'), learned, 'float32')))
  factors = jnp.linspace(-2, 2, 12) + 0.1
  small.params['norm']['scale'] = jnp.stack([factors] * 2)
  graph = from_flax.convert(small, x, replica=1)
  a, b, out = graph.ops
  assert [op.kind for op in graph.ops] == ['dense'] * 3
  for op, name, by in ((a, 'a', np.asarray(factors)), (b, 'b', np.full(9, -0.5))):
    kernel = jax.tree.map(lambda w: w[1], small.params[name]['kernel'])
    codes = np.asarray(unpack(kernel.data, bits, kernel.rows)).astype(int) - scheme.middle
    assert np.array_equal(op.weights.T, codes * np.sign(by).astype(int))
    before, after = graph.tensors[op.inputs[0]].scale, graph.tensors[op.output].scale
    real = before * np.broadcast_to(kernel.scale[0], by.shape) * abs(by) / after
    np.testing.assert_allclose(op.multiplier * 2.0 ** (op.shift - 31), real, rtol=1e-4)
  assert np.abs(out.weights).max(1).tolist() == [127] * 5  # the one that was not packed
  want = np.asarray(jax.tree.map(lambda w: w[1], small)(x))
  assert np.abs(from_flax.logits(graph, x) - want).max() <= 0.05 * np.abs(want).max()


def test_steps_that_differ_within_an_output_are_refused():
  net, x = made('mlp')
  grouped = Plan(Scheme(4, 64, symmetric=True), ('fc1',))
  with pytest.raises(UsageError, match=r"fc1/kernel has .*; a symmetric one of group='channel'"):
    from_flax.convert(finished(prepared(net, grouped)), x)


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
