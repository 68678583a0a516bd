"""FedKD and its baselines on real digits: they learn, resume bit for bit, and count their bytes."""

import importlib

import jax.numpy as jnp
import numpy as np
import pytest

from reduction import mesh, models, stages, tree
from reduction.errors import UsageError
from reduction.federate import clients, rounds, server, setting
from reduction.net import create
from reduction.run import Run

ADAM = dict(name='adam', learning_rate=5e-3)
STUDENT, TEACHER = dict(name='mlp', widths=(16,)), dict(name='mlp', widths=(40,))
FEDERATION = dict(rounds=4, batch=32, epochs=2, partition=dict(name='iid', clients=4))
PAIRS = (dict(student='fc1', teacher='fc1'),)
WEIGHTS = 64 * 16 + 16 + 16 * 10 + 10


def kd(**federation):
  return stages.fedkd(
    federation=dict(FEDERATION, **federation), teachers=(TEACHER,), student=STUDENT,
    optimizer=ADAM, lesson=dict(pairs=PAIRS),
  )  # fmt: skip


def beside(digits, fresh):
  """The student of two rounds of FedKD with whole updates in which nets do not learn together."""
  stage = stages.fedkd(
    federation=dict(FEDERATION, rounds=2, codec=dict(name='dense')), teachers=(TEACHER,),
    student=STUDENT, optimizer=ADAM, lesson=dict(weight=0.0), fresh=fresh,
  )  # fmt: skip
  return done(stage, digits)[0]


def average(optimizer=ADAM, **settings):
  federation = dict(FEDERATION, **settings.pop('federation', {}))
  return stages.fedavg(federation=federation, optimizer=optimizer, student=STUDENT, **settings)


def done(stage, digits, seeds=(0,), workdir=None, **settings):
  """(what the stage made of a fresh net, the run)"""
  run = Run(digits, seeds, workdir, **settings)
  net = create(models.mlp(widths=(4,)), run.key('init', 0), digits.train.x[:1])
  return stage(net, run), run


def summary(run):
  (row,) = (row for row in run.rows if row['kind'] == 'federated')
  return row


def test_without_distillation_and_with_fresh_optimizers_fedkd_is_fedavg(digits):
  alone, _ = done(average(federation=dict(rounds=2)), digits)
  apart = lambda net: max(
    float(abs(a - b).max())
    for a, b in zip(tree.leaves(net.params), tree.leaves(alone.params), strict=True)
  )
  assert apart(beside(digits, True)) < 1e-5 < 1e-3 < apart(beside(digits, False))


@pytest.fixture(scope='module')
def whole(digits):
  return done(kd(), digits, (0, 1))


def test_fedkd_learns_sends_less_and_tells_both_scores(whole):
  net, run = whole
  row = summary(run)
  assert net.module == models.mlp(widths=(16,))
  assert min(row['test_accuracy'] + row['teacher_worst']) > 0.75
  dense = 4 * WEIGHTS
  rounds = [r for r in run.rows if r['kind'] == 'round']
  assert [r['step'] for r in rounds] == [1, 2, 3, 4]
  assert rounds[0]['down_bytes'] == [4 * dense] * 2  # nobody has the student yet
  assert all(0 < n < 4 * dense for r in rounds for n in r['up_bytes'])
  assert row['up_bytes'] == [sum(r['up_bytes'][i] for r in rounds) / 4 for i in (0, 1)]
  both = [row['up_bytes'][i] + row['down_bytes'][i] for i in (0, 1)]
  np.testing.assert_allclose(row['of_dense'], [n / (8 * dense) for n in both])
  assert rounds[-1]['teacher_task_loss'] < rounds[0]['teacher_task_loss']
  assert set(row) >= {'teacher_accuracy', 'teacher_best'} and row['teacher_errors'][0] > 0


