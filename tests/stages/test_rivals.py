"""Levels of two ways to prune, paired: by hand, and of stages on digits."""

import numpy as np
import pytest

from reduction import models, stages
from reduction.errors import UsageError
from reduction.net import create
from reduction.run import Run, chain
from reduction.stages.pruning import packed, unpacked
from reduction.stages.rivals import Levels, compared


def levels(*accuracy, nbytes, n=1_000, replicas=2):
  """The first so many examples are right, in each of `replicas` seeds."""
  right = np.stack([np.arange(n) < round(a * n) for a in accuracy])
  sizes = np.repeat(np.array(nbytes, float)[:, None], replicas, 1)
  return Levels((1.0,) * len(accuracy), np.repeat(right[:, None], replicas, 1), sizes)


def test_equal_bytes_and_equal_accuracy_by_hand():
  mine = levels(0.9, 0.8, 0.5, nbytes=(1_000, 400, 100))
  base = levels(0.9, 0.65, 0.3, 0.95, nbytes=(2_000, 300, 50, 5_000))
  rows = compared(mine, base, 0.0, 200, 0)
  # the largest level of no more bytes: 1,000 beside 2,000; 100 beside 300; none beside 50
  assert [r['level_bytes'] for r in rows if 'level_bytes' in r] == [1_000, 100, 1_000]
  gains = [r['accuracy_gain'] for r in rows]
  assert gains == [0, pytest.approx(-0.15), None, pytest.approx(-0.05)]
  # 0.65 is half way from 0.5 to 0.8: the root of 100 x 400 bytes; 0.3 needs no more than 100
  changes = [r['bytes_change'] for r in rows]
  assert changes == [-0.5, pytest.approx(200 / 300 - 1, rel=1e-4), 1, np.inf]


def test_what_is_drawn_is_drawn_for_both_alike():
  """The same levels: no gain in any resample, however few examples there are."""
  mine = levels(0.6, 0.3, nbytes=(400, 100), n=20)
  for row in compared(mine, mine, 0.0, 300, 0):
    assert [row[f'accuracy_gain{end}'] for end in ('', '_low', '_high')] == [0, 0, 0]


def test_the_interval_is_that_of_the_examples():
  """A tenth of 1,000 examples that one alone gets right: its error is sqrt(0.09 / 1,000)."""
  mine, base = levels(0.9, nbytes=(408,)), levels(0.8, nbytes=(400,))  # within 2 %
  (row,) = compared(mine, base, 0.02, 2_000, 0)
  half = (row['accuracy_gain_high'] - row['accuracy_gain_low']) / 2
  assert row['accuracy_gain'] == pytest.approx(0.1)
  assert half == pytest.approx(1.96 * (0.09 / 1_000) ** 0.5, rel=0.1)


@pytest.mark.parametrize('count', [1, 8, 300])
def test_what_is_right_survives_as_text(count):
  bits = np.random.default_rng(0).random((3, count)) < 0.5
  assert np.array_equal(unpacked(packed(bits), count), bits)


def test_stages_that_are_not_there_are_refused(digits):
  with pytest.raises(UsageError, match="'a' compared with"):
    stages.rivals(of='a', bases=('a',))
  with pytest.raises(UsageError, match="'a' is no earlier stage that prunes"):
    stages.rivals(of='a', bases=('b',))(None, Run(digits).child('rivals'))


def test_a_base_is_judged_by_the_bytes_that_it_names(digits):
  run = Run(digits, (0, 1))
  right = packed(np.ones((2, len(digits.test.y)), bool))
  for name, sizes in (('ours', {}), ('weight', dict(csr_bytes=[300, 500]))):
    row = dict(level=0, share=0.5, start='last', conv_bytes=[200, 200], **sizes)
    run.child(name).log(kind='right', **row, right=right)
  stages.rivals(of='ours', bases=('weight', 'weight:csr'))(None, run.child('rivals'))
  rows = [r for r in run.rows if r['kind'] == 'rival']
  assert [r['base_bytes'] for r in rows] == [200, 400]
  assert [r['bytes_change'] for r in rows] == [0, -0.5]
  with pytest.raises(UsageError, match="'ours' does not count csr_bytes, only conv_bytes"):
    stages.rivals(of='weight', bases=('ours:csr',))(None, run.child('others'))


@pytest.mark.slow
def test_tickets_beside_their_control_and_with_a_teacher(digits):
  """Two short stages: what is drawn is what they logged, and a teacher changes what is learned."""
  run = Run(digits, (0, 1))
  net = create(models.vgg(layers=(8, 'pool', 8)), run.key('init', 0), digits.train.x[:1])
  train = dict(steps=40, batch=60, every=20, optimizer=dict(name='adam', learning_rate=3e-3))
  short = dict(train, levels=(0.5,), examples=128, tolerance=1.0)
  chain(
    train=stages.tune(**train), tickets=stages.filterlet(start='rewind', control=True, **short),
    taught=stages.filterlet(of='train', teacher=dict(of='train', temperature=4.0), **short),
    rivals=stages.rivals(of='tickets', bases=('tickets/reinit', 'taught')),
  )(net, run)  # fmt: skip
  of_levels = (r for r in run.rows if r['kind'] == 'filterlet' and r['level'] >= 0)
  ticket, control, taught = of_levels
  assert control['start'] == 'reinit' and 'enough' not in control
  assert control['kept'] == ticket['kept'] and control['conv_bytes'] == ticket['conv_bytes']
  for base, row in zip((control, taught), (r for r in run.rows if r['kind'] == 'rival')):
    if row['accuracy_gain'] is not None:
      gain = np.mean(ticket['test_accuracy']) - np.mean(base['test_accuracy'])
      assert row['accuracy_gain'] == pytest.approx(gain, abs=1e-4)
    assert row['base_bytes'] == np.mean(base['conv_bytes'])
  (teacher,) = (r for r in run.rows if r['kind'] == 'teacher')
  (tuned,) = (r for r in run.rows if r['kind'] == 'tune')
  assert teacher['test_accuracy'] == tuned['test_accuracy']
  curves = [r for r in run.rows if r['kind'] == 'curve']
  assert all(('kl' in r) == r['at'].startswith('taught') for r in curves)


def test_a_teacher_that_is_none_is_refused(digits):
  for teacher, says in (
    (dict(temperature=2.0), 'must say whose net teaches'),
    (dict(of='train', temprature=2.0), "Did you mean 'temperature'"),
    (dict(of='train', soft=-1.0), 'soft=-1.0 must be at least 0'),
  ):
    with pytest.raises(UsageError, match=says):
      stages.filterlet(levels=(0.5,), steps=20, batch=60, every=20, teacher=teacher,
                       optimizer=dict(name='adam', learning_rate=3e-3))  # fmt: skip
