"""Filterlets: scores, blocks, exact counts, and filters removed with all that they feed."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction import models, tree
from reduction.errors import UsageError
from reduction.net import Net, all_kept, initializer
from reduction.predict import logits
from reduction.prune import channels, filterlet, select
from reduction.prune.importance import importance

SHAPE = (3, 3, 5, 7)
BLOCKS = filterlet.STRUCTURES


def kernel(seed=0, shape=SHAPE):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize('name', BLOCKS)
def test_sums_of_blocks_by_brute_force(name):
  s, cout = np.abs(kernel()), SHAPE[3]
  found = filterlet.sums(s, BLOCKS[name])
  want = dict(
    filterlet=lambda: s.sum(2, keepdims=True),
    filter=lambda: s.sum((0, 1, 2), keepdims=True),
    weight=lambda: s,
    paired=lambda: np.stack([s[..., o : o + 2].sum((2, 3)) for o in range(0, cout, 2)], -1)[
      :, :, None
    ],
  )[name]()
  np.testing.assert_allclose(found, want, rtol=1e-5)
  assert filterlet.block_count(SHAPE, BLOCKS[name]) == want.size
  sizes = filterlet.sums(np.ones(SHAPE), BLOCKS[name])
  whole = filterlet.spread(want, SHAPE, BLOCKS[name])
  np.testing.assert_allclose(filterlet.sums(whole, BLOCKS[name]), want * sizes, rtol=1e-5)


def test_pruning_nothing_prunes_nothing_and_counts_are_exact():
  """A percentile with <= drops the least block even at a fraction of 0, and all ties."""
  w = {'a': np.ones(SHAPE), 'b': kernel(1, (1, 1, 4, 6))}
  masks = {name: np.ones(x.shape, bool) for name, x in w.items()}
  for name, block in BLOCKS.items():
    count = lambda m, block=block: {n: int(filterlet.alive(m[n], block).sum()) for n in m}
    whole = count(masks)
    same = filterlet.smallest_blocks(w, masks, block, whole)
    assert all(m.all() for m in same.values()), name
    keep = {n: max(1, total // 3) for n, total in whole.items()}
    assert count(filterlet.smallest_blocks(w, masks, block, keep)) == keep, name  # ties too


def test_of_a_pointwise_convolution_a_filterlet_is_the_filter():
  w = {'a': kernel(2, (1, 1, 6, 5))}
  masks = {'a': np.ones((1, 1, 6, 5), bool)}
  a, b = (filterlet.smallest_blocks(w, masks, BLOCKS[n], {'a': 2}) for n in ('filterlet', 'filter'))
  assert np.array_equal(a['a'], b['a']) and a['a'].any((0, 1, 2)).sum() == 2


def test_what_is_kept_is_what_matters_most():
  scores = {'a': np.abs(kernel(3))}
  masks = {'a': np.ones(SHAPE, bool)}
  kept = filterlet.smallest_blocks(scores, masks, BLOCKS['filterlet'], {'a': 20})['a']
  units = np.asarray(scores['a']).sum(2)
  assert set(map(tuple, np.argwhere(np.asarray(kept).all(2)))) == set(
    map(tuple, np.argwhere(units >= np.sort(units.ravel())[-20]))
  )
  again = filterlet.smallest_blocks(scores, {'a': kept}, BLOCKS['filterlet'], {'a': 5})['a']
  assert not (again & ~kept).any()


def test_a_layer_of_which_nothing_is_left_is_refused():
  with pytest.raises(UsageError, match='conv7 would keep none of its 63'):
    filterlet.smallest_blocks({'conv7': kernel()}, {'conv7': np.ones(SHAPE, bool)},
                              BLOCKS['filterlet'], {'conv7': 0})  # fmt: skip


def test_shares_are_the_best_by_weight_and_leave_every_layer_some():
  units = {'a': np.array([4.0, 3.0, -np.inf]), 'b': np.array([10.0, 1.0, 0.1, 0.1])}
  sizes = {'a': 1, 'b': 2}  # a weight: a 4, 3; b 5, .5, .05, .05, of 10 in all
  assert filterlet.shares(units, sizes, 10) == {'a': 2, 'b': 4}
  assert filterlet.shares(units, sizes, 4) == {'a': 2, 'b': 1}
  assert filterlet.shares(units, sizes, 1) == {'a': 1, 'b': 1}
  with pytest.raises(UsageError, match='budget=0 weights'):
    filterlet.shares(units, sizes, 0)


def test_n_of_m_and_patterns_by_brute_force():
  scores, mask = np.abs(kernel(4, (3, 3, 8, 6))), np.ones((3, 3, 8, 6), bool)
  kept = np.asarray(filterlet.n_of_m(scores, mask, 2, 4)).reshape(3, 3, 2, 4, 6)
  s = np.asarray(scores).reshape(3, 3, 2, 4, 6)
  assert (kept.sum(3) == 2).all()
  assert (np.where(kept, s, np.inf).min(3) >= np.where(kept, -np.inf, s).max(3)).all()
  made = np.asarray(filterlet.patterns(scores, mask, 4, 3)).reshape(9, -1)
  shapes = {tuple(column) for column in made.T}
  assert (made.sum(0) == 4).all() and len(shapes) <= 3
  flat = np.asarray(scores).reshape(9, -1)
  kept = np.array([max(np.array(p) @ column for p in shapes) for column in flat.T])
  np.testing.assert_allclose((made * flat).sum(0), kept, rtol=1e-6)


class Twice(nn.Module):
  """Logits (w x, 0): a loss whose gradient is known."""

  @nn.compact
  def __call__(self, x, train=False):
    w = self.param('w', nn.initializers.ones, ())
    return jnp.stack([w * x[:, 0], jnp.zeros(len(x))], -1)


def test_scores_do_not_cancel_between_batches():
  """Batches that pull a weight both ways: the mean gradient is 0, what it matters is not."""
  x = jnp.array([[[1.0]], [[1.0]]])  # two batches of one example
  labels = jnp.array([[0], [1]])
  p = float(jax.nn.sigmoid(1.0))
  pull = np.array([p - 1, p])
  found = {k: float(importance(Twice(), k)({'w': jnp.ones(())}, {}, x, labels)['w'])
           for k in ('taylor', 'fisher', 'signed', 'magnitude')}  # fmt: skip
  want = dict(taylor=np.abs(pull).mean(), fisher=(pull**2).mean(), signed=abs(pull.mean()),
              magnitude=1)  # fmt: skip
  assert found == pytest.approx(want, rel=1e-5)


NETS = dict(
  vgg=models.vgg(layers=(5, 'pool', 6, 4), classes=3, flat=True),
  resnet=models.resnet(layers=8, width=4, classes=3),
  convnet=models.convnet(depth=2, width=4, widths=(6,), classes=3),
)


def made(module, x, replicas=2) -> Net:
  """A net [R] with random variables, also moving statistics: nothing is compiled."""
  shapes = jax.eval_shape(lambda: initializer(module)(jax.random.key(0), x[:1]))
  random = np.random.default_rng(1)
  values = lambda s: random.uniform(0.1, 0.5, (replicas, *s.shape)).astype(np.float32)
  params, stats = jax.tree.map(values, shapes)
  return Net(module, tree.map(lambda w: w - (0.3 if w.ndim > 2 else 0.2), params), stats)


def structure(net, x):
  one = tree.map(lambda w: w[0], net)
  return channels.structure(net.module, one.params, one.stats, x[:1])


SLOW = pytest.param('resnet', marks=pytest.mark.slow)  # ten seconds of compiling


@pytest.fixture(scope='module', params=['vgg', SLOW, 'convnet'])
def prunable(request):
  """(net [2], images, its structure), with moving statistics that are not the first ones."""
  x = np.random.default_rng(0).uniform(0, 1, (4, 8, 8, 3)).astype(np.float32)
  net = made(NETS[request.param], x)
  return net, x, structure(net, x)


def test_scores_do_not_depend_on_what_else_is_in_a_batch():
  """Normalization by the batch would make the mean of two halves another thing than each."""
  x = np.random.default_rng(0).uniform(0, 1, (4, 4, 4, 1)).astype(np.float32)
  net = made(models.vgg(layers=(3,), classes=3), x)
  one = tree.map(lambda w: w[0], net)
  score = jax.jit(importance(net.module, 'signed'))
  labels = jnp.array([0, 1, 2, 0])
  whole = score(one.params, one.stats, x[None], labels[None])
  halves = score(one.params, one.stats, x.reshape(2, 2, *x.shape[1:]), labels.reshape(2, 2))
  for a, b in zip(tree.leaves(whole), tree.leaves(halves)):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_removed_filters_leave_the_function_of_the_masked_net(prunable):
  net, x, found = prunable
  masks = channels.silenced(
    all_kept(net.params), found,
    {i: np.stack([np.arange(g.size) >= 1, np.arange(g.size) < g.size - 1])
     for i, g in enumerate(found.groups)},
  )  # fmt: skip
  masked = net.replace(masks=masks)
  small = channels.shrunk(masked, found)
  np.testing.assert_allclose(logits(masked, x), logits(small, x), rtol=1e-4, atol=1e-5)
  assert tree.size(small.params) < tree.size(net.params)
  for name, w in tree.named(small.params):
    before = dict(tree.named(net.params))[name]
    if f'params/{name}' in found.convs:
      assert w.shape[-1] == before.shape[-1] - 1


def test_filters_that_lose_all_their_filterlets_can_be_removed(prunable):
  """Given shares of each layer; what is left of a filter's normalization would feed the next."""
  net, x, found = prunable
  net = net.replace(params=tree.map(lambda w: w + 0.1, net.params))  # biases, too
  scores = tree.map(lambda w: jnp.abs(w) * jnp.arange(1, 1 + w.shape[-1]) ** 3, net.params)
  widths = {i: g.size for i, g in enumerate(found.groups)}
  shares = dict.fromkeys((leaf for g in found.groups for leaf in g.filters), 0.3)
  masks = select.by_layer(scores, all_kept(net.params), found, widths, shares)
  masked = net.replace(masks=tree.map(jnp.asarray, masks))
  small = channels.shrunk(masked, found)
  assert tree.size(small.params) < tree.size(net.params)
  np.testing.assert_allclose(logits(masked, x), logits(small, x), rtol=1e-4, atol=1e-5)