def test_bytes_and_ranks_of_each_tensor_add_up(whole):
  _, run = whole
  rows = {r['tensor']: r for r in run.rows if r['kind'] == 'sent'}
  assert list(rows) == ['vectors', 'fc1/kernel', 'out/kernel']
  for way in 'up_bytes', 'down_bytes':
    total = np.sum([row[way] for row in rows.values()], 0)
    np.testing.assert_allclose(total, summary(run)[way])
  assert sum(row['dense_bytes'] for row in rows.values()) == 4 * WEIGHTS
  assert rows['vectors']['up_bytes'] == [4 * 4 * (16 + 10)] * 2  # four rounds, whole
  rounds, fc1 = [r for r in run.rows if r['kind'] == 'round'], rows['fc1/kernel']
  assert fc1['first_rank'] == rounds[0]['rank fc1/kernel']
  assert fc1['last_rank'] == rounds[-1]['rank fc1/kernel']
  ranks = {(r['tensor'], r['step']): r['rank'] for r in run.rows if r['kind'] == 'rank'}
  assert ranks == {
    (name, i + 1): rounds[i][f'rank {name}'] for name in ('fc1/kernel', 'out/kernel')
    for i in range(4)
  }  # fmt: skip


def test_bytes_of_tensors_where_clients_miss_rounds(digits, tmp_path):
  """Who missed one gets the student whole; read back from disk they are the same."""
  lossy = dict(rounds=3, share=0.5, failing=0.3)
  for codec in dict(name='low_rank', start=0.5, end=0.5), dict(name='dense'):
    _, run = done(average(federation=dict(lossy, codec=codec)), digits)
    rows = [r for r in run.rows if r['kind'] == 'sent']
    _, saved = done(average(federation=dict(lossy, codec=codec)), digits, (0,), tmp_path /
                    codec['name'], save_every=0)  # fmt: skip
    assert [r for r in saved.rows if r['kind'] == 'sent'] == rows != []
    for way in 'up_bytes', 'down_bytes':
      assert sum(row[way][0] for row in rows) == pytest.approx(summary(run)[way][0])


def test_a_part_of_a_model_goes_down_to_clients_whose_update_is_lost_too(digits):
  thin = dict(thin=0.5, feeds=(('fc1', 'out'),))
  _, run = done(average(**thin, federation=dict(rounds=3, failing=0.4)), digits)
  sent = 4 * (64 * 8 + 8 + 8 * 10 + 10)
  told = [(r['clients'][0], r['up_bytes'][0], r['down_bytes'][0]) for r in run.rows if (
    r['kind'] == 'round')]  # fmt: skip
  assert told == [(n, n * sent, 4 * sent) for n, _, _ in told] and min(told)[0] < 4
  for way in 'up_bytes', 'down_bytes':
    total = sum(r[way][0] for r in run.rows if r['kind'] == 'sent')
    assert total == pytest.approx(summary(run)[way][0])


def test_two_seeds_are_two_runs(whole, digits):
  alone, _ = done(kd(), digits, (1,))
  for a, b in zip(tree.leaves(alone.params), tree.leaves(whole[0].params), strict=True):
    np.testing.assert_allclose(a[0], b[1], atol=1e-5)


