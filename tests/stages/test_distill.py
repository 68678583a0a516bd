"""Students on real digits: what teachers, transfer sets, masks and caches do to a run."""

import jax
import numpy as np
import pytest

from reduction import losses, models, saved, stages, tree
from reduction.distill import targets
from reduction.errors import DataError, MissingInput, UsageError
from reduction.models.served import unpacked
from reduction.qtensor import is_packed
from reduction.run import Run, chain

ADAM = dict(name='adam', learning_rate=2e-3)
SHORT = dict(steps=200, batch=60, every=100, optimizer=ADAM)
SMALL = dict(name='mlp', widths=(16,))
TAUGHT = dict(SHORT, student=SMALL, teachers=('teacher',), temperature=4.0)


def rows(run, kind, at=None):
  """The rows of a kind, of one stage where at is given."""
  return [r for r in run.rows if r['kind'] == kind and at in (None, r['at'])]


@pytest.fixture(scope='module')
def learned(digits, module):
  """A run of two seeds whose stages students can be added to, and its workdir's files."""
  from reduction.net import create

  run = Run(digits, seeds=(0, 1))
  net = create(module, run.key('init', 0), digits.train.x[:1])
  taught = chain(
    teacher=stages.tune(**dict(SHORT, steps=600)),
    hard=stages.distill(**dict(SHORT, student=SMALL, soft=0.0, hard=1.0)),
    soft=stages.distill(**TAUGHT),
    without_3=stages.distill(**TAUGHT, transfer=dict(omit=(3,))),
    on_test=stages.correct(classes=(3,), select_on='test'),
    on_validation=stages.correct(classes=(3,), of='without_3'),
    by_prior=stages.correct(classes=(3,), select_on='prior', of='without_3'),
  )
  taught(net, run)
  return run


def test_a_student_comes_close_to_its_teacher(learned):
  (teacher,), (tune,) = rows(learned, 'teacher', 'soft'), rows(learned, 'tune')
  assert teacher['test_errors'] == tune['test_errors']  # each seed has its own
  soft = rows(learned, 'distill', 'soft')[0]
  assert soft['temperature'] == 4 and soft['soft'] == 1 and soft['hard'] == 0
  test = learned.data.test
  net = learned.nets['soft']
  wrong = [(l.argmax(1) != test.y).sum() for l in targets.logits(net, test.x)]
  assert soft['test_errors'] == wrong and max(wrong) < 60
  curve = [row['kl'] for row in learned.rows if row['kind'] == 'curve' and row['at'][:4] == 'soft']
  assert len(curve) == 2 and (np.array(curve[1]) < curve[0]).all()


def test_hard_labels_alone_are_plain_training(learned, digits):
  from reduction.net import create

  run = Run(digits, seeds=(0, 1))
  net = create(models.mlp(widths=(16,)), run.key('init', 0), digits.train.x[:1])
  plain = stages.tune(**SHORT)(net, run)
  for a, b in zip(*(tree.leaves(net.params) for net in (plain, learned.nets['hard']))):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_kept_divergence_is_that_of_the_nets(learned):
  # the loss that was logged falls on the loss computed anew from both nets
  x = learned.data.train.x
  student, teacher = (targets.logits(learned.nets[n], x) for n in ('soft', 'teacher'))
  now = [float(losses.soft_divergence(s, t, temperature=4.0)) for s, t in zip(student, teacher)]
  logged = [row for row in learned.rows if row['kind'] == 'curve' and row['at'][:4] == 'soft'][-1]
  np.testing.assert_allclose(now, logged['kl'], rtol=0.5)  # a mean over 100 steps, falling


def test_a_class_never_shown_is_known_after_one_number(learned):
  before = rows(learned, 'distill', 'without_3')[0]
  assert before['examples'] == int((learned.data.train.y != 3).sum())
  assert max(before['missing_accuracy']) < 0.5
  after = {at: rows(learned, 'correct', at)[0] for at in ('on_test', 'on_validation', 'by_prior')}
  for row in after.values():
    assert min(row['shift']) > 0 and min(row['missing_accuracy']) > 0.6
    assert (np.array(row['test_errors']) < before['test_errors']).all()
  assert (np.array(after['on_test']['test_errors']) <= after['by_prior']['test_errors']).all()
  ours, theirs = (dict(tree.named(learned.nets[n].params)) for n in ('on_test', 'without_3'))
  moved = {name for name in ours if not np.array_equal(ours[name], theirs[name])}
  assert moved == {'out/bias'}


