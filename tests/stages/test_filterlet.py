"""Pruning by levels on real digits: what is kept, what is chosen, by which data, and resuming."""

import dataclasses

import numpy as np
import pytest

from reduction import models, prune, stages, tree
from reduction.data import Split
from reduction.errors import UsageError
from reduction.net import create
from reduction.prune import channels, filterlet, select
from reduction.run import Run

ADAM = dict(name='adam', learning_rate=3e-3)
TRAIN = dict(steps=40, batch=60, every=20, optimizer=ADAM)
CONVS = ('conv1/kernel', 'conv2/kernel', 'conv3/kernel')


@pytest.fixture(scope='module')
def trained(digits):
  """(net [2], run) of a small net that has learned something."""
  run = Run(digits, (0, 1))
  module = models.vgg(layers=(8, 'pool', 12, 8))
  net = create(module, run.key('init', 0), digits.train.x[:1])
  run.nets['start'] = net
  return stages.tune(**dict(TRAIN, steps=160))(net, run.child('tune')), run


def pruned(trained, name, run=None, **settings):
  net, before = trained
  run = run or before
  stage = stages.filterlet(**{**TRAIN, 'levels': (0.6, 0.3), 'examples': 256, **settings})
  small = stage(net, run.child(name))
  return small, rows_of(run, name)[1:]


def rows_of(run, name):
  """The rows of a stage: the whole net, then its levels."""
  rows = [r for r in run.rows if r['kind'] == 'filterlet' and r['at'].startswith(name)]
  assert [r['level'] for r in rows] == list(range(-1, len(rows) - 1))
  return rows