@pytest.mark.parametrize('disk', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_crash_changes_no_bit(disk, whole, digits, tmp_path, same, monkeypatch):
  """With what clients keep in memory, and one after another on disk."""
  settings = dict(disk=disk, group=1 if disk else 0)
  before, seen = rounds.one_round, []

  def dies(parts, carry, number, run):
    seen.append(number)
    ended = before(parts, carry, number, run)
    if seen.count(2) == 1 and number == 2:  # what clients keep is written, the round not committed
      raise RuntimeError('crash')
    return ended

  monkeypatch.setattr(rounds, 'one_round', dies)
  with pytest.raises(RuntimeError, match='crash'):
    done(kd(**settings), digits, (0, 1), tmp_path, save_every=0)
  net, run = done(kd(**settings), digits, (0, 1), tmp_path, save_every=0)
  assert seen == [0, 1, 2, 2, 3]
  if disk:
    other, _ = done(kd(**settings), digits, (0, 1), tmp_path / 'whole', save_every=0)
    assert same(net, other)
    for a, b in zip(tree.leaves(net.params), tree.leaves(whole[0].params), strict=True):
      np.testing.assert_allclose(a, b, atol=1e-4)  # of another program, of one client
    files = (path for path in (tmp_path / 'stores').rglob('*') if path.is_file())
    assert {path.name.split('.')[1] for path in files} == {'0', '1', '2', '3'}
  else:
    assert same(net, whole[0])
    ours, theirs = ([r for r in of.rows if r['kind'] == 'round'] for of in (run, whole[1]))
    assert ours == theirs


def test_what_a_codec_keeps_of_each_client_may_lie_on_disk(digits, tmp_path, same):
  codec = dict(name='low_rank', start=0.5, end=0.5, feedback=True)
  rules = dict(FEDERATION, share=0.5, codec=codec)
  here, run = done(average(federation=rules), digits, (0, 1))
  there, saved = done(
    average(federation=dict(rules, disk=True)), digits, (0, 1), tmp_path, save_every=0
  )
  assert same(here, there)
  assert [r for r in run.rows if r['kind'] == 'sent'] == [
    r for r in saved.rows if r['kind'] == 'sent'
  ]
  names = {path.name.rsplit('.', 1)[0] for path in tmp_path.rglob('senders/*')}
  assert names and names <= {f'{seed}.{client}' for seed in (0, 1) for client in range(4)}
  without, _ = done(
    average(federation=dict(rules, codec=dict(codec, feedback=False))), digits, (0, 1)
  )
  assert not same(here, without)


@pytest.mark.slow
def test_clients_on_a_mesh_are_the_same(whole, digits):
  net, _ = done(kd(), digits, (0, 1), mesh=mesh.make(4))
  for a, b in zip(tree.leaves(net.params), tree.leaves(whole[0].params), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-3)


@pytest.mark.slow
def test_a_last_group_smaller_than_the_mesh_is_the_same(digits):
  rules = dict(rounds=2, group=4, partition=dict(name='iid', clients=6))
  alone, run = done(kd(**rules), digits)
  net, other = done(kd(**rules), digits, mesh=mesh.make(4))
  for a, b in zip(tree.leaves(net.params), tree.leaves(alone.params), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-3)
  told = lambda run: [(r['up_bytes'], r['clients']) for r in run.rows if r['kind'] == 'round']
  assert told(run) == told(other) and told(run)[0][1] == [6]


@pytest.mark.slow
def test_clients_at_once_are_those_one_after_another(whole, digits, monkeypatch):
  """As on an accelerator: teacher and student of each client under `jax.vmap`."""
  real = clients.training
  at_once = lambda method, augment, how, mesh: real(method, augment, 'vmap', mesh)
  monkeypatch.setattr(clients, 'training', at_once)
  net, run = done(kd(), digits, (0, 1))
  for a, b in zip(tree.leaves(net.params), tree.leaves(whole[0].params), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-3)
  assert summary(run)['up_bytes'] == pytest.approx(summary(whole[1])['up_bytes'], rel=0.02)


@pytest.mark.slow
def test_teachers_of_two_kinds_share_one_student(digits):
  other = dict(name='mlp', widths=(30, 20))
  stage = stages.fedkd(
    federation=dict(FEDERATION, rounds=2), teachers=(TEACHER, other), student=STUDENT,
    optimizer=ADAM,
  )  # fmt: skip
  _, run = done(stage, digits)
  assert summary(run)['teacher_worst'][0] > 0.5 and summary(run)['clients'] == 4


@pytest.mark.parametrize('stage', [average, lambda: kd()], ids=['fedavg', 'fedkd'])
def test_what_a_client_breaks_is_refused_and_counted_as_its_own(stage, digits, monkeypatch):
  from reduction.federate import rounds

  honest = rounds.train

  def broken(*args):
    updates, kept, told = honest(*args)
    return {name: jnp.asarray(x).at[:, 2].set(jnp.inf) for name, x in updates.items()}, kept, told

  monkeypatch.setattr(rounds, 'train', broken)
  _, run = done(stage(), digits)
  assert summary(run)['refused'] == [4] and summary(run)['test_accuracy'][0] > 0.6
  told = [(r['client'], r['refused']) for r in run.rows if r['kind'] == 'refusals']
  assert told == [(2, [4])]
  assert [r['clients'] for r in run.rows if r['kind'] == 'round'] == [[3]] * 4


@pytest.mark.slow
def test_who_was_away_is_sent_the_dense_student(digits):
  _, run = done(kd(share=0.5, rounds=6), digits)
  downs = [r['down_bytes'][0] / (4 * WEIGHTS) for r in run.rows if r['kind'] == 'round']
  assert downs[0] == 2 and max(downs) == 2 and 0 < min(downs) < 2
  assert all(r['clients'] == [2] for r in run.rows if r['kind'] == 'round')


def test_a_server_s_sgd_of_rate_1_is_fedavg_and_of_half_goes_half_the_way(digits):
  once = lambda **how: done(average(federation=dict(rounds=1), **how), digits)[0].params
  of = lambda rate: dict(server_optimizer=dict(name='sgd', learning_rate=rate))
  ends = once(), once(**of(1.0)), once(**of(0.5)), once(**of(1e-9))
  for plain, one, half, none in zip(*map(tree.leaves, ends), strict=True):
    np.testing.assert_allclose(one, plain, atol=1e-6)
    np.testing.assert_allclose(half - none, 0.5 * (plain - none), atol=1e-6)


@pytest.mark.slow
def test_the_kin_of_fedavg_learn_and_count(digits):
  sgd = dict(name='sgd', learning_rate=0.5)
  dense = 4 * WEIGHTS * 4  # four rounds
  for stage, share in (
    (average(), 1), (average(proximal=0.01), 1), (average(sgd, method='scaffold'), 2),
    (average(sgd, server_optimizer=dict(name='adam', learning_rate=3e-2)), 1),
  ):  # fmt: skip
    _, run = done(stage, digits)
    row = summary(run)
    assert row['up_bytes'] == row['down_bytes'] == [share * dense] and row['of_dense'] == [1.0]
    assert row['test_accuracy'][0] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
  'codec, share, right',
  [(dict(name='quantized', bits=4), 0.13, 0.7), (dict(name='power', rank=4), 0.4, 0.5)],
)
def test_codecs_learn_with_fewer_bytes(codec, share, right, digits):
  _, run = done(average(federation=dict(codec=codec)), digits)
  row = summary(run)
  assert row['up_bytes'][0] < share * 4 * 4 * WEIGHTS and row['test_accuracy'][0] > right