@pytest.mark.parametrize('settings', [
  dict(augment='jitter'), dict(members='all', teachers=('teacher', 'soft')), dict(top=3),
  dict(members='all', mean='geometric', hard=0.5, label_mix=0.1),
  dict(temperature=dict(name='linear_schedule', init_value=8.0, end_value=2.0,
                        transition_steps=100), members='all'),
  {name: dict(name='linear_schedule', init_value=a, end_value=b, transition_steps=150)
   for name, a, b in (('soft', 1.0, 0.2), ('hard', 0.0, 1.0), ('label_mix', 0.5, 0.0))},
], ids=str)  # fmt: skip
def test_every_way_to_teach_learns(learned, settings):
  run = Run(learned.data, seeds=(0, 1), nets=dict(learned.nets))
  stages.distill(**TAUGHT | settings)(run.nets['teacher'], run)
  curve = [row['kl'] for row in run.rows if row['kind'] == 'curve']
  if not isinstance(settings.get('temperature'), dict):  # T^2 times the divergence at another T
    assert (np.array(curve[1]) < curve[0]).all()
  assert min(rows(run, 'distill')[0]['test_accuracy']) > (0.4 if 'augment' in settings else 0.7)


def test_a_student_starts_from_and_ends_as_a_masked_net(learned):
  run = Run(learned.data, seeds=(0, 1), nets=dict(learned.nets))
  find = stages.lottery(rounds=1, rates=(('kernel', 0.5),), **SHORT)
  ticket = find(learned.nets['teacher'], run.child('prune'))
  after = stages.distill(**dict(TAUGHT, student=None, soft=1.0))(ticket, run.child('distill'))
  assert after.module == ticket.module
  changed = False
  for w, mask, before in zip(*map(tree.leaves, (after.params, ticket.masks, ticket.params))):
    assert not np.asarray(w)[~np.asarray(mask)].any()
    changed |= not np.array_equal(w, before)
  assert changed


def test_teachers_of_images_that_move_are_asked_each_time_and_nothing_is_kept(learned, tmp_path):
  kept = {}
  for augment in None, 'jitter':
    run = Run(learned.data, (0, 1), tmp_path / str(augment), nets=dict(learned.nets))
    stages.distill(**TAUGHT, augment=augment)(run.nets['teacher'], run.child('student'))
    kept[augment] = [p for p in (tmp_path / str(augment)).rglob('*') if 'teachers' in p.parts]
  assert kept[None] and not kept['jitter']


@pytest.fixture(scope='module')
def packed(learned):
  """The teacher, half of its weights pruned, in 4 bits."""
  run = Run(learned.data, seeds=(0, 1), nets=dict(learned.nets))
  find = stages.lottery(rounds=1, rates=(('kernel', 0.5),), **SHORT)
  ticket = find(learned.nets['teacher'], run.child('prune'))
  small = stages.qat(bits=4, group='channel', symmetric=True, **SHORT)
  return ticket, small(ticket, run.child('pack'))


def test_a_packed_net_teaches(learned, packed):
  run = Run(learned.data, seeds=(0, 1), nets=dict(packed=packed[1]))
  stages.distill(**dict(TAUGHT, teachers=('packed',)))(packed[1], run)
  (teacher,), (row,) = rows(run, 'teacher'), rows(run, 'distill')
  assert min(teacher['test_accuracy']) > 0.85 and min(row['test_accuracy']) > 0.6


def test_a_student_starts_from_and_ends_as_a_packed_net(learned, packed):
  """What pruning silenced is the code of 0 from the ticket through training to the packed net."""
  ticket, small = packed
  run = Run(learned.data, seeds=(0, 1), nets=dict(learned.nets))
  start = unpacked(small)
  assert start.module == ticket.module and not any(
    is_packed(w) for w in jax.tree.leaves(start.params, is_leaf=is_packed)
  )
  started = start.replace(masks=ticket.masks)  # a packed net has none: its zeros are codes
  again = dict(TAUGHT, student=None)
  from_codes = stages.distill(**again)(small, run.child('codes'))
  assert from_codes.module == ticket.module
  taught = stages.distill(**again)(started, run.child('masked'))
  ended = stages.qat(bits=4, group='channel', symmetric=True, **SHORT)(taught, run.child('pack'))
  floats = dict(tree.named(unpacked(ended).params))
  for name, mask in tree.named(ticket.masks):
    for net in (floats, dict(tree.named(taught.params))):
      assert not np.asarray(net[name])[~np.asarray(mask)].any(), name
  assert any(is_packed(w) for w in jax.tree.leaves(ended.params, is_leaf=is_packed))
  assert min(rows(run, 'distill', 'codes')[0]['test_accuracy']) > 0.85


