"""A paired bootstrap over seeds and examples: by hand, and of two stages on digits."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from reduction import models, ranking, stages, tree
from reduction.data.data import Split
from reduction.errors import UsageError
from reduction.net import create
from reduction.predict import logits
from reduction.report import claims
from reduction.run import Run, chain
from reduction.stages.versus import Said, gains

ADAM = dict(name='adam', learning_rate=2e-3)


def said(classes, threshold=None):
  """That of a net whose margin is 3 where it says 1 and -3 where not."""
  if threshold is None:
    return Said(classes)
  margins = 6.0 * classes - 3
  return Said(classes, margins, margins >= threshold)


def test_gains_by_hand():
  labels = np.tile([1, 1, 0, 0], 50)
  ours = np.tile([[1, 1, 0, 1]], (1, 50))  # 3 of 4 right; precision 2 / 3, recall 1: F 0.8
  theirs = np.tile([[1, 0, 0, 1]], (1, 50))  # 2 of 4; precision 1 / 2, recall 1 / 2: F 0.5
  row = gains(said(ours, 0), said(theirs, -3), labels, 500, 0)
  assert row['accuracy_gain'] == 0.25 and row['f1_gain'] == pytest.approx(0.3)
  # the threshold of theirs lets all be 1: F 2 / 3
  assert row['tuned_f1_gain'] == pytest.approx(0.8 - 2 / 3, abs=1e-5)
  # of four pairs two in order and two equal, against one in order and two equal
  assert row['auc_gain'] == pytest.approx(0.25)
  # a quarter of the examples gains 1: the error of the mean is sqrt(3 / 16 / 200)
  half = (row['accuracy_gain_high'] - row['accuracy_gain_low']) / 2
  assert half == pytest.approx(1.96 * (3 / 16 / 200) ** 0.5, rel=0.15)
  for name in 'f1', 'tuned_f1', 'auc':
    assert row[f'{name}_gain_low'] < row[f'{name}_gain'] < row[f'{name}_gain_high']
  assert {key.removesuffix('_low').removesuffix('_high') for key in gains(
    said(ours), said(theirs), labels, 100, 0)} == {'accuracy_gain'}  # fmt: skip


def test_each_net_has_the_threshold_of_its_validation_examples(digits):
  """Two classes; one net says 1 too rarely, by its bias alone: F as it is and F that is tuned."""
  halves = lambda split: Split(split.x, np.asarray(split.y >= 5, np.int32))
  two = {name: halves(split) for name, split in digits.splits().items()}
  data = dataclasses.replace(digits, classes=2, **two)
  run = Run(data, (0, 1))
  net = create(models.mlp(widths=(16,), classes=2), run.key('init', 0), data.train.x[:1])
  tuned = stages.tune(steps=60, batch=60, every=20, optimizer=ADAM)(net, run)
  shyly = lambda name, w: w - jnp.array([0.0, 4.0]) if name == 'out/bias' else w
  shy = dataclasses.replace(tuned, params=tree.map_named(shyly, tuned.params))
  run.nets |= dict(tuned=tuned, shy=shy)
  stages.versus(of='shy', base='tuned')(net, run)
  row = run.rows[-1]
  assert row['f1_gain_high'] < -0.05
  assert row['tuned_f1_gain'] == row['tuned_f1_gain_low'] == row['auc_gain_high'] == 0
  there = ranking.binary(logits(tuned, data.test.x), data.test.y)
  shy_too = ranking.binary(logits(shy, data.test.x), data.test.y)
  pooled = row['f1_gain'] - (shy_too['test_f1'].mean() - there['test_f1'].mean())
  assert abs(pooled) < 0.02  # of both seeds together, where the scores are means


def test_seeds_are_part_of_the_interval():
  """Two seeds that disagree wholly: nothing is found, however many examples there are."""
  labels = np.ones(1_000, int)
  ours, theirs = np.stack([labels, 0 * labels]), np.stack([0 * labels, labels])
  row = gains(said(ours), said(theirs), labels, 400, 0)
  assert row['accuracy_gain'] == 0
  assert row['accuracy_gain_low'] == -1 and row['accuracy_gain_high'] == 1


def test_what_is_hard_for_both_widens_nothing():
  labels = np.ones(100, int)
  both = said(np.random.default_rng(0).integers(0, 2, (3, 100)))
  row = gains(both, both, labels, 200, 0)
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
  right = [logits(run.nets['tune'], digits.test.x).argmax(-1)[i] == digits.test.y for i in (0, 1)]
  assert row['accuracy_gain'] == pytest.approx((right[1].mean() - right[0].mean()) / 2, abs=1e-4)
  with pytest.raises(UsageError, match='are nets of other kinds'):
    stages.versus(of='tune', base=('start', 'wide'))(net, wider(run, digits))
  with pytest.raises(UsageError, match=r"'start' has 2 seeds and .* 1: a pair each"):
    stages.versus(of='start', base=str(tmp_path / 'fewer'))(net, run)
