"""The benchmarks of microcontrollers: their rows by hand, their configs, the tables they fill."""

import importlib
import json

import pytest

from configs.mcu import ablations, helium, patches, shipped, zoo
from launch import bench
from launch.benchmarks.sides import Session
from reduction import report
from reduction.config import canonical
from reduction.errors import MissingInput, UsageError
from reduction.mcu import measure, sketch
from tests.mcu import nets

deployed = importlib.import_module('launch.benchmarks.deployed')


CONFIGS = ablations, helium, patches, shipped, zoo


@pytest.mark.parametrize('config', CONFIGS, ids=lambda c: c.__name__)
def test_a_config_names_what_is_there(config):
  for variant in '', 'quick':
    given = canonical(config.get_config(variant))
    assert canonical(json.loads(json.dumps(given))) == given
    assert list(bench.build(given)) == list(given['benches'])
  assert 'python -m launch.bench --config=configs/mcu/' in config.__doc__


def test_accounts_by_hand():
  s = sketch.Sketch((4, 4, 2), blank=True)
  graph = sketch.finish(s, 'x', sketch.conv(s, 0, 3))
  integers, floats = deployed._accounts('x', graph, (4, 32))
  assert integers['weights_mb'] == round(6 * 0.5 / 1e6, 3)
  assert (integers['stored'], integers['in_out']) == ('int4', 16 * (2 + 3) // 2)
  assert (floats['stored'], floats['blocks']) == ('float32', 4 * 16 * (2 + 3))
  assert floats['times'] == round(4 * 80 / 320_000, 2)


def test_the_zoo_fills_its_tables_without_a_file_of_architectures():
  config = canonical(zoo.get_config('quick'))
  config = dict(benches=('accounted',), accounted=config['accounted'],
                tables=dict(c=config['tables']['c']))  # fmt: skip
  rows = bench.build(config)['accounted'](Session())[0]
  (table,) = report.pivots(rows, config)
  cells = dict((line[0], line[1:]) for line in table.rows)
  assert cells['MobileNetV2, w0.75, int8'] == ('1,705,984', '5.33', '5.3')
  assert cells['ResNet-50, float32'][0] == '7,225,344'


@pytest.mark.skipif(bool(measure.missing()), reason='needs the tools of emulated cores')
def test_a_trained_model_on_an_emulated_core():
  nets.shipped('te_lenet')
  rows = []
  for config in shipped, ablations:
    given = canonical(config.get_config('quick'))
    rows += bench.run(given, Session())
  one, core, *_ = rows
  assert (one['equal_host'], one['equal_m4'], one['runs']) == (1, 1, 1)
  assert core['instructions'] > 0 and core['flash'] == one['flash'] > one['constants']
  switched = [row for row in rows if row['kind'] == 'ablation']
  assert [row['switch'] for row in switched] == ['tflm', 'ours', 'rolled']
  assert switched[1]['arena'] == one['arena'] and switched[1]['equal'] == switched[2]['equal'] == 1
  assert switched[2]['instructions_m'] > switched[1]['instructions_m']


def test_mistakes_are_refused_by_name(tmp_path):
  with pytest.raises(UsageError, match="core='m85'"):
    deployed.shipped(models={}, cores=dict(m85=1))
  with pytest.raises(UsageError, match="switch='none_such'"):
    deployed.ablated(models={}, switches=('none_such',))
  with pytest.raises(MissingInput, match=r'x\.tflite is not in'):
    deployed.shipped(models=dict(x='x.tflite'), cores=dict(m4=1))(Session(str(tmp_path)))
