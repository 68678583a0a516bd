"""Evolution of plain networks: what is found fits, is the best that was trained, and is trained."""

import json

import numpy as np
import pytest

from reduction import stages
from reduction.errors import UsageError
from reduction.models.convnet import ConvNet
from reduction.models.mlp import MLP
from reduction.predict import logits, scores
from reduction.run import Run, chain

SPACE = dict(pairs=(0, 1), layers=(0, 1), filters=(2, 8), units=(8, 32))
SHORT = dict(steps=30, batch=50, every=30, optimizer=dict(name='adam', learning_rate=1e-2))
LIMITS = dict(sram=1_500, flash=2_500)


def searched(digits, workdir=None, **changes):
  settings = dict(SHORT, population=4, generations=1, **LIMITS) | changes
  run = Run(digits, (0, 1), workdir)
  net = chain(plain=stages.plain(space=SPACE, **settings))(None, run)
  return net, {row['method']: row for row in run.rows if row['kind'] == 'found'}, run


def test_the_network_that_is_found_fits_and_is_what_was_judged(digits, tmp_path):
  net, rows, run = searched(digits, tmp_path)
  for row in rows.values():
    assert row['sram'] <= LIMITS['sram'] and row['flash'] <= LIMITS['flash']
    listed = lambda text: () if text == 'none' else tuple(map(int, text.split()))
    filters, units = listed(row['filters']), listed(row['units'])
    kind = ConvNet if filters else MLP
    assert (row['macs'] > 0) and set(filters) <= {2, 8} and set(units) <= {8, 32}
    if row['method'] == 'evolution':
      assert isinstance(net.module, kind)
      file = tmp_path / 'files/plain/architecture/architecture.json'
      assert json.loads(file.read_text()) == dict(filters=list(filters), units=list(units))
  right = scores(logits(net, digits.validation.x), digits.validation.y)['test_accuracy']
  assert rows['evolution']['score'] == pytest.approx(right.mean())
  best = [row['best'] for row in run.rows if row['kind'] == 'generation']
  assert len(best) == 2 and best[0] <= best[1] == rows['evolution']['score']
  assert rows['random']['score'] >= best[0]  # its networks begin with the first population
  (versus,) = [row for row in run.rows if row['kind'] == 'versus']
  gain = np.mean(rows['evolution']['test_accuracy']) - np.mean(rows['random']['test_accuracy'])
  assert versus['accuracy_gain'] == pytest.approx(gain, abs=1e-4)


def test_a_limit_on_multiply_accumulates_leaves_smaller_networks(digits):
  net, rows, _ = searched(digits, beside=False, macs=700, generations=0)
  assert list(rows) == ['evolution'] and rows['evolution']['macs'] <= 700
  assert isinstance(net.module, MLP)


@pytest.mark.parametrize(
  'changes, says',
  [
    (dict(flash=100), 'none of .* plain networks fits'),
    (dict(sram=0), 'name a board'),
    (dict(board='stm32f3'), 'stm32f3'),
    (dict(population=1), 'population=1'),
    (dict(steps=0), 'steps'),
  ],
)
def test_what_fits_nothing_or_is_no_setting_is_refused(digits, changes, says):
  with pytest.raises(UsageError, match=says):
    searched(digits, **changes)