@pytest.mark.slow
def test_a_sketch_as_wide_as_the_model_learns_and_sends_down_what_it_chose(digits):
  """In four rounds a narrower one learns nothing; configs/fedkd/digits.py has 30 for a third."""
  codec = dict(name='sketch', rows=3, columns=600, top=400, momentum=0.0)
  _, run = done(average(federation=dict(codec=codec)), digits)
  row = summary(run)
  assert row['up_bytes'] == [4 * 4 * 3 * 600] and row['test_accuracy'][0] > 0.3
  assert row['down_bytes'][0] < row['up_bytes'][0]


def test_feddropout_pays_for_what_it_trains(digits):
  _, run = done(average(thin=0.5, feeds=(('fc1', 'out'),)), digits)
  row = summary(run)
  sent = 4 * (64 * 8 + 8 + 8 * 10 + 10)  # half of the units, what they feed, all outputs
  assert row['up_bytes'] == row['down_bytes'] == [4 * sent]
  assert row['test_accuracy'][0] > 0.4
  with pytest.raises(UsageError, match='FedDropout has its own codec'):
    average(federation=dict(codec=dict(name='quantized')), thin=0.5)


def test_masks_hold_and_pruned_weights_stay_zero(digits):
  run = Run(digits)
  net = create(models.mlp(widths=(16,)), run.key('init', 0), digits.train.x[:1])
  masks = tree.map(lambda w: w > 0 if w.ndim > 2 else w == w, net.params)
  net = net.replace(params=tree.keep(net.params, masks), masks=masks)
  stage = stages.fedkd(
    federation=dict(FEDERATION, rounds=2), teachers=(TEACHER,), optimizer=ADAM,
  )  # fmt: skip
  got = stage(net, run)
  for w, mask in zip(tree.leaves(got.params), tree.leaves(masks), strict=True):
    assert not np.asarray(w)[~np.asarray(mask)].any()


def test_rounds_in_which_too_few_arrive_change_nothing(digits):
  stage = average(federation=dict(failing=0.9, rules=dict(least=4), rounds=3))
  net, run = done(stage, digits)
  fresh = create(models.mlp(widths=(16,)), run.key('init', 0), digits.train.x[:1])
  assert [r['void'] for r in run.rows if r['kind'] == 'round'] == [[1]] * 3
  for a, b in zip(tree.leaves(net.params), tree.leaves(fresh.params), strict=True):
    assert np.array_equal(a, b)


