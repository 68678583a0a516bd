"""Time by rows: where the lines cross, by hand, and that every kind multiplies the same weight."""

import importlib
import json

import jax.numpy as jnp
import numpy as np
import pytest

from launch.bench import build
from reduction.errors import UsageError

by_rows = importlib.import_module('launch.benchmarks.by_rows')


def rows(**seconds):
  """Rows of counts 1, 2, 4."""
  return [dict(kind='by_rows', product=name, count=n, s=s, s_low=s, s_high=s)
          for name, times in seconds.items() for n, s in zip((1, 2, 4), times)]  # fmt: skip


def test_lines_cross_where_the_other_stays_faster():
  found = by_rows.crossovers(rows(
    W4A16=(1, 2, 4), float32=(3, 1, 1), W8A8=(0.5, 3, 2), bfloat16=(4, 5, 3.9), W4A8=(0.5, 1, 2),
  ))  # fmt: skip
  assert {row['product']: row['count'] for row in found} == dict(
    float32=2, W8A8=4, bfloat16=None, W4A8=1
  )
  assert by_rows.crossovers(rows(float32=(1, 1, 1))) == []


def test_the_fastest_is_marked():
  made = rows(W4A16=(1e-3, 2e-3, 4e-3), float32=(3e-3, 1e-3, 1e-3))
  table = by_rows.table(made + by_rows.crossovers(made), (8, 8), 64)
  assert table.rows[0] == ('1', '1 (1 to 1) *', '3 (3 to 3)')
  assert table.rows[2] == ('4', '4 (4 to 4)', '1 (1 to 1) *')
  assert 'float32 2' in table.note
  (mark,) = by_rows.marks(made + by_rows.crossovers(made))
  assert (mark['product'], mark['count'], mark['s']) == ('float32 overtakes W4A16', 2, 1e-3)


@pytest.mark.parametrize('name', by_rows.KINDS)
def test_every_kind_multiplies_the_same_weight(name):
  random, kind = np.random.default_rng(0), by_rows.KINDS[name]
  x, w = (jnp.asarray(random.standard_normal(s, np.float32)) for s in ((3, 128), (128, 32)))
  if name == 'W4A8' and not by_rows.native.ready():
    pytest.skip('no C++ compiler')
  found = np.asarray(kind.times(x, kind.make(w, 64)), np.float32)
  wanted = np.asarray(x @ w)
  change = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
  assert change < dict(float32=1e-6, bfloat16=0.01, W8A8=0.02, W4A16=0.12, W4A8=0.12)[name]


def test_wrong_settings_and_figures_are_refused():
  good = dict(shape=(8, 8), rows_of_x=(1,), group=8, bytes=1, repeats=1)
  with pytest.raises(UsageError, match="'W2' is not one of"):
    by_rows.by_rows(**good, kinds=('W2',))
  with pytest.raises(UsageError, match='kynd'):
    build(dict(benches=(), figures=dict(one=dict(kynd='by_rows'))))


@pytest.mark.slow
def test_the_whole_of_it(launch, tmp_path):
  out = tmp_path / 'rows.jsonl'
  result = launch('--config=configs/bench/by_rows.py:quick', f'--out={out}', module='launch.bench')
  assert result.code == 0, result.err
  header, *found = map(json.loads, out.read_text().splitlines())
  assert 'figures' in header['resolved']
  assert {row['count'] for row in found if row['kind'] == 'by_rows'} == {1, 64}
