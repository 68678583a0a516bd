"""The quantization benchmarks: their arithmetic, by hand, and that they run."""

import importlib
import json

import pytest

from launch.bench import run
from launch.benchmarks.pace import OURS
from launch.benchmarks.sides import Session
from reduction.errors import UsageError

quantizing = importlib.import_module('launch.benchmarks.quantizing')


def test_phases_by_hand():
  replies = [dict(calibrating=s) for s in (9.0, 2.0, 4.0)]
  told = dict(flops=dict(calibrating=60e9), layers=30, parameters=10, foreseen=2**30)
  (row,) = quantizing.by_phase(replies, told, limit=100.0, peak=900.4)
  assert row['block_s'] == 3 and row['block_s_low'] == 2 and row['first_s'] == 9
  assert row['minutes'] == 1.5 and row['peak_mib'] == 900 and row['foreseen_mib'] == 1024
  assert row['gflops'] == pytest.approx(0.7, abs=0.05)  # 2 GFLOP in 3 s
  settings = dict(model='m', examples=1, length=2, group=3)
  assert '1.5 min' in quantizing.table_of_model([row], settings).note


def test_layers_by_hand():
  seconds = lambda *values, error=0.5: [dict(seconds=s, error=error) for s in (9.0, *values)]
  replies = {(OURS, 0): seconds(1.0, 2.0), ('qwix', 0): seconds(4.0, 6.0, error=0.6),
             (OURS, 1): seconds(2.0, 2.0)}  # fmt: skip
  settings = dict(layers=((8, (4, 2)),), tokens=3, group=8, size=300)
  both, alone = quantizing.compare(replies, settings, limit=0.5)
  assert both['s'] == 1.5 and both['peer_s'] == 5 and both['ratio_low'] == 3
  assert both['ratio_high'] == 4 and (both['error'], both['peer_error']) == (0.5, 0.6)
  # 300^3 for the errors, 4/3 of it for two factors, in 2 s
  assert alone['gflops'] == round(2 * 300**3 * 7 / 3 / 2e9, 1) and alone['of_limit'] == 0.126
  assert len(quantizing.table_of_layers([both, alone], settings).rows) == 2


@pytest.mark.parametrize(
  'settings, says', [(dict(tokens=0), 'tokens=0, '), (dict(peers=('jax',)), "'jax' is not one of")]
)
def test_wrong_settings_are_refused(settings, says):
  good = dict(layers=((8, (8,)),), tokens=1, group=8, size=8, repeats=1, peers=())
  with pytest.raises(UsageError, match=says):
    quantizing.quantized_layers(**{**good, **settings})
  with pytest.raises(UsageError, match='blocks=1 must be above 1'):
    quantizing.quantized_model(model='m', calibration='t', examples=1, length=1, group=8, blocks=1)


@pytest.mark.slow
def test_a_model_and_layers(decoder, tmp_path, launch):
  model = dict(model='tiny', calibration='text.txt', examples=16, length=16, group=16, blocks=2)
  rows = run(dict(benches=('quantized_model',), quantized_model=model), Session(str(decoder)))
  assert [row['phase'] for row in rows] == ['calibrating', 'searching', 'rounding']
  assert all(row['block_s'] > 0 and row['first_s'] > 0 and row['peak_mib'] > 0 for row in rows)
  out = tmp_path / 'rows.jsonl'
  result = launch('--config=configs/bench/awq.py:quick', f'--out={out}', module='launch.bench')
  assert result.code == 0, result.err
  _, both, alone = map(json.loads, out.read_text().splitlines())
  assert both['job'] == 'awq, gptq' and 0 < both['error'] < 0.1 and alone['s'] > 0
