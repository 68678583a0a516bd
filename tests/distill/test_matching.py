"""Layers matched by path: the schema, what is captured, projections, and a run on real digits."""

import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction import losses, models, stages, tree
from reduction.distill import features, matching, student
from reduction.errors import UsageError
from reduction.models.layers import BatchNorm
from reduction.models.mlp import MLP
from reduction.net import Net, apply
from reduction.run import Run
from reduction.schedule import schedule
from reduction.train import _chunk
from reduction.update import optimizer


class Nested(nn.Module):
  """Layers of all kinds: nested, normalized, called twice, one that returns two, one that sows."""

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Dense(6, name='first')(x.reshape(len(x), -1))
    x = BatchNorm(use_running_average=not train, name='norm')(x)
    twice = nn.Dense(6, name='twice')
    x = twice(twice(x))
    x = sum(Two(name='two')(x))
    return MLP((8, 5), 10, name='head')(x, train)


class Two(nn.Module):
  """Two arrays, and the scores of an attention of two heads."""

  @nn.compact
  def __call__(self, x):
    self.sow('intermediates', 'scores', jnp.einsum('nhq,nhk->nhqk', *[x.reshape(-1, 2, 3)] * 2))
    return x, 2 * x


X = np.random.default_rng(0).random((4, 8, 8, 1), np.float32)
KEYS = jnp.stack([jax.random.key(0), jax.random.key(1)])
PATHS = {'first', 'norm', 'two/scores', 'head', 'head/fc1', 'head/fc2', 'head/out'}


