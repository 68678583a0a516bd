"""A net trained on real digits becomes C: no accuracy lost, the folder builds, rows say it all."""

import shutil
import subprocess

import numpy as np
import pytest

from reduction import stages
from reduction.errors import UsageError


@pytest.fixture(scope='module')
def trained(digits):
  from reduction import models
  from reduction.net import create
  from reduction.run import Run

  run = Run(digits, (0, 1))
  net = create(models.mlp(widths=(24, 12)), run.key('init', 0), digits.train.x[:1])
  tune = stages.tune(
    steps=300, batch=60, every=100, optimizer=dict(name='adam', learning_rate=3e-3)
  )
  return tune(net, run.child('tune'))


def test_digits_lose_nothing_and_the_c_is_the_interpreter(trained, digits, tmp_path, same):
  from reduction.run import Run

  run = Run(digits, (0, 1), tmp_path)
  after = stages.microcontroller(board='stm32f412')(trained, run.child('deploy'))
  assert same(after, trained)
  row = run.rows[-1]
  assert row['kind'] == 'microcontroller' and row['equal_in_c'] in (20, None)
  assert row['macs'] == 64 * 24 + 24 * 12 + 12 * 10
  assert row['constants'] == row['macs'] + 9 * (24 + 12 + 10)
  assert row['lower_bound'] == 64 and row['arena'] == 64 + 24  # a dense layer's in and out
  counted = row['float_accuracy'], row['int8_accuracy'], row['changed_predictions']
  for real, int8, changed in zip(*counted):
    assert real > 0.8 and abs(int8 - real) <= 0.02 and changed <= 0.03 * len(digits.test.y)
  layers = [r for r in run.rows if r['kind'] == 'layer']
  assert [r['macs'] for r in layers] == [64 * 24, 24 * 12, 12 * 10]
  folder = tmp_path / 'files/deploy/c'
  assert {p.name for p in folder.iterdir()} >= {'net.c', 'net.h', 'Makefile', 'README.md', 'host.c'}
  if row['tflite'] is not None:
    from reduction.mcu import reader

    assert row['tflite'] == (folder / 'net.tflite').stat().st_size
    graph = reader.read(folder / 'net.tflite')
    assert [op.kind for op in graph.ops] == ['dense'] * 3
    assert sum(map(graph.macs, graph.ops)) == row['macs']
  if shutil.which('make') and shutil.which('cc'):
    subprocess.run(['make', '-s', 'host'], cwd=folder, check=True)
    given = bytes(64)
    said = subprocess.run(['./host'], cwd=folder, input=given, capture_output=True, check=True)
    assert len(said.stdout) == 10


def test_a_net_trained_in_few_bits_keeps_its_codes(trained, digits, tmp_path):
  """Two bits, with learned steps: int8 holds the same weights, and the accuracy stays."""
  from reduction.mcu import reader
  from reduction.run import Run

  pytest.importorskip('tflite', reason='reading .tflite files needs the package tflite')
  run = Run(digits, (0, 1), tmp_path)
  qat = stages.qat(
    bits=2, group='channel', symmetric=True, learned=True, steps=300, batch=60, every=150,
    optimizer=dict(name='adam', learning_rate=2e-3),
  )  # fmt: skip
  small = qat(trained, run.child('qat'))
  exact = run.rows[-1]['test_accuracy']
  stages.microcontroller(board='stm32f412')(small, run.child('deploy'))
  row = run.rows[-1]
  assert row['float_accuracy'] == pytest.approx(exact, abs=1 / len(digits.test.y))
  for real, int8 in zip(row['float_accuracy'], row['int8_accuracy']):
    assert real > 0.75 and abs(int8 - real) <= 0.02
  first, second, out = reader.read(tmp_path / 'files/deploy/c/net.tflite').ops
  for op in (first, second):
    assert set(op.weights.ravel().tolist()) == {-2, -1, 0, 1}
  assert abs(out.weights).max() == 127  # which was not trained in few bits


@pytest.mark.slow
def test_training_in_3_bits_beats_rounding_to_them_and_is_what_is_deployed(digits, tmp_path):
  """A convolutional net with normalization on real digits, for each seed."""
  from reduction import models, saved
  from reduction.mcu.from_flax import convert, logits
  from reduction.net import create
  from reduction.run import Run, chain

  run = Run(digits, (0, 1), tmp_path)
  net = create(models.vgg(layers=(8, 'pool', 16)), run.key('init', 0), digits.train.x[:1])
  length = dict(steps=300, batch=60, every=150)
  adam = lambda rate: dict(name='adam', learning_rate=rate, cosine=300)
  deploy = dict(board='stm32f412')
  last = chain(
    train=stages.tune(optimizer=adam(5e-3), **length),
    ptq=stages.microcontroller(bits=3, **deploy),
    qat=stages.qat_mcu(bits=3, freeze=150, of='train', optimizer=adam(2e-3), **length),
    deploy=stages.microcontroller(**deploy),
  )(net, run)
  ptq, deployed = [row for row in run.rows if row['kind'] == 'microcontroller']
  (qat,) = (row for row in run.rows if row['kind'] == 'qat')
  assert qat['before'] == ptq['int8_accuracy']
  lost = np.subtract(ptq['float_accuracy'], ptq['int8_accuracy'])
  won = np.subtract(deployed['int8_accuracy'], ptq['int8_accuracy'])
  assert (lost > 0.2).all() and (won > 0.8 * lost).all()
  assert deployed['int8_accuracy'] == qat['test_accuracy'] == deployed['float_accuracy']
  assert max(deployed['changed_predictions']) == 0 and deployed['equal_in_c'] in (20, None)
  again = saved.read(tmp_path / 'nets' / 'qat', models)  # with its ranges
  graph = convert(again, digits.train.x[:2])
  span = last.stats['ranges']['conv1'][0]
  assert graph.tensors[1].scale == pytest.approx(float(span[1] - span[0]) / 255, rel=1e-6)
  right = logits(graph, digits.test.x).argmax(-1) == digits.test.y
  assert right.mean() == pytest.approx(deployed['int8_accuracy'][0])


def test_a_net_that_does_not_fit_says_by_how_much_and_where(trained, digits):
  from reduction.mcu import boards, from_flax
  from reduction.mcu.deploy import deploy, fits

  graph = from_flax.convert(trained, digits.train.x[:64])
  small = boards.Board('small', 'm4', 2**20, 2048 + 50)
  with pytest.raises(UsageError, match=r'is \d+ more than 2,098 .*dense1.* needs less than 64'):
    fits(deploy(graph, small))
  with pytest.raises(UsageError, match=r"1,358 more than its Flash of 1,000.*'dense1'"):
    fits(deploy(graph, boards.Board('small', 'm4', 1_000, 2**16)))


def test_a_wrong_setting_is_refused_before_anything_runs():
  with pytest.raises(UsageError, match="Did you mean 'stm32h743'"):
    stages.microcontroller(board='stm32h74')
  with pytest.raises(UsageError, match='images=0'):
    stages.microcontroller(images=0)
