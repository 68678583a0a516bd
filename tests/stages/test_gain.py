"""What of an ensemble's gain is kept: by hand, and on digits and frames."""

import jax
import numpy as np
import pytest

from reduction import data, models, stages
from reduction.errors import UsageError
from reduction.net import create
from reduction.report import claims
from reduction.run import Run, chain
from reduction.stages.gain import kept

ADAM = dict(name='adam', learning_rate=2e-3)
SHORT = dict(steps=100, batch=60, every=50, optimizer=ADAM)


def test_gains_by_hand():
  right = dict(
    single=np.array([0.5, 0.5, 1.0, 0.0]), ensemble=np.array([1.0, 1, 1, 0]),
    student=np.array([1.0, 0.5, 1, 0]),
  )  # fmt: skip
  row = kept({name: np.tile(of, 50) for name, of in right.items()}, np.ones(200, int), 500, 0)
  assert row['ensemble_gain'] == 0.25 and row['student_gain'] == 0.125 and row['kept'] == 0.5
  for name in 'ensemble_gain', 'student_gain', 'kept':
    assert row[f'{name}_low'] < row[name] < row[f'{name}_high']
  # half of the examples gain 0.5: the error of the mean is 0.25 / sqrt(200)
  half = (row['ensemble_gain_high'] - row['ensemble_gain_low']) / 2
  assert half == pytest.approx(1.96 * 0.25 / 200**0.5, rel=0.15)
  # drawn in fours, whose mean never varies, there is nothing to be unsure of
  by_clip = kept({n: np.tile(of, 50) for n, of in right.items()}, np.full(50, 4), 500, 0)
  assert by_clip['kept_low'] == by_clip['kept_high'] == 0.5


def test_no_share_of_a_gain_that_may_be_none():
  rng = np.random.default_rng(0)
  right = {name: rng.integers(0, 2, 100) * 1.0 for name in ('single', 'ensemble', 'student')}
  row = kept(right, np.ones(100, int), 500, 0)
  assert row['ensemble_gain_low'] <= 0 and row['kept'] is row['kept_low'] is None
  rows = [dict(row, kind='gain', at='gain', seeds=[0, 1])]
  claim = lambda key: dict(c=dict(
    claim='c', paper='86 %', measure=dict(kind='gain', key=key, how='bootstrap')))  # fmt: skip
  assert claims.answers(rows, claim('kept'))[0].ours.startswith('not claimed: ')
  assert 'no difference found (' in claims.answers(rows, claim('ensemble_gain'))[0].ours
  rows[0].update(kept=0.5, kept_low=0.25, kept_high=0.75)
  assert claims.answers(rows, claim('kept'))[0].ours == '50 % [25, 75]'


def test_three_systems_are_compared(spoken):
  pytest.importorskip('kaldi_native_fbank')
  found = data.spoken_digits(data_dir=spoken, bins=20)
  run = Run(found, seeds=(0, 1, 2))
  module = models.mlp(widths=(12,), classes=found.classes)
  net = create(module, run.key('init', 0), found.train.x[:1])
  student = dict(name='mlp', widths=(12,), classes=found.classes)
  taught = dict(SHORT, student=student, teachers=('members',), members='all', temperature=2.0)
  compared = chain(
    members=stages.tune(**SHORT), student=stages.distill(**taught),
    gain=stages.gain(single='members', student='student', resamples=200),
  )  # fmt: skip
  after = compared(net, run)
  assert jax.tree.structure(after) == jax.tree.structure(run.nets['student'])
  systems = {row['net']: row for row in run.rows if row['kind'] == 'system'}
  single, student = systems['single'], systems['student']
  assert len(single['test_accuracy']) == 3
  assert isinstance(systems['ensemble']['test_accuracy'], float)
  row = next(row for row in run.rows if row['kind'] == 'gain')
  gain = np.mean(student['test_accuracy']) - np.mean(single['test_accuracy'])
  assert row['student_gain'] == pytest.approx(gain, abs=1e-4)
  assert max(single['word_error']) < 0.5  # of three words


def test_an_unknown_stage_is_named(fresh):
  with pytest.raises(UsageError, match="'members' is no earlier stage"):
    stages.gain(single='members', student='members')(*fresh((0,)))