def test_a_teacher_of_another_run_and_a_cache_that_is_used_again(fresh, tmp_path, monkeypatch):
  net, run = fresh((0,), tmp_path / 'teacher')
  chain(teacher=stages.tune(**SHORT))(net, run)
  (tmp_path / 'teacher' / 'config.json').write_text('{"stages": ["teacher"]}')
  of_run = dict(TAUGHT, teachers=(str(tmp_path / 'teacher'),), cache=str(tmp_path / 'cache'))
  _, run = fresh((5, 6, 7))  # one teacher, three students
  stages.distill(**of_run)(net, run)
  assert len(list((tmp_path / 'cache').glob('*.npy'))) == 1
  read = saved.read(tmp_path / 'teacher' / 'nets' / 'teacher', models)
  ours = targets.logits(read, run.data.test.x)
  wrong = int((ours[0].argmax(1) != run.data.test.y).sum())
  assert rows(run, 'teacher')[0]['test_errors'] == [wrong] * 3
  written = (tmp_path / 'cache').stat().st_mtime_ns
  stages.distill(**of_run)(net, fresh((5, 6, 7))[1])
  assert (tmp_path / 'cache').stat().st_mtime_ns == written


def test_a_saved_net_reads_back_and_a_damaged_one_does_not(fresh, tmp_path, same):
  net, _ = fresh((0, 1))
  net = net.replace(masks=jax.tree.map(lambda w: w > 0, net.params))
  saved.write(tmp_path / 'net', net)
  again = saved.read(tmp_path / 'net', models)
  assert again.module == net.module
  assert same((again.params, again.stats, again.masks), (net.params, net.stats, net.masks))
  path = tmp_path / 'net' / saved.VARIABLES
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(DataError, match='is damaged'):
    saved.read(tmp_path / 'net', models)
  with pytest.raises(MissingInput, match='no net in'):
    saved.read(tmp_path / 'nowhere', models)


def test_a_module_that_data_cannot_tell_needs_to_be_given(fresh, tmp_path):
  import flax.linen as nn

  class Own(nn.Module):
    """A user's network with a function among its fields."""

    activation: object = nn.relu

    @nn.compact
    def __call__(self, x, train=False):
      return nn.Dense(10)(self.activation(x.reshape(len(x), -1)))

  from reduction.net import create

  _, run = fresh((0,))
  net = create(Own(), run.key('init', 0), run.data.train.x[:1])
  saved.write(tmp_path, net)
  with pytest.raises(UsageError, match=r'cannot make the fields activation of Own; .* `module=`'):
    saved.read(tmp_path, models)
  assert saved.read(tmp_path, models, Own()).module == Own()


@pytest.mark.parametrize(
  'settings, message',
  [
    (dict(temperature=0.0), 'temperature=0.0 must be above 0'),
    (dict(soft=-1.0), 'soft=-1.0 must be at least 0'),
    (dict(label_mix=1.5), 'label_mix=1.5 must be at most 1'),
    (dict(members='each'), "members='each' is unknown"),
    (dict(mean='mode'), "mean='mode' is unknown"),
    (dict(teachers=()), 'soft=1.0 needs teachers; without any, give soft=0 and hard=1'),
    (dict(top=2, augment='jitter'), 'top=2 keeps logits for one temperature'),
    (dict(temperature=dict(name='linear')), "temperature.name='linear' is not in optax. Known: "),
    (dict(temperature=dict(name='linear_schedule', init_value=1.0)), "needs 'end_value'"),
    (dict(temperature=dict(name='piecewise_constant_schedule', init_value=1.0,
                           boundaries_and_scales={'late': 0.5})),
     "temperature.boundaries_and_scales={'late': 0.5} must have a number of steps for each key"),
    (dict(temperature='hot'), "temperature='hot' must be a number or a schedule"),
    (dict(student=dict(name='mpl')), "config.student.name='mpl' is not in reduction.models"),
  ],
)
def test_a_wrong_setting_is_refused_before_anything_runs(settings, message):
  with pytest.raises(UsageError, match=message.replace('(', r'\(').replace(')', r'\)')):
    stages.distill(**TAUGHT | settings)


@pytest.mark.parametrize(
  'settings, message',
  [
    (dict(classes=(3,), of='nobody'), "of='nobody' is no earlier stage"),
    (dict(classes=(12,)), r'classes=\(12,\) of 10'),
    (dict(classes=(3,), layer='kernel'), 'layer=.* names .*; name one bias'),
  ],
)
def test_a_correction_of_nothing_is_refused(fresh, settings, message):
  with pytest.raises(UsageError, match=message):
    stages.correct(**settings)(*fresh((0,)))
