"""The benchmark of federations: its arithmetic, by hand, and that it runs."""

import importlib
import json

import numpy as np
import pytest

from launch.benchmarks.pace import OURS
from reduction.errors import UsageError

federating = importlib.import_module('launch.benchmarks.federating')
NUMBERS = dict(examples=8, batch=4, rounds=1, repeats=1)


def test_rows_by_hand():
  replies = lambda rounds, *seconds: [
    dict(rounds=rounds, seconds=s, programs=1, peak_mib=100.4) for s in seconds
  ]
  found = {
    OURS: replies(10, 1.0, 2.0, 1.0), federating.LOOP: replies(10, 2.0, 2.0, 2.0),
    federating.FLOWER: replies(5, 10.0, 10.0, 5.0),
  }  # fmt: skip
  loop, flower = federating.compare(64, found, 'FedAvg')
  assert loop['rounds_per_s'] == 10 and loop['peer_rounds_per_s'] == 5 and loop['ratio'] == 2
  assert loop['ratio_low'] == 1 and loop['programs'] == 1 and loop['peak_mib'] == 100
  assert flower['ratio'] == 10 and flower['ratio_high'] == 20 and flower['clients'] == 64
  assert len(federating.table([loop, flower], dict(NUMBERS, widths=(3,), teacher=())).rows) == 2


def test_rows_of_methods_by_hand():
  reply = lambda *seconds: [dict(seconds=s, of_dense=0.25, lost=0.01, rank=1) for s in seconds]
  settings = dict(width=4, inner=8, energy=0.9, falls=0.5, most=2)
  svd, gram = federating.encodings(dict(svd=reply(4.0, 2.0), gram=reply(1.0, 1.0)), settings)
  assert svd['ratio'] == 1 and gram['ratio'] == 3 and gram['base'] == 'svd' and svd['s'] == 3
  assert federating.table_of_encodings([svd, gram]).rows[1][3:5] == ('1', '25.0%')


@pytest.mark.parametrize('changes, says', [
  (dict(rounds=0), 'all must be above 0'), (dict(peers=('ray',)), "'ray' is not Flower's"),
  (dict(peers=("Flower's simulation",), teacher=(4,)), 'has no teachers'),
])  # fmt: skip
def test_wrong_settings_are_refused(changes, says):
  with pytest.raises(UsageError, match=says):
    federating.federating(**{**NUMBERS, 'clients': (2,), 'widths': (3,), 'peers': (), **changes})
  with pytest.raises(UsageError, match="'qr' is not one of svd"):
    federating.encoding(width=2, inner=2, methods=('qr',), energy=0.9, spectra=(), repeats=1)


def test_what_is_encoded_has_the_singular_values_that_are_said():
  ours = importlib.import_module('launch.benchmarks.federating_ours')
  made = ours.falling(np.random.default_rng(0), (6, 4), 0.5)
  np.testing.assert_allclose(
    np.linalg.svd(made, compute_uv=False), [1, 2**-0.5, 3**-0.5, 0.5], rtol=1e-5
  )
  # energies 1, 1/2, 1/3, 1/4 of 25/12: the first is 48 %
  job = dict(width=4, inner=8, energy=0.45, falls=0.5, most=4)
  found = [ours.encode(method, **job) for method in ('svd', 'gram', 'randomized')]
  assert [one['rank'] for one in found] == [1] * 3
  assert all(abs(one['lost'] - 0.52) < 1e-3 for one in found)


@pytest.mark.parametrize('teacher', [[], [5]])
def test_all_at_once_and_in_a_loop_are_one_federation(teacher):
  ours = importlib.import_module('launch.benchmarks.federating_ours')
  settings = dict(widths=[6], examples=8, batch=4, teacher=teacher)
  ends = []
  for kind in OURS, federating.LOOP:
    federation = ours.Federation(settings, 3)
    for number in range(2):
      ours.one_round(federation, kind, number)
    assert federation.traced == [1]
    ends.append(np.asarray(federation.shared['params']['fc1']['kernel']))
  np.testing.assert_allclose(*ends, atol=1e-6)


@pytest.mark.slow
def test_the_whole_of_it(launch, tmp_path):
  out = tmp_path / 'rows.jsonl'
  result = launch('--config=configs/bench/federate.py:quick', f'--out={out}', module='launch.bench')
  assert result.code == 0, result.err
  _, *rows = map(json.loads, out.read_text().splitlines())
  assert [row['kind'] for row in rows] == ['federating'] * 2 + ['encoding'] * 3
  assert all(row['ratio'] > 0 for row in rows)
  assert [(row['method'], row['programs']) for row in rows[:2]] == [('FedAvg', 1), ('FedKD', 1)]
