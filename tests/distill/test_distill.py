"""Ensembles, kept targets, transfer sets and bias correction, by hand and against plain forms."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction import losses, models, predict
from reduction.distill import bias, ensembles, targets, teachers, transfer
from reduction.distill.student import distilled
from reduction.errors import MissingInput, UsageError
from reduction.net import create
from reduction.schedule import schedule

RNG = np.random.default_rng(0)
MEMBERS = jnp.asarray(3 * RNG.standard_normal((4, 5, 7)), jnp.float32)  # members, n, classes


@pytest.mark.parametrize('t', [0.5, 1.0, 20.0])
def test_an_arithmetic_ensemble_is_the_mean_of_the_probabilities_at_its_temperature(t):
  found = jax.nn.softmax(ensembles.combined(MEMBERS, t) / t)
  np.testing.assert_allclose(found, jax.nn.softmax(MEMBERS / t).mean(0), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize('t', [0.5, 1.0, 20.0])
def test_a_geometric_ensemble_is_their_normalized_geometric_mean(t):
  product = np.exp(np.log(np.asarray(jax.nn.softmax(MEMBERS / t), np.float64)).mean(0))
  found = jax.nn.softmax(ensembles.combined(MEMBERS, t, mean='geometric') / t)
  np.testing.assert_allclose(found, product / product.sum(-1, keepdims=True), rtol=1e-4)


def test_an_ensemble_of_one_is_itself_and_an_unknown_mean_is_refused():
  for mean in ensembles.MEANS:
    np.testing.assert_array_equal(ensembles.combined(MEMBERS[:1], 3.0, mean=mean), MEMBERS[0])
  with pytest.raises(UsageError, match="mean='harmonic' is unknown"):
    ensembles.combined(MEMBERS, 1.0, mean='harmonic')


@pytest.mark.parametrize('t', [1.0, 4.0])
def test_the_tail_has_the_mass_of_all_other_classes(t):
  teacher, student = MEMBERS[0], MEMBERS[1]
  kept, indices = ensembles.top(teacher, 3, t)
  p = np.sort(np.asarray(jax.nn.softmax(teacher / t)), -1)[:, ::-1]
  found = np.asarray(jax.nn.softmax(kept / t))
  np.testing.assert_allclose(found[:, :3], p[:, :3], rtol=1e-5)
  np.testing.assert_allclose(found[:, 3], p[:, 3:].sum(-1), rtol=1e-5)
  coarse = losses.soft_divergence(ensembles.at(student, indices, t), kept, temperature=t)
  fine = losses.soft_divergence(student, teacher, temperature=t)
  assert 0 < coarse < fine  # merging classes loses some of the divergence
  all_but_one, indices = ensembles.top(teacher, 6, t)  # a tail of one class loses none
  whole = losses.soft_divergence(ensembles.at(student, indices, t), all_but_one, temperature=t)
  assert whole == pytest.approx(float(fine), rel=1e-4)


@pytest.mark.parametrize('k', [0, 7])
def test_a_top_of_none_or_all_is_refused(k):
  with pytest.raises(UsageError, match=f'k={k} of 7 classes must be from 1 to 6'):
    ensembles.top(MEMBERS[0], k, 1.0)


@pytest.fixture
def net(digits):
  """Two replicates of a small net, and 30 images."""
  module = models.mlp(widths=(8,))
  keys = jnp.stack([jax.random.key(0), jax.random.key(1)])
  return create(module, keys, digits.train.x[:1]), digits.train.x[:30]


def test_logits_do_not_depend_on_blocks_and_are_those_of_the_module(net):
  net, x = net
  whole = targets.logits(net, x)
  one = net.module.apply({'params': jax.tree.map(lambda w: w[1], net.params)}, x)
  np.testing.assert_allclose(whole[1], one, rtol=1e-5, atol=1e-6)
  for block in 7, 10, 30, 100:
    params = jax.tree.map(lambda w: w[1], net.params)
    found = predict.predictor(net.module, block)(params, {}, x)
    np.testing.assert_allclose(found, one, rtol=1e-5, atol=1e-6)


def test_kept_logits_are_read_back_and_keyed_by_net_and_data(net, tmp_path, monkeypatch):
  net, x = net
  first = targets.logits(net, x, tmp_path)
  assert len(list(tmp_path.glob('*.npy'))) == 1
  predicted = []
  monkeypatch.setattr(predict, 'logits', lambda *given: predicted.append(given))
  again = targets.logits(net, x, tmp_path)
  assert isinstance(again, np.memmap) and np.array_equal(first, again) and not predicted
  monkeypatch.undo()
  other = net.replace(params=jax.tree.map(lambda w: w + 1, net.params))
  assert not np.array_equal(targets.logits(other, x, tmp_path), first)
  targets.logits(net, x[::-1].copy(), tmp_path)
  assert len(list(tmp_path.glob('*.npy'))) == 3


@pytest.mark.parametrize('harm', [lambda b: b[:-4], lambda b: b[:-1] + bytes([b[-1] ^ 1])])
def test_damaged_logits_are_computed_again(net, tmp_path, caplog, harm):
  net, x = net
  first = np.array(targets.logits(net, x, tmp_path))
  (path,) = tmp_path.glob('*.npy')
  path.write_bytes(harm(path.read_bytes()))
  with caplog.at_level(logging.WARNING):
    assert np.array_equal(targets.logits(net, x, tmp_path), first)
  assert 'is damaged: computed again' in caplog.text
  assert np.array_equal(np.load(path), first)


@pytest.mark.parametrize('members, rows', [('own', 2), ('all', 1)])
def test_what_is_kept_of_many_classes_is_the_likeliest_alone(
  net, tmp_path, monkeypatch, members, rows
):
  net, x = net
  how = dict(members=members, mean='arithmetic', temperature=2.0)
  whole = teachers.kept_logits([net], x, 2, **how)[:, :, 0]
  bins, indices = ensembles.top(jnp.asarray(whole), 3, 2.0)
  monkeypatch.setattr(teachers, 'BLOCK', 7)
  most = []
  said = predict.logits
  monkeypatch.setattr(predict, 'logits', lambda n, x: most.append(len(x)) or said(n, x))
  for _ in range(2):
    found = teachers.kept_top([net], x, 2, 3, folder=tmp_path, **how)
    np.testing.assert_allclose(found[0], bins, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found[1], indices)
  assert most == [7, 7, 7, 7, 2]  # never of all inputs, and once
  (path,) = tmp_path.glob('*.npy')
  assert path.stat().st_size < 30 * rows * (4 + 3) * 4 + 512  # 4 logits and 3 places of 10 classes
  teachers.kept_top([net], x, 2, 4, folder=tmp_path, **how)
  teachers.kept_top([net], x, 2, 3, folder=tmp_path, **how | dict(temperature=1.0))
  assert len(list(tmp_path.glob('*.npy'))) == 3


def test_each_student_has_its_own_teacher_or_all_have_all(net):
  net, x = net
  lone = jax.tree.map(lambda w: w[:1] + 0.5, net.params)
  nets, each = [net, net.replace(params=lone)], targets.logits(net, x)
  alone = targets.logits(nets[1], x)[0]
  kept = lambda members, replicas: teachers.kept_logits(
    nets, x, replicas, members=members, mean='geometric', temperature=2.0
  )[:, :, 0]
  own, ours = kept('own', 2), kept('all', 3)
  for r in range(2):
    np.testing.assert_allclose(own[r], (each[r] + alone) / 2, rtol=1e-5, atol=1e-6)
  assert ours.shape == (3, 30, 10) and np.array_equal(ours[0], ours[2])
  np.testing.assert_allclose(ours[0], (each[0] + each[1] + alone) / 3, rtol=1e-5, atol=1e-6)
  with pytest.raises(UsageError, match=r"2 seeds cannot teach 3 students .* members='all'"):
    teachers.check(nets, 3, 'own')


def test_members_are_kept_apart_where_the_temperature_changes(net):
  net, x = net
  found = teachers.kept_logits(
    [net], x, 1, members='all', mean='arithmetic', temperature=lambda step: 1.0
  )
  assert found.shape == (1, 30, 2, 10)
  np.testing.assert_array_equal(found[0, :, 1], targets.logits(net, x)[1])


def test_live_teachers_are_placed_like_kept_ones(net):
  net, _ = net
  shape = lambda nets, replicas, members: jax.tree.leaves(
    teachers.live(nets, replicas, members)[0][0]
  )[0].shape[:2]
  lone = net.replace(params=jax.tree.map(lambda w: w[:1], net.params))
  assert shape([net], 2, 'own') == (2, 1)
  assert shape([net], 3, 'all') == (3, 2)
  assert shape([lone], 3, 'own') == (3, 1)


@pytest.mark.parametrize('mean', ensembles.MEANS)
def test_live_teachers_of_two_architectures_say_what_kept_ones_do(net, mean):
  one, x = net
  other = create(models.mlp(widths=(4, 4)), jax.random.split(jax.random.key(2), 2), x[:1])
  student = create(models.mlp(widths=(6,)), jax.random.split(jax.random.key(3), 2), x[:1])
  nets, numbers = [one, other], dict(temperature=3.0, soft=1.0, hard=0.2, label_mix=0.1)
  kept = teachers.kept_logits(nets, x, 2, members='all', mean=mean, temperature=3.0)[0]
  lone = lambda tree: jax.tree.map(lambda w: jnp.asarray(w[0]), tree)
  asked = lambda loss, inputs, given: loss(
    lone(student.params), {}, (inputs, np.arange(30) % 10, numbers | given), jax.random.key(0)
  )[0]
  modules = tuple(n.module for n in nets)
  live = distilled(student.module, teachers=modules, mean=mean)
  given = dict(live=lone(teachers.live(nets, 2, 'all')))
  from_disk = asked(distilled(student.module, mean=mean), x, dict(teacher=kept))
  np.testing.assert_allclose(asked(live, x, given), from_disk, rtol=1e-5)
  # of images that changed they say what they say of those, not of the ones before
  moved = np.roll(x, 1, 1)
  kept = teachers.kept_logits(nets, moved, 2, members='all', mean=mean, temperature=3.0)[0]
  changed = asked(live, moved, given)
  np.testing.assert_allclose(
    changed, asked(distilled(student.module, mean=mean), moved, dict(teacher=kept)), rtol=1e-5
  )
  assert abs(changed - from_disk) > 1e-3


@pytest.mark.parametrize('step', [0, 40, 150])
@pytest.mark.parametrize('name', ['temperature', 'soft', 'hard', 'label_mix'])
def test_a_number_that_changes_is_what_it_is_at_the_step(net, name, step):
  net, x = net
  ramp = schedule(
    dict(name='linear_schedule', init_value=0.2, end_value=0.8, transition_steps=100), name
  )
  numbers = dict(temperature=3.0, soft=0.7, hard=0.35, label_mix=0.1)
  params = jax.tree.map(lambda w: w[0], net.params)
  said = 3 * jax.random.normal(jax.random.key(4), (30, 1, 10))
  asked = lambda numbers, **how: distilled(net.module, **how)(
    params, {}, (x, np.arange(30) % 10, numbers | dict(teacher=said, step=step)), jax.random.key(0)
  )[0]
  now = 0.2 + 0.6 * min(step, 100) / 100
  found = asked({n: v for n, v in numbers.items() if n != name}, schedules=((name, ramp),))
  np.testing.assert_allclose(found, asked(numbers | {name: now}), rtol=1e-5)
  assert abs(found - asked(numbers)) > 1e-4


def test_a_teacher_that_is_not_there_is_named(tmp_path):
  with pytest.raises(UsageError, match=r"^'dense' is no earlier stage \(tune\)"):
    teachers.find('dense', dict(tune=None))
  with pytest.raises(MissingInput, match='no workdir of a run'):
    teachers.find(str(tmp_path), {})


LABELS = np.array([3, 1, 3, 0, 2, 1, 0, 3])


@pytest.mark.parametrize(
  'settings, expected',
  [
    ({}, [0, 1, 2, 3, 4, 5, 6, 7]),
    (dict(omit=(3,)), [1, 3, 4, 5, 6]),
    (dict(only=(3, 0)), [0, 2, 3, 6, 7]),
    (dict(share=0.5), [0, 1, 2, 3]),
    (dict(omit=(3,), share=0.4), [1, 3]),
  ],
)
def test_transfer_sets(settings, expected):
  found = transfer.subset(LABELS, **settings)
  assert found.tolist() == expected
  assert transfer.absent(LABELS, found) == tuple({0, 1, 2, 3} - set(LABELS[expected].tolist()))


@pytest.mark.parametrize(
  'settings, message',
  [
    (dict(omit=(1,), only=(2,)), 'name one of them'),
    (dict(share=0.0), r'share=0.0 must lie in \(0, 1\]'),
    (dict(omit=(7,)), 'class 7 is not in the training set'),
    (dict(only=(2,)), 'transfer set of 1 examples of one class'),
  ],
)
def test_transfer_sets_that_teach_nothing_are_refused(settings, message):
  with pytest.raises(UsageError, match=message):
    transfer.subset(LABELS, **settings)


def test_scores_by_hand():
  logits = np.eye(4)[[[3, 1, 3, 0, 2, 1, 0, 3], [3, 1, 1, 0, 2, 1, 0, 0]]]
  found = predict.scores(logits, LABELS, (3,))
  assert found['test_errors'].tolist() == [0, 2]
  np.testing.assert_allclose(found['test_accuracy'], [1, 0.75])
  np.testing.assert_allclose(found['missing_accuracy'], [1, 1 / 3])


def errors(logits, labels, classes, shift):
  """Errors once shift is added to the logits of classes."""
  raised = np.asarray(logits, np.float64).copy()
  raised[:, list(classes)] += shift
  return int((raised.argmax(1) != labels).sum())


@pytest.mark.parametrize('classes', [(3,), (0, 2)])
@pytest.mark.parametrize('seed', range(5))
def test_no_shift_has_fewer_errors_than_the_best(seed, classes):
  rng = np.random.default_rng(seed)
  logits = rng.standard_normal((60, 4)) + 2 * np.eye(4)[labels := rng.integers(0, 4, 60)]
  logits[:, list(classes)] -= 3.0  # as if never seen
  found = bias.best(logits, labels, classes)
  tried = min(errors(logits, labels, classes, shift) for shift in np.linspace(-15, 15, 3001))
  assert errors(logits, labels, classes, found) <= tried < errors(logits, labels, classes, 0.0)


def test_equal_gaps_are_passed_together():
  logits, labels = np.array([[1.0, 0.0]] * 3), np.array([1, 1, 0])
  assert bias.best(logits, labels, (1,)) > 1  # two right and one wrong, not two right


def test_the_prior_shift_gives_absent_classes_their_frequency():
  logits = 2 * RNG.standard_normal((500, 5))
  for classes, frequency in ((2,), 0.2), ((0, 4), 0.7):
    raised = logits.copy()
    raised[:, list(classes)] += bias.by_prior(logits, classes, frequency)
    mass = np.asarray(jax.nn.softmax(raised))[:, list(classes)].sum(1).mean()
    assert mass == pytest.approx(frequency, abs=1e-4)