def drawn(module, x=X, seed=0) -> Net:
  """Two replicates with weights of numpy: compiling an initialization takes seconds."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(module.init, jax.random.key(0), x[:1])
  draw = lambda s: jnp.asarray(rng.standard_normal((2, *s.shape)) * s.shape[0] ** -0.5, s.dtype)
  found = tree.map(draw, shapes)
  return Net(module, found['params'], tree.map(jnp.square, found.get('batch_stats', {})))


@pytest.fixture(scope='module')
def nested():
  return drawn(Nested())


@pytest.fixture(scope='module')
def wide():
  return drawn(models.mlp(widths=(8, 7)))


def first(net):
  return tree.map(lambda w: w[0], (net.params, net.stats))


@pytest.mark.parametrize('train', [False, True])
def test_layers_are_captured_by_path_and_nothing_else_changes(nested, train):
  params, stats = first(nested)
  capture = lambda paths: matching.capture(nested.module, params, stats, X, paths, train=train)
  plain, (ran, seen), (_, some) = jax.jit(
    lambda: (apply(nested.module, params, stats, X, train), capture(None), capture(['head/fc2']))
  )()
  for a, b in zip(tree.leaves(ran), tree.leaves(plain), strict=True):
    np.testing.assert_array_equal(a, b)
  assert set(seen) == PATHS  # 'twice' has two outputs, 'two' returns two
  dense = params['first']
  by_hand = X.reshape(4, -1) @ dense['kernel'] + dense['bias']
  np.testing.assert_allclose(seen['first'], by_hand, rtol=1e-5, atol=1e-6)
  assert seen['two/scores'].shape == (4, 2, 3, 3)
  np.testing.assert_array_equal(seen['head'], plain[0] if train else plain)
  assert set(some) == {'head/fc2', 'two/scores'}  # what is sown is there anyhow
  np.testing.assert_array_equal(some['head/fc2'], seen['head/fc2'])


def match(*paths, loss='hint', **settings):
  return dict(student=paths[0], teacher=paths[-1], loss=loss, **settings)


def test_a_match_is_read_with_its_default_weight():
  read = matching.read((match('fc1'), match('fc1', 'fc2', loss='cosine', weight=3, project=True)))
  assert read[0] == matching.Match('fc1', 'fc1', 'hint', features.LOSSES['hint'].weight, None)
  assert read[1] == matching.Match('fc1', 'fc2', 'cosine', 3.0, True)
  assert [m.name for m in read] == ['hint fc1', 'cosine fc1'] and hash(read)
  assert matching.read(()) == ()


@pytest.mark.parametrize(
  'given, message',
  [
    (match('a', loss='hynt'), r"matches\[0\].loss='hynt' is unknown. Did you mean 'hint'"),
    (match('a', wieght=1.0), r"matches\[0\] has no 'wieght'. Did you mean 'weight'"),
    (match('a', weight=-1.0), r'matches\[0\].weight=-1.0 must be a number of at least 0'),
    (match('a', weight=float('inf')), 'weight=inf must be a number'),
    (match('a', weight='much'), "weight='much' must be a number"),
    (match('a', weight=dict(name='linear')), r'matches\[0\].weight.name=.linear. is not in optax'),
    (match('a', project='yes'), "project='yes' must be True, False or None"),
    (match('a', loss='similarity', project=True), 'would learn similarity in place of the student'),
    (dict(student='a', loss='hint'), r"matches\[0\] needs a name for 'teacher', not None"),
    ('hint', r"matches\[0\]='hint' must be a dict"),
    (match('a', loss='contrastive', memory=-1), r'memory=-1 must be a number of examples'),
    (match('a', memory=8), r'memory=8: hint keeps nothing'),
  ],
  ids=str,
)
def test_a_wrong_match_is_refused(given, message):
  with pytest.raises(UsageError, match=message):
    matching.read((given,))


def test_a_layer_is_taken_once_by_a_loss():
  with pytest.raises(UsageError, match="matches name 'hint a' twice"):
    matching.read((match('a', 'b'), match('a', 'c')))


def fresh(net, teacher, *matches, keys=KEYS):
  return matching.projections(matching.read(matches), net, teacher, X, keys)


def test_a_projection_is_made_where_widths_differ_or_where_asked(nested, wide):
  made = fresh(
    nested, wide,
    match('head/fc1', 'fc1'),  # both of width 8
    match('head/fc2', 'fc2', loss='cosine'),
    match('head/fc1', 'fc1', loss='tinybert', project=True),
    match('first', 'fc1', loss='similarity'),
    match('norm', 'fc2', loss='rkd_angle'),
  )  # fmt: skip
  assert {name: w.shape for name, w in made.items()} == {
    'cosine head/fc2': (2, 5, 7), 'tinybert head/fc1': (2, 8, 8)
  }  # fmt: skip


def test_projections_are_those_of_their_key(nested, wide, same):
  pairs = match('head/fc2', 'fc2'), match('first', 'fc2')
  made = fresh(nested, wide, *pairs)
  assert same(made, fresh(nested, wide, *pairs))
  one, other = made['hint head/fc2']
  assert not np.array_equal(one, other)  # each seed its own
  alone = fresh(nested, wide, *pairs, keys=KEYS[1:])
  np.testing.assert_array_equal(alone['hint head/fc2'][0], other)
  assert not same(made, fresh(nested, wide, *pairs, keys=KEYS[::-1]))


@pytest.mark.parametrize(
  'given, message',
  [
    (match('head/fc3', 'fc1'), "'hint head/fc3': the student has no layer 'head/fc3', called once, "
     "that returns an array. Did you mean 'head/fc"),
    (match('first', 'fc9'), "the teacher has no layer 'fc9', .* Did you mean 'fc"),
    (match('twice', 'fc1'), "the student has no layer 'twice', called once"),
    (match('zzz', 'fc1'), 'Known: first, head, head/fc1, head/fc2, head/out, norm, two/scores'),
    (match('head/fc2', 'fc2', project=False), "'hint head/fc2' compares widths 5 and 7; leave"),
    (match('first', 'fc1', loss='attention'), "'attention first' with 'fc1': attention needs maps"),
    (match('two/scores', 'fc1'), r"with 'fc1': shapes \(4, 2, 3, 8\) .* and \(4, 8\) of the teach"),
  ],
  ids=lambda v: '',
)  # fmt: skip
def test_layers_that_cannot_be_matched_are_named_with_what_there_is(nested, wide, given, message):
  with pytest.raises(UsageError, match=message):
    fresh(nested, wide, given)


def test_losses_are_weighed_by_hand(nested, wide):
  read = matching.read((match('head/fc2', 'fc2'), match('first', 'fc1', loss='similarity')))
  made = matching.projections(read, nested, wide, X, KEYS)
  w = made['hint head/fc2'][0]

  @jax.jit
  def weighed():
    own, shown = (matching.capture(net.module, *first(net), X)[1] for net in (nested, wide))
    return own, shown, *matching.weigh(read, (2.0, 0.5), own, shown, {'hint head/fc2': w})

  own, shown, value, told = weighed()
  hint = float(0.5 * jnp.mean((own['head/fc2'] @ w - shown['fc2']) ** 2))
  assert told['hint head/fc2'] == pytest.approx(hint, rel=1e-4)
  assert value == pytest.approx(2 * hint + 0.5 * float(told['similarity first']), rel=1e-4)


def test_attention_scores_that_a_module_sows_are_matched(nested):
  assert fresh(nested, nested, match('two/scores', loss='attention_scores')) == {}


def test_an_optimizer_of_a_dict_treats_each_tree_as_alone(same):
  # max_norm knows the output layer by its name, clipping sees one net's norm
  tx = optimizer('sgd', learning_rate=1.0, max_norm=0.5)
  net = {'fc1': {'kernel': jnp.ones((2, 2))}, 'out': {'kernel': jnp.ones((2, 2))}}
  both = matching.apart(student=tx, projections=tx)
  assert both is matching.apart(student=tx, projections=tx)
  params = dict(student=net, projections={})
  down = tree.map(jnp.negative, params)
  steps, _ = both.update(down, both.init(params), params, step=0)
  alone, _ = tx.update(down['student'], tx.init(net), net, step=0)
  assert same(steps, dict(student=alone, projections={}))
  assert not np.array_equal(alone['fc1']['kernel'], alone['out']['kernel'])


NUMBERS = dict(temperature=2.0, soft=0.7, hard=0.3, label_mix=0.0)


@pytest.mark.parametrize('method', student.METHODS)
def test_a_method_takes_the_place_of_soft_targets_and_matches_are_added(wide, method):
  (params, _), labels, t = first(wide), jnp.arange(4), dict(temperature=2.0)
  teacher = tree.map(lambda w: w[1:], wide.params)
  later = schedule(dict(name='linear_schedule', init_value=0, end_value=4, transition_steps=8), 'w')
  pairs = matching.Match('fc1', 'fc1', 'hint'), matching.Match('fc2', 'fc2', 'cosine', later)
  terms = dict(
    soft=losses.soft_cross_entropy,
    dkd=lambda z, target, **t: features.dkd(z, target, labels, **t),
    reverse=features.reverse_divergence,
    jsd=features.jensen_shannon,
    standardized=features.standardized_divergence,
  )

  @jax.jit
  def all_losses(key):
    logits, own = matching.capture(wide.module, params, {}, X)
    target, shown = matching.capture(wide.module, *first(wide.replace(params=teacher)), X)
    given = dict(NUMBERS, teacher=target[:, None], live=((teacher, {}),), step=1)
    given['weights'] = {'hint fc1': 5.0}
    plain = student.distilled(wide.module, method=method)
    drawn = student.matched(wide.module, wide.module, pairs, method=method)
    batch, both = (X, labels, given), dict(student=params, projections={})
    return dict(
      plain=plain(params, {}, batch, key), drawn=drawn(both, {}, batch, key),
      term=terms[method](logits, target, **t), kl=losses.soft_divergence(logits, target, **t),
      hard_loss=losses.cross_entropy(logits, labels),
      hint=features.hint(own['fc1'], shown['fc1']),
      cosine=features.cosine(own['fc2'], shown['fc2']),
    )  # fmt: skip

  found = all_losses(jax.random.key(0))
  (value, (_, told)), (whole, (_, told_too)) = found['plain'], found['drawn']
  assert value == pytest.approx(float(0.7 * found['term'] + 0.3 * found['hard_loss']), rel=1e-4)
  assert whole == pytest.approx(float(value + 5 * found['hint'] + found['cosine'] / 2), rel=1e-4)
  known = {name: float(found[name]) for name in ('kl', 'hard_loss')}
  known |= {} if method == 'soft' else {method: float(found['term'])}
  assert told == pytest.approx(known, rel=1e-4)
  known |= {'hint fc1': float(found['hint']), 'cosine fc2': float(found['cosine'])}
  assert told_too == pytest.approx(known, rel=1e-4)


# on digits

SHORT = dict(steps=40, batch=60, every=20, optimizer=dict(name='adam', learning_rate=3e-3))
TAUGHT = dict(SHORT, teachers=('teacher',), temperature=2.0)
PAIRS = (
  match('head/fc2', 'fc2', project=True), match('head/fc1', 'fc1', loss='similarity')
)  # fmt: skip


class Small(nn.Module):
  """A head under another name, to have paths with '/'."""

  @nn.compact
  def __call__(self, x, train=False):
    return MLP((14, 8), 10, name='head')(x, train)


@pytest.fixture(scope='module')
def taught(digits, module):
  """A run of two seeds with a teacher of random weights, and a student that is half pruned."""
  x = digits.train.x[:1]
  run = Run(digits, seeds=(0, 1), nets=dict(teacher=drawn(module, x)))
  net = drawn(Small(), x, seed=1)
  masks = tree.map(lambda w: w > 0 if w.ndim > 2 else jnp.ones(w.shape, bool), net.params)
  return run, net.replace(params=tree.keep(net.params, masks), masks=masks)


@pytest.fixture
def trained(monkeypatch):
  """What `train` was given and returned, of every call: (state, given, last state)."""
  stage, calls = importlib.import_module('reduction.stages.distill'), []
  train = stage.train

  def spy(update, evaluate, state, *args, given, **rest):
    last, best = train(update, evaluate, state, *args, given=given, **rest)
    calls.append((state, given, last))
    return last, best

  monkeypatch.setattr(stage, 'train', spy)
  return calls


def distill(run, net, workdir=None, **settings):
  """(student, curve rows) of a run of its own."""
  own = Run(run.data, run.seeds, workdir, nets=dict(run.nets))
  found = stages.distill(**TAUGHT | settings)(net, own)
  return found, [row for row in own.rows if row['kind'] == 'curve']


def test_a_masked_student_is_drawn_to_its_teacher(taught, trained, tmp_path, same):
  run, net = taught
  found, rows = distill(run, net, tmp_path / 'run', matches=PAIRS)
  for name in ('hint head/fc2', 'similarity head/fc1', 'kl'):
    assert (np.array(rows[-1][name]) < rows[0][name]).all()
  # its masks hold and the projection, which was trained, is gone
  for w, mask in zip(tree.leaves(found.params), tree.leaves(net.masks), strict=True):
    assert not np.asarray(w)[~np.asarray(mask)].any()
  assert tree.structure(found.params) == tree.structure(net.params) and found.masks is net.masks
  begun, given, last = trained[0]
  assert given[0] == {} and set(given[1]) == {*student.NUMBERS, 'live', 'weights'}
  (before,), (after,) = (tree.leaves(state['params']['projections']) for state in (begun, last))
  assert before.shape == (2, 8, 12) and (np.asarray(before != after).mean((1, 2)) > 0.9).all()
  # a run that was interrupted after its last step finds all again
  again, resumed = distill(run, net, tmp_path / 'run', matches=PAIRS)
  assert same(found.params, again.params) and same(last, trained[1][2]) and rows == resumed


def test_matches_of_weight_0_teach_what_soft_targets_alone_do(taught, trained):
  run, net = taught
  distill(run, net, matches=PAIRS)
  programs = student.matched.cache_info().misses, _chunk.cache_info().misses
  off, _ = distill(run, net, matches=tuple(dict(pair, weight=0.0) for pair in PAIRS))
  # other weights compile nothing anew
  assert programs == (student.matched.cache_info().misses, _chunk.cache_info().misses)
  alone, rows = distill(run, net)
  for a, b in zip(tree.leaves(off.params), tree.leaves(alone.params)):
    np.testing.assert_allclose(a, b, atol=1e-4)
  # without matches all is as if there were none: the student's own params, no teacher, no weights
  state, given, _ = trained[-1]
  assert tree.structure(state['params']) == tree.structure(net.params)
  assert set(given[0]) == {'teacher'} and set(given[1]) == set(student.NUMBERS)
  assert not [name for name in rows[0] if 'head' in name]


def test_a_weight_that_ends_draws_as_long_as_it_lasts(taught):
  run, net = taught
  kept = (dict(PAIRS[0], weight=2.0), PAIRS[1])
  gone = dict(name='piecewise_constant_schedule', init_value=2.0, boundaries_and_scales={'20': 0})
  _, rows = distill(run, net, matches=kept)
  _, others = distill(run, net, matches=(dict(PAIRS[0], weight=gone), PAIRS[1]))
  np.testing.assert_allclose(others[0]['hint head/fc2'], rows[0]['hint head/fc2'], rtol=1e-4)
  assert not np.allclose(others[1]['hint head/fc2'], rows[1]['hint head/fc2'], rtol=1e-3)


def test_a_memory_holds_what_the_teacher_says_of_other_examples(taught, trained):
  run, net = taught
  remembered = match('head/fc2', 'fc2', loss='contrastive', memory=32)
  distill(run, net, matches=(remembered,))
  _, given, _ = trained[0]
  (kept,) = given[1]['memory'].values()
  teacher, x = run.nets['teacher'], run.data.train.x
  for replica, own in enumerate(np.asarray(kept)):
    variables = tree.map(lambda w, r=replica: w[r], (teacher.params, teacher.stats))
    layer = np.asarray(matching.capture(teacher.module, *variables, x, ['fc2'])[1]['fc2'])
    apart = np.abs(own[:, None] - layer[None]).max(-1)
    assert own.shape == (32, 12) and (apart.min(1) < 1e-5).all()
    assert len(set(apart.argmin(1))) == 32
  assert not np.array_equal(*kept)
  with pytest.raises(UsageError, match="'contrastive head/fc2' has memory=9999 of 1297 examples"):
    distill(run, net, matches=(dict(remembered, memory=9_999),))


@pytest.mark.parametrize(
  'settings, message',
  [
    (dict(matches=PAIRS, members='all'), "name one instead of .*, with members='own' instead"),
    (dict(matches=PAIRS, teachers=('a', 'b')), r"one teacher .* name one instead of \('a', 'b'\)"),
    (dict(matches=PAIRS, top=2), 'top=2 keeps logits, but matches need a live teacher'),
    (dict(matches=({},)), r"matches\[0\] needs a name for 'student'"),
    (dict(method='dkd', label_mix=0.1), "label_mix=0.1 mixes labels .* method='dkd' leave it 0"),
    (dict(method='dkd', top=3), "top=3 hides classes, but method='dkd' looks at the label"),
    (dict(method='standardized', top=3), "but method='standardized' at all logits: leave top 0"),
    (dict(method='dkg'), "method='dkg' is unknown. Did you mean 'dkd'"),
    (dict(method='jsd', teachers=(), soft=0.0, hard=1.0), "method='jsd' needs teachers"),
  ],
  ids=lambda v: '',
)  # fmt: skip
def test_what_excludes_each_other_is_refused_before_anything_runs(settings, message):
  with pytest.raises(UsageError, match=message):
    stages.distill(**TAUGHT | settings)