def test_terms_of_a_sum_lose_the_same_filters():
  x = np.zeros((1, 8, 8, 3), np.float32)
  found = structure(made(models.resnet12(width=2), x), x)
  tied = {frozenset(f.split('/')[1] for f in g.filters) for g in found.groups}
  block = lambda i: f'stage{i}_block1_'
  assert tied == {
    frozenset({'conv', block(1) + 'conv2'}),
    *(frozenset({block(i) + 'conv1'}) for i in range(1, 5)),
    *(frozenset({block(i) + 'conv2', block(i) + 'downsample'}) for i in range(2, 5)),
  }
  assert len(found.convs) == 12 and not found.depthwise


class Deep(nn.Module):
  """A convolution channel by channel between two plain ones."""

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.relu(nn.Conv(6, (3, 3), name='first')(x))
    x = nn.relu(nn.Conv(6, (3, 3), feature_group_count=6, name='deep')(x))
    return nn.Conv(2, (1, 1), name='last')(x).mean((1, 2))


def test_a_depthwise_convolution_is_named_and_follows_what_feeds_it():
  x = np.zeros((1, 8, 8, 1), np.float32)
  found = structure(made(Deep(), x), x)
  assert found.depthwise == ('params/deep/kernel',)
  assert found.convs == ('params/first/kernel', 'params/last/kernel')
  (group,) = found.groups  # outputs of the last one stay
  assert group.filters == ('params/first/kernel',)
  fed = {(a.leaf, a.axis) for a in group.axes}
  assert fed == {('params/first/kernel', 3), ('params/first/bias', 0), ('params/deep/kernel', 3),
                 ('params/deep/bias', 0), ('params/last/kernel', 2)}  # fmt: skip


def test_flattened_pixels_lose_a_channel_of_each():
  x = np.zeros((1, 4, 4, 1), np.float32)
  net = made(models.vgg(layers=(3, 'pool'), classes=2, flat=True), x, replicas=1)
  found = structure(net, x)
  cut = channels.remove(dict(params=net.params), found, {0: np.array([[0, 2]])})['params']
  rows = [r * 3 + c for r, c in itertools.product(range(4), (0, 2))]
  assert np.array_equal(cut['out']['kernel'][0], net.params['out']['kernel'][0][np.array(rows)])
