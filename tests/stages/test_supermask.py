"""A supermask is learned, and nothing else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction import models, prune, stages, tree
from reduction.errors import UsageError
from reduction.net import create
from reduction.prune import supermask

learn = functools.partial(
  stages.supermask, steps=300, batch=60, every=100, optimizer=dict(name='adam', learning_rate=0.05)
)


def accuracy(net, run):
  """Test accuracy of the first replicate."""
  one = jax.tree.map(lambda x: x[0], net)
  return float((np.asarray(one(run.data.test.x)).argmax(-1) == run.data.test.y).mean())


@pytest.mark.parametrize('method, weights', [
  ('bernoulli', 'signed_constant'), ('bernoulli', 'first'), ('edge_popup', 'first'),
])  # fmt: skip
def test_a_mask_alone_learns_the_digits(fresh, method, weights):
  _, run = fresh((0,))
  wide = models.mlp(widths=(200, 100))  # few weights hold no good mask
  net = create(wide, run.key('init', 0), run.data.train.x[:1])
  found = learn(method=method, weights=weights, kept=0.5)(net, run)
  assert accuracy(net, run) < 0.3
  assert accuracy(found, run) > 0.75
  (row,) = [row for row in run.rows if row['kind'] == 'supermask']
  assert row['test_accuracy'][0] == pytest.approx(accuracy(found, run), abs=1e-6)
  for name, mask in tree.named(found.masks):
    first, last = (np.asarray(dict(tree.named(n.params))[name]) for n in (net, found))
    mask = np.asarray(mask)
    assert not last[~mask].any()
    if weights == 'first':
      assert np.array_equal(last[mask], first[mask])  # not one of them moved
    elif 'kernel' in name:
      np.testing.assert_allclose(np.abs(last[mask]), first.std(), rtol=1e-5)
    if method == 'edge_popup' and 'kernel' in name:
      assert mask.sum() == prune.survivors(mask.size, 0.5)


def test_rescaled_weights_are_divided_by_what_is_kept(fresh):
  plain, scaled = (
    learn(rescale=r, steps=100, method='edge_popup', kept=0.25)(*fresh((0,))) for r in (False, True)
  )
  first = dict(tree.named(fresh((0,))[0].params))
  for net, times in (plain, 1), (scaled, 4):
    for name, w in tree.named(net.params):
      alive = np.asarray(w)[np.asarray(w) != 0]
      if 'kernel' in name:
        np.testing.assert_allclose(np.abs(alive), times * np.asarray(first[name]).std(), rtol=1e-2)


def test_masks_that_a_net_brings_hold(fresh):
  net, run = fresh((0,))
  rates = prune.by_name(net.params, (('kernel', 0.5),))
  cut = lambda w: prune.smallest(prune.magnitude(w), prune.all_kept(w), rates)
  before = tree.map(lambda m: m[None], cut(tree.map(lambda w: w[0], net.params)))
  found = learn(steps=100)(net.replace(masks=before), run)
  for mask, old, w in zip(*map(tree.leaves, (found.masks, before, found.params))):
    assert not (np.asarray(mask) & ~np.asarray(old)).any()
    assert not np.asarray(w)[~np.asarray(old)].any()


def test_the_estimators_by_hand():
  scores = jnp.array([0.1, -0.9, 0.5, -0.3, 0.7, 0.2, -0.4, 0.6])
  mask, slope = jax.value_and_grad(lambda s: supermask.top(s, 0.5).sum())(scores)
  assert float(mask) == 4
  assert supermask.top(scores, 0.5).round().tolist() == [0, 1, 1, 0, 1, 0, 0, 1]
  assert slope.tolist() == jnp.sign(scores).tolist()  # straight through to |score|
  key = jax.random.key(0)
  many = jnp.full(20_000, 1.5)
  drawn, slope = jax.value_and_grad(lambda s: supermask.bernoulli(key, s).sum())(many)
  share = float(jax.nn.sigmoid(1.5))
  assert float(drawn) / many.size == pytest.approx(share, abs=0.01)
  np.testing.assert_allclose(slope, share * (1 - share), rtol=1e-4)


@pytest.mark.parametrize('fraction', [0.0, 0.1, 0.5, 0.999])
def test_the_threshold_is_that_of_sorting(fraction):
  scores = jax.random.normal(jax.random.key(1), (1_000,))
  assert int((scores > supermask.threshold(scores, fraction)).sum()) == round(fraction * 1_000)


@pytest.mark.parametrize(
  'settings, says',
  [
    (dict(method='bernouli'), "Did you mean 'bernoulli'"),
    (dict(weights='constant'), 'weights=.constant. is unknown'),
    (dict(kept=1.0), 'kept=1.0 must lie between 0 and 1'),
    (dict(every=70), 'every=70 must divide'),
  ],
)
def test_wrong_settings_are_refused(settings, says):
  with pytest.raises(UsageError, match=says):
    learn(**settings)


def test_a_pattern_that_names_nothing_is_refused(fresh):
  with pytest.raises(UsageError, match="layers='kernle' is in no name"):
    learn(layers='kernle')(*fresh((0,)))