def test_digits_lose_half_of_their_filterlets_and_bytes_say_so(trained):
  small, rows = pruned(trained, 'half', tolerance=0.3)
  assert [r['share'] for r in rows] == [0.6, 0.3]
  assert all(r['kept'] <= r['share'] + 0.01 for r in rows)
  assert rows[0]['enough']
  masks = dict(tree.named(small.masks))
  for name in CONVS[1:]:  # a filterlet lives or dies whole
    for one in masks[name]:  # of a seed: its weights are those of all channels that still live
      by_place = np.asarray(one).sum(2)
      assert set(np.unique(by_place)) == {0, by_place.max()}
  dense = sum(w.size // 2 for n, w in tree.named(trained[0].params) if n in CONVS)
  for row in rows:
    assert max(row['conv_bytes']) <= (row['share'] + 0.1) * dense
  assert tree.map(np.shape, small.masks) == tree.map(np.shape, small.params)


def test_costs_fall_from_those_of_the_whole_net(trained):
  """Filters in all, filterlets in bytes and instructions, single weights in CSR below a fifth."""
  found = {}
  for structure in 'filter', 'filterlet', 'weight':
    pruned(trained, f'cost_{structure}', structure=structure, levels=(0.12,), steps=20)
    whole, level = rows_of(trained[1], f'cost_{structure}')
    assert whole['share'] == 1 and whole['kept'] == 1 and whole['enough']
    # CSR alone, a byte and a 16-bit column a weight, is never less than the least of all forms
    assert ('csr_bytes' in level) == (structure == 'weight')
    assert all(a >= b for a, b in zip(level.get('csr_bytes', ()), level['conv_bytes']))
    for name in 'conv_bytes', 'instructions', 'ram':
      assert len(level[name]) == 2 and min(level[name]) > 0
      found[structure, name] = max(level[name]) / min(whole[name])
  assert all(found['filter', n] < 0.7 for n in ('conv_bytes', 'instructions', 'ram'))
  for structure in 'filterlet', 'weight':
    assert found[structure, 'conv_bytes'] < 0.5 and found[structure, 'instructions'] < 0.75


def test_the_test_split_chooses_nothing(trained, digits, same):
  """The authors keep the epoch that is best on test images."""
  found = []
  for turn in (0, 3):
    y = np.roll(digits.test.y, turn)
    run = Run(dataclasses.replace(digits, test=Split(digits.test.x, y)), (0, 1))
    found.append(pruned(trained, 'leak', run, levels=(0.5,), tolerance=0.5)[0])
  assert same(*found)


def test_accuracy_is_what_is_bounded(trained):
  """No threshold of importance: a level is chosen if it keeps the accuracy that was asked for."""
  none, rows = pruned(trained, 'strict', levels=(0.05,), tolerance=-1.0, steps=20)
  assert not rows[0]['enough'] and none.params['conv1']['kernel'].shape[-1] == 8
  assert tree.leaves(none.masks)[0].all() and tree.size(none.params) == tree.size(trained[0].params)
  _, rows = pruned(trained, 'loose', levels=(0.5,), tolerance=1.0, bisections=1, steps=20)
  assert [r['enough'] for r in rows] == [True, True]
  assert rows[1]['share'] == pytest.approx(np.sqrt(0.5 * 0.05), abs=1e-4)  # between good and least


@pytest.mark.parametrize('structure', [*filterlet.STRUCTURES, '2:4', 'pattern'])
def test_every_structure_keeps_its_share(trained, structure):
  net, _ = trained
  whole, one = prune.all_kept(net.params), tree.map(lambda w: w[0], net)
  found = channels.structure(net.module, one.params, one.stats, np.zeros((1, 8, 8, 1), np.float32))
  scores = prune.magnitude(net.params)
  for scope in select.SCOPES:
    masks = select.select(scores, whole, structure, found, 0.5, scope=scope)
    kept = prune.kept(masks, list(CONVS))
    # of each layer half of the filters, hence about a quarter of the weights between them
    square = structure == 'filter' and scope == 'layer'
    assert kept == pytest.approx(0.25 if square else 0.5, abs=0.12), scope
    again = select.select(scores, masks, structure, found, 0.25, scope=scope)
    assert all((a <= b).all() for a, b in zip(tree.leaves(again), tree.leaves(masks)))
    same = select.select(scores, whole, structure, found, 1.0, scope=scope)
    assert all(np.asarray(m).all() for m in tree.leaves(same)), scope  # nothing asked, nothing gone


def test_a_layer_of_small_gradients_starves_unless_normalized(trained):
  net, _ = trained
  whole, one = prune.all_kept(net.params), tree.map(lambda w: w[0], net)
  found = channels.structure(net.module, one.params, one.stats, np.zeros((1, 8, 8, 1), np.float32))
  scores = dict(tree.named(prune.magnitude(net.params)))
  quiet = dict(scores, **{CONVS[1]: scores[CONVS[1]] / 1e3})
  scores, quiet = (tree.unflatten(net.params, list(s.values())) for s in (scores, quiet))

  def masks(scores, scope):
    return dict(tree.named(select.select(scores, whole, 'filterlet', found, 0.4, scope=scope)))

  starved = masks(quiet, 'global')[CONVS[1]]
  assert starved.mean() <= 0.06 < 0.2 < masks(scores, 'global')[CONVS[1]].mean()
  for name, mask in masks(quiet, 'normalized').items():
    assert np.array_equal(mask, masks(scores, 'normalized')[name])


def test_filters_go_first_and_the_net_is_narrower(trained):
  small, _ = pruned(trained, 'narrow', levels=(0.5,), filters=0.25, tolerance=1.0, steps=20)
  assert small.module.layers == (6, 'pool', 9, 8) or small.module.layers[0] <= 6
  assert small.params['conv2']['kernel'].shape[3] == small.module.layers[0]
  assert small.params['norm1']['scale'].shape[1] == small.module.layers[0]


def test_what_cannot_be_is_refused():
  with pytest.raises(UsageError, match="Did you mean 'filterlet'"):
    stages.filterlet(**TRAIN, levels=(0.5,), structure='filterlets')
  with pytest.raises(UsageError, match='must fall from 1'):
    stages.filterlet(**TRAIN, levels=(0.5, 0.5))
  with pytest.raises(UsageError, match="score='grad'"):
    stages.filterlet(**TRAIN, levels=(0.5,), score='grad')
