"""Floats that compute as integers do: the interpreter's codes, gradients straight through."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction import models, saved, tree
from reduction.errors import UsageError
from reduction.mcu import from_flax, interpret, rounded, trace
from reduction.mcu.layers import Layer, evaluate, names
from reduction.net import all_kept, create
from tests.mcu.test_from_flax import made

SPANS = [(-1.0, 3.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 0.0), (-0.37, 6.0)]


def one_of(net, replica=1):
  return jax.tree.map(lambda w: w[replica], net)


def test_gradients_pass_inside_a_range_and_stop_beyond_it():
  """Range -1 to 1.55: scale 0.01, zero point -28; codes end at -100 and 155 hundredths."""
  scale, zero = rounded.grid(jnp.array([-1.0, 1.55]))
  assert scale == pytest.approx(0.01) and zero == -28
  x = jnp.array([-1.2, -1.006, -1.004, -0.3337, 0.0, 0.012, 1.554, 1.556, 3.0])
  value, slope = jax.value_and_grad(lambda x: rounded.codes(x, scale, zero).sum() * scale)(x)
  found = rounded.codes(x, scale, zero)
  assert found.tolist() == [-100, -100, -100, -33, 0, 1, 155, 155, 155]
  assert value == pytest.approx(float(found.sum()) * 0.01, rel=1e-5)
  np.testing.assert_allclose(slope, [0, 0, 1, 1, 1, 1, 1, 0, 0], atol=1e-6)


@pytest.mark.parametrize('span', SPANS)
def test_ranges_hold_0_and_are_those_of_deployment(span):
  scale, zero = rounded.grid(jnp.array(span))
  tensor = from_flax._tensor('x', Layer('input', (), (1, 1, 2)), np.array(span))
  assert zero == tensor.zero and scale == pytest.approx(tensor.scale, rel=1e-6)
  assert -128 <= zero <= 127 and rounded.codes(jnp.zeros(()), scale, zero) == 0


@pytest.mark.parametrize('bits', [8, 4, 2])
def test_weights_have_steps_by_output_and_gradients_straight_through(bits):
  w = np.random.default_rng(0).normal(size=(3, 3, 4, 5)).astype(np.float32) * [1, 9, 0.1, 0, 2]
  w = jnp.asarray(w, jnp.float32)
  found, steps = rounded.per_channel(w, bits)
  codes, scales = from_flax.per_channel(np.asarray(w), bits)
  assert np.array_equal(found, codes)
  np.testing.assert_allclose(steps, scales, rtol=1e-6)
  most = abs(np.asarray(found)).reshape(-1, 5).max(0)
  assert most.tolist() == [2 ** (bits - 1) - 1] * 3 + [0, 2 ** (bits - 1) - 1]
  g = jnp.arange(w.size, dtype=jnp.float32).reshape(w.shape)
  product = lambda w: jnp.sum(rounded.per_channel(w, bits)[0] * steps * g)
  np.testing.assert_allclose(jax.grad(product)(w), g, rtol=1e-5)


@pytest.mark.parametrize(
  'total, factor, want',
  [
    (237, 0.13685194, 33),  # 32.434, first rounded to a quarter: 32.5
    (-3, 0.5, -1),  # one rounding, half up
    (-3, 0.25, -1),  # half up to -1, then half of it away from 0
    (5, 3.0, 15),  # a factor above 1 is rounded once
  ],
)
def test_scaling_rounds_twice(total, factor, want):
  scaled = lambda x: rounded.rescaled(x, jnp.float32(factor))
  value, slope = jax.value_and_grad(scaled)(jnp.float32(total))
  exact = interpret.fixed.requantize(total, *interpret.fixed.quantize_multiplier(factor))
  assert value == want == exact and slope == pytest.approx(factor)


@pytest.mark.parametrize('name, bits', [('excited', 8), ('mobile', 4)])
def test_every_tensor_is_the_interpreters(name, bits):
  """All codes of all layers, of ranges that training left narrower than what comes."""
  net, x = made(name)
  one = one_of(net)
  layers = trace.trace(one, x.shape[1:])
  seen = zip(names(layers), evaluate(layers, x))
  ranges = {name: jnp.array([0.8 * y.min(), 0.8 * y.max()]) for name, y in seen}
  stats = dict(module=one.stats, ranges=ranges, step=jnp.int32(0))
  one = one.replace(module=rounded.Rounded(net.module, bits), stats=stats)
  graph = from_flax.convert(jax.tree.map(lambda w: w[None], one), x)

  @jax.jit
  def simulated(one, x):
    layers, _ = rounded.traced(net.module, one.params, one.stats['module'], x)
    return rounded.forward(layers, x, ranges=one.stats['ranges'], bits=bits).values

  values = simulated(one, x)
  exact = interpret.every(graph, interpret.quantize(x, graph.tensors[0]))
  assert len(values) == len(graph.tensors) == len(exact)
  apart = [
    abs(np.asarray(value) + tensor.zero - exact[i].reshape(value.shape)).ravel()
    for i, (value, tensor) in enumerate(zip(values, graph.tensors))
  ]
  apart = np.concatenate(apart)
  # sums beyond 2^24 or a platform's other order of folding could move a code, and by one
  assert (apart == 0).mean() >= 0.9999 and apart.max() <= 1


class Normalized(nn.Module):
  """Normalization of an input, of sums with and without bias, and of what was clamped."""

  @nn.compact
  def __call__(self, x, train=False):
    norm = lambda y: nn.BatchNorm(use_running_average=not train)(y)
    x = nn.relu6(norm(nn.Conv(8, (3, 3), (2, 2), use_bias=False)(norm(x))))
    y = norm(nn.Conv(8, (3, 3), feature_group_count=8)(x))
    x = nn.relu(x + 0.5 * norm(nn.relu(y)) - 0.1)
    return nn.Dense(5)(x.mean((1, 2)))


@pytest.fixture(scope='module')
def normalized():
  """(a net, images, layers of it, marked, as a function of (params, stats))"""
  _, x = made('mlp')
  net = create(Normalized(), jax.random.split(jax.random.key(0)), x[:1])
  moved = lambda w: w + 0.1 * jax.random.uniform(jax.random.key(1), w.shape)
  net = net.replace(params=tree.map(moved, net.params), stats=tree.map(moved, net.stats))
  layers = lambda params, stats: rounded.traced(net.module, params, stats, x, marked=True)[0]
  return one_of(net), x, layers


def test_folded_normalization_of_a_batch_is_the_modules(normalized):
  """Without rounding: the output of training, its gradient, and what the moving moments follow."""
  one, x, layers = normalized
  g = jnp.asarray(np.random.default_rng(1).normal(size=(len(x), 5)), jnp.float32)

  def unfused(params):
    y, new = one.replace(params=params)(x, train=True)
    return jnp.sum(y * g), new

  def folded(params):
    found = layers(params, one.stats)
    told = rounded.forward(found, x, ranges=None, live=True, fast=True)
    stats = dict(module=one.stats, ranges={}, step=jnp.int32(0))
    new = rounded.Rounded(one.module, freeze=1)._after(found, stats, told, True)
    return jnp.sum(told.values[-1].reshape(len(x), -1) * g), new['module']

  both = jax.jit(lambda p: [jax.value_and_grad(f, has_aux=True)(p) for f in (unfused, folded)])
  ((want, new), slopes), ((value, followed), slopes_folded) = both(one.params)
  np.testing.assert_allclose(value, want, rtol=1e-3)
  assert tree.names(followed) == tree.names(new)
  for a, b in zip(tree.leaves(followed), tree.leaves(new)):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
  for (name, a), b in zip(tree.named(slopes_folded), tree.leaves(slopes)):
    np.testing.assert_allclose(a, b, rtol=0.02, atol=2e-3 * float(abs(b).max() + 1), err_msg=name)


def test_moments_freeze_and_ranges_follow(normalized):
  """Step 0 moves both; from `freeze` on the moments stay and the output is that of inference."""
  one, x, _ = normalized
  two = jax.tree.map(lambda w: w[None], one)
  two = rounded.prepared(two, x, decay=0.75, freeze=1)
  shapes = jax.eval_shape(jax.vmap(lambda n: n(x, train=True)), two)  # as an accelerator does
  assert shapes[0].shape == (1, len(x), 5) and tree.names(shapes[1]) == tree.names(two.stats)
  net = one_of(two, 0)
  train, infer = jax.jit(lambda n, x: n(x, train=True)), jax.jit(lambda n, x: n(x))
  _, first = train(net, 2 * x)
  assert first['step'] == 1
  at, now = net.stats['ranges']['input'], first['ranges']['input']
  np.testing.assert_allclose(
    now, 0.75 * at + 0.25 * np.array([2 * x.min(), 2 * x.max()]), rtol=1e-5
  )
  moved = [bool((a != b).any()) for a, b in zip(*map(tree.leaves, (net.stats['module'],
                                                                   first['module'])))]  # fmt: skip
  assert all(moved)
  later = net.replace(stats=first)
  output, second = train(later, x)
  for a, b in zip(*map(tree.leaves, (first['module'], second['module']))):
    assert np.array_equal(a, b)
  np.testing.assert_allclose(output, infer(later, x), atol=1e-5)


def test_what_is_pruned_is_a_code_of_0_and_the_net_is_saved(tmp_path, same):
  net, x = made('mlp', replicas=1)
  masks = tree.map(lambda m: m.at[:, ::2].set(False) if m.ndim == 3 else m, all_kept(net.params))
  net = rounded.prepared(net.replace(masks=masks), x, bits=4)
  saved.write(tmp_path / 'net', net)
  again = saved.read(tmp_path / 'net', models)
  assert again.module == net.module and again.module.classes == 10
  assert same((again.params, again.stats, again.masks), (net.params, net.stats, net.masks))
  graph = from_flax.convert(again, x)
  for op in graph.ops:
    assert not op.weights[:, ::2].any() and op.weights[:, 1::2].any()
    assert abs(op.weights).max() == 7
  other = from_flax.convert(net, x, bits=8, ranges=dict(input=(0.0, 1.0)))
  assert other.ops[0].weights.max() == 127 and other.tensors[0].scale == np.float32(1 / 255)
  assert other.tensors[1:] == graph.tensors[1:]


@pytest.mark.parametrize(
  'settings, says',
  [(dict(bits=9), 'bits=9'), (dict(decay=1.0), 'decay=1.0'), (dict(freeze=-1), 'freeze=-1')],
)
def test_what_cannot_be_is_one_line(settings, says):
  with pytest.raises(UsageError, match=says):
    rounded.Rounded(None, **settings)
