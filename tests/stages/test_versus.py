"""A paired bootstrap over seeds and examples: by hand, and of two stages on digits."""

import numpy as np
import pytest

from reduction import models, stages
from reduction.errors import UsageError
from reduction.net import create
from reduction.predict import logits
from reduction.report import claims
from reduction.run import Run, chain
from reduction.stages.versus import gains

ADAM = dict(name='adam', learning_rate=2e-3)


def test_gains_by_hand():
  labels = np.tile([1, 1, 0, 0], 50)
  ours = np.tile([[1, 1, 0, 1]], (1, 50))  # 3 of 4 right; precision 2 / 3, recall 1: F 0.8
  theirs = np.tile([[1, 0, 0, 1]], (1, 50))  # 2 of 4; precision 1 / 2, recall 1 / 2: F 0.5
  row = gains(ours, theirs, labels, 2, 500, 0)
  assert row['accuracy_gain'] == 0.25 and row['f1_gain'] == pytest.approx(0.3)
  # a quarter of the examples gains 1: the error of the mean is sqrt(3 / 16 / 200)
  half = (row['accuracy_gain_high'] - row['accuracy_gain_low']) / 2
  assert half == pytest.approx(1.96 * (3 / 16 / 200) ** 0.5, rel=0.15)
  assert 'f1_gain' not in gains(ours, theirs, labels, 3, 100, 0)


def test_seeds_are_part_of_the_interval():
  """Two seeds that disagree wholly: nothing is found, however many examples there are."""
  labels = np.ones(1_000, int)
  ours, theirs = np.stack([labels, 0 * labels]), np.stack([0 * labels, labels])
  row = gains(ours, theirs, labels, 2, 400, 0)
  assert row['accuracy_gain'] == 0
  assert row['accuracy_gain_low'] == -1 and row['accuracy_gain_high'] == 1


def test_what_is_hard_for_both_widens_nothing():
  labels = np.ones(100, int)
  said = np.random.default_rng(0).integers(0, 2, (3, 100))
  row = gains(said, said, labels, 2, 200, 0)
  assert [row[f'accuracy_gain{end}'] for end in ('', '_low', '_high')] == [0, 0, 0]


def test_two_stages_and_the_claim(digits):
  run = Run(digits, (0, 1))
  net = create(models.mlp(widths=(16,)), run.key('init', 0), digits.train.x[:1])
  short = dict(batch=60, every=2, optimizer=ADAM)
  chain(
    short=stages.tune(steps=2, **short), longer=stages.tune(steps=60, **short),
    versus=stages.versus(of='longer', base='short'),
  )(net, run)  # fmt: skip
  (row,) = (row for row in run.rows if row['kind'] == 'versus')
  tuned = [r['test_accuracy'] for r in run.rows if r['kind'] == 'tune']
  assert row['accuracy_gain'] == pytest.approx(np.mean(tuned[1]) - np.mean(tuned[0]), abs=1e-4)
  assert 0 < row['accuracy_gain_low'] < row['accuracy_gain'] < row['accuracy_gain_high']
  measure = dict(kind='versus', at='versus', key='accuracy_gain', how='bootstrap')
  (said,) = claims.answers(run.rows, dict(one=dict(claim='', paper='', measure=measure)))
  assert said.run and said.ours.startswith('+') and 'pp [' in said.ours


def test_stages_that_are_not_there_are_refused(digits):
  with pytest.raises(UsageError, match='compared with itself'):
    stages.versus(of='a', base='a')
  run = Run(digits)
  net = create(models.mlp(widths=(4,)), run.key('init', 0), digits.train.x[:1])
  with pytest.raises(UsageError, match=r"'b' is no earlier stage \(start\)"):
    chain(v=stages.versus(of='start', base='b'))(net, run)


def wider(run, digits):
  run.nets['wide'] = create(models.mlp(widths=(5,)), run.key('init', 0), digits.train.x[:1])
  return run


def test_the_net_of_another_run_is_found_in_its_workdir(digits, tmp_path):
  """The same stage twice, once in a run of its own: no gain in any resample."""
  tune = stages.tune(steps=2, batch=60, every=2, optimizer=ADAM)
  for name, seeds in ('other', (0, 1)), ('fewer', (0,)):
    run = Run(digits, seeds, workdir=tmp_path / name)
    net = create(models.mlp(widths=(4,)), run.key('init', 0), digits.train.x[:1])
    chain(tune=tune)(net, run)
    (tmp_path / name / 'config.json').write_text('{"stages": ["tune"]}')
  run = Run(digits, (0, 1))
  net = create(models.mlp(widths=(4,)), run.key('init', 0), digits.train.x[:1])
  chain(tune=tune, versus=stages.versus(of='tune', base=str(tmp_path / 'other')))(net, run)
  (row,) = (row for row in run.rows if row['kind'] == 'versus')
  assert [row[f'accuracy_gain{end}'] for end in ('', '_low', '_high')] == [0, 0, 0]
  # two runs of one seed are one of both: the second is seed 0 again
  twice = (str(tmp_path / 'fewer'), f'{tmp_path / "fewer"}:tune')
  stages.versus(of='tune', base=twice)(net, run)
  row = run.rows[-1]
  assert row['base'] == ' '.join(twice)
  assert row['accuracy_gain_low'] <= 0 <= row['accuracy_gain_high']
  said = [logits(run.nets['tune'], digits.test.x).argmax(-1)[i] == digits.test.y for i in (0, 1)]
  assert row['accuracy_gain'] == pytest.approx((said[1].mean() - said[0].mean()) / 2, abs=1e-4)
  with pytest.raises(UsageError, match='are nets of other kinds'):
    stages.versus(of='tune', base=('start', 'wide'))(net, wider(run, digits))
  with pytest.raises(UsageError, match=r"'start' has 2 seeds and .* 1: a pair each"):
    stages.versus(of='start', base=str(tmp_path / 'fewer'))(net, run)