@pytest.mark.slow
def test_clients_alone_and_fedmd(digits):
  settings = dict(federation=FEDERATION, optimizer=ADAM, student=STUDENT)
  _, alone = done(stages.fedmd(**settings), digits)
  net, together = done(stages.fedmd(**settings, public=200), digits)
  assert net.module.widths == (16,)
  assert summary(alone)['up_bytes'] == [0]
  assert summary(together)['up_bytes'] == [4 * 200 * 10 * 4]
  assert min(summary(run)['test_accuracy'][0] for run in (alone, together)) > 0.6
  rounds = [r for r in together.rows if r['kind'] == 'round']
  assert rounds[-1]['digest_loss'] < rounds[0]['digest_loss']


def test_clients_alone_begin_from_a_net_that_was_there_and_keep_what_is_frozen(digits):
  run = Run(digits)
  large = create(models.mlp(widths=(16,)), run.key('init', 5), digits.train.x[:1])
  run.nets['large'] = large
  stage = stages.fedmd(
    federation=dict(FEDERATION, rounds=1), optimizer=ADAM, student=STUDENT, public=64,
    inherits=dict(of='large'), frozen='fc1',
  )  # fmt: skip
  net = stage(large, run)
  same = {
    name: np.array_equal(net.params[name]['kernel'], large.params[name]['kernel'])
    for name in ('fc1', 'out')
  }
  assert same == dict(fc1=True, out=False)


def thinned(rules):
  plan = setting.read(FEDERATION)._replace(rules=rules)
  return importlib.import_module('reduction.stages.fedavg').of_parts(plan, 0.4, 'fc')


def md(**federation):
  settings = dict(optimizer=ADAM, student=STUDENT, public=200)
  return stages.fedmd(federation=dict(FEDERATION, **federation), **settings)


def test_logits_that_are_not_finite_have_no_part_in_what_clients_agree_on(digits, monkeypatch):
  module = importlib.import_module('reduction.stages.fedmd')
  real = module.speaker
  one_lies = lambda of: lambda *given: real(of)(*given).at[1].set(jnp.nan)
  monkeypatch.setattr(module, 'speaker', one_lies)
  _, run = done(md(rules=dict(least=3)), digits)
  (refused,) = [row for row in run.rows if row['kind'] == 'refusals']
  assert (refused['client'], refused['refused']) == (1, [4])
  assert summary(run)['refused'] == [4] and summary(run)['test_accuracy'][0] > 0.5
  told = [(row['refused'], row['void']) for row in run.rows if row['kind'] == 'round']
  assert told == [([1], [0])] * 4
  kept, run = done(md(rounds=1, rules=dict(least=4)), digits)
  assert [row['void'] for row in run.rows if row['kind'] == 'round'] == [[1]]
  assert tree.finite(kept.params)


def test_wrong_settings_are_refused():
  for make, says in (
    (lambda: kd(round=3), "config.federation has no 'round'"),
    (lambda: kd(partition=dict(name='idd', clients=4)), "Did you mean 'iid'"),
    (lambda: kd(codec=dict(name='low_rank', energy=1)), "no 'energy'"),
    (lambda: kd(share=0.0), 'share=0.0'),
    (lambda: kd(rules=dict(secure=3)), 'secure aggregation is refused: the factors of a sum'),
    (lambda: average(federation=dict(rules=dict(secure=5))), 'threshold=5'),
    (lambda: average(method='scaffold'), 'scaffold takes steps of one size'),
    (lambda: stages.fedmd(federation=FEDERATION, optimizer=ADAM, public=3), 'public=3'),
    (lambda: md(rules=dict(clip=1.0)), 'all of rules but least'),
    (lambda: md(codec=dict(name='low_rank')), 'leave codec'),
    (lambda: thinned(server.rules(noise=8.0, clip=1.0, weights='uniform')), 'leave rules.noise'),
    (lambda: average(thin=0.4, federation=dict(rules=dict(secure=3))), 'leave rules.noise'),
  ):  # fmt: skip
    with pytest.raises(UsageError, match=says):
      make()
