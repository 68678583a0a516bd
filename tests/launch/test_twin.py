"""The benchmark of integer networks: its arithmetic, by hand, and that it runs."""

import importlib
import json

import pytest

from launch.benchmarks.sides import Session
from reduction.errors import MissingInput, UsageError

twin = importlib.import_module('launch.benchmarks.twin')


def test_rows_by_hand():
  graph = twin.graph_of('sketch', 0, Session())
  reply = lambda seconds, outputs: [dict(seconds=s, images=6, outputs=outputs) for s in seconds]
  found = {
    'reduction': reply((9, 1, 2, 3), '017f'), ('reference', 1): reply((9, 2, 2, 12), '017f'),
    ('XNNPACK', 6): reply((9, 1, 1, 1), '0180'), ('XNNPACK', 1): [dict(missing='litert')] * 4,
  }  # fmt: skip
  replies = {(side, 0): given for side, given in found.items()}
  rows = twin.compare(graph, 0, replies)
  assert [(r['peer'], r['batch'], r['differing'], r['largest']) for r in rows] == [
    ('reference', 1, 0, 0), ('XNNPACK', 6, 0.5, 255)]  # fmt: skip
  first, second = rows
  assert (first['images_per_s'], first['images_per_s_low']) == (3, 2)
  assert (first['ratio'], first['ratio_low'], first['ratio_high']) == (2, 1, 4)
  assert second['peer_images_per_s'] == 6 and second['ratio'] == 0.5
  macs = 64 * 8 * 27 + 64 * 8 * 9 + 64 * 16 * 8 + 16 * 10
  assert first['macs'] == macs and first['gmacs_per_s'] == round(3 * macs / 1e9, 2)
  assert len(twin.table([dict(r, model='x') for r in rows], 6, 2).rows) == 2


@pytest.mark.parametrize(
  'settings, says', [(dict(batch=0), 'batch=0'), (dict(peers=('jax',)), "'jax' is not one of")]
)
def test_wrong_settings_are_refused(settings, says):
  good = dict(models=(('sketch', 0),), batch=1, threads=1, repeats=1, peers=())
  with pytest.raises(UsageError, match=says):
    twin.twin(**{**good, **settings})


def test_a_model_without_a_data_directory_is_missing(monkeypatch):
  monkeypatch.delenv('REDUCTION_DATA', raising=False)
  with pytest.raises(MissingInput, match=r'x\.tflite is looked for in --data_dir'):
    twin.graph_of('x.tflite', 0, Session())


@pytest.mark.slow
def test_the_whole_of_it(launch, tmp_path):
  pytest.importorskip('tflite', reason='writing .tflite files needs the package tflite')
  out = tmp_path / 'rows.jsonl'
  result = launch('--config=configs/bench/twin.py:quick', f'--out={out}', module='launch.bench')
  assert result.code == 0, result.err
  _, *rows = map(json.loads, out.read_text().splitlines())
  assert [row['model'] for row in rows] == ['sketch'] and rows[0]['images_per_s'] > 0
