"""Predicted instructions: exact where they are a sum of the features, near the emulator's count."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from configs.mcunet import cifar, setting
from configs.nas import digits
from reduction import models
from reduction.errors import UsageError
from reduction.mcu import measure
from reduction.search import cost as c
from reduction.search import latency, paths, timing
from reduction.search import space as s

SPACE = s.space('mcunet', resolutions=(32, 48), widths=(0.2, 0.3))
ONE = SPACE.at(32, 0.2)  # whose networks share shapes


def ops(genes):
  return c.ops_of_arch(s.decode(SPACE, genes))


def made_up(one):
  """7 instructions a multiply-accumulate, 2 an input, 30 an output and 500 an op that is there."""
  rows = latency.features(one)[0]
  return (rows @ [7, 2, 30, 0, 0, 500])[one.kind[0] != c.ABSENT]


def test_what_is_a_sum_of_the_features_is_predicted_exactly(tmp_path):
  genes = s.sample(SPACE, np.random.default_rng(0), 40)
  shapes = latency.rows([(ops(row), made_up(ops(row))) for row in genes[:20]])
  latency.write(tmp_path / 'rows.jsonl', instructions=shapes)
  table = latency.read(tmp_path / 'rows.jsonl')
  assert table.shapes == shapes
  for row in genes[20:]:
    np.testing.assert_allclose(latency.predict(table, ops(row))[0], made_up(ops(row)).sum(), 1e-5)
  many = c.ops_of(SPACE, genes[20:])
  np.testing.assert_allclose(
    latency.predict(table, many), [latency.predict(table, ops(row))[0] for row in genes[20:]]
  )
  other = s.decode(dataclasses.replace(SPACE, kernels=(9,)), np.zeros_like(genes[0]))
  with pytest.raises(UsageError, match='no measured network has'):
    latency.predict(table, c.ops_of_arch(other))


def test_a_few_networks_have_every_shape_of_a_space():
  few = c.ops_of(ONE, latency.covering(ONE))
  assert len(few.kind) == 2 * 9  # depths x kernels and expansions
  drawn = c.ops_of(ONE, s.sample(ONE, np.random.default_rng(0), 30))
  assert set(latency.shapes(drawn)) <= set(latency.shapes(few))
  with pytest.raises(UsageError, match='measure each'):
    latency.covering(SPACE)


def test_an_op_beside_an_equal_one_has_a_count_of_its_own(tmp_path):
  """Three depthwise ops, two of them equal: 10 + 2 * 7; what one table does not tell apart."""
  numbers = dict(kind=c.DEPTHWISE, side=8, out=8, cin=16, cout=16, kernel=[3, 5, 3], stride=1,
                 held=0, apart=0)  # fmt: skip
  one = c.Ops(*(np.broadcast_to(numbers[name], (1, 3)) for name in c.Ops._fields))
  three, five = (c.DEPTHWISE, 3, 1, 8, 8, 16, 16, 0), (c.DEPTHWISE, 5, 1, 8, 8, 16, 16, 0)
  assert latency.rows([(one, [6, 10, 8])]) == {(*three, 1): 7, (*five, 0): 10}
  shapes = {(*three, 0): 9.0, (*three, 1): 7.0, (*five, 1): 10.0}
  latency.write(tmp_path / 'rows.jsonl', instructions=shapes)
  table = latency.read(tmp_path / 'rows.jsonl')
  assert latency.predict(table, one)[0] == 2 * 7 + 10
  alone = c.Ops(*(field[:, :2] for field in one))
  assert latency.predict(table, alone)[0] == 9 + 10


def test_a_core_has_a_table_of_its_own_or_none():
  four, seven = (latency.read(core).shapes for core in ('m4', 'm7'))
  assert latency.read().shapes == four != seven
  with pytest.raises(UsageError, match="core 'm8' is not known"):
    latency.read('m8')
  one = ops(s.extremes(SPACE)[0])
  assert np.isnan(latency.with_instructions({}, one, latency.read('m0'))['instructions'])


def test_a_table_of_this_machine_is_a_sum_of_its_ops():
  """A clock that goes a second a look: each op takes 1 s / (2 calls, 4 images)."""
  space = dataclasses.replace(ONE, stages=ONE.stages[:1], kernels=(3,), expansions=(3,))
  ticks = itertools.count()
  found = timing.timed(timing.shapes_of(space), batch=4, calls=2, repeats=1,
                       clock=lambda: float(next(ticks)))  # fmt: skip
  assert set(found.values()) == {1e6 / 8}
  one = c.ops_of_arch(s.decode(space, s.extremes(space)[0]))
  assert latency.predict(latency.fit(found), one)[0] == (one.kind != c.ABSENT).sum() * 1e6 / 8
  for shape in found:  # what is timed makes what the op makes
    f, arguments = timing.program(shape, 2)
    named = dict(zip(latency.KEYS, shape))
    size = 2 * named['out'] ** 2 * named['cout']
    assert jax.eval_shape(f, *arguments).size == size
  f, arguments = timing.network(s.decode(space, s.extremes(space)[0]), 4)
  assert timing.compiled(f, arguments)().shape == (4, space.classes)


@pytest.mark.parametrize('core', ('m4', 'm7'))
@pytest.mark.parametrize('space', [
  setting.DIGITS, setting.WORDS, setting.SEPARABLE, setting.FEW,
  dict(setting.FEW, resolutions=(16,)), *(
    dict(setting.CIFAR, resolutions=(side,), widths=(width,))
    for side, width in (*cifar.PLACES.values(), *((s // 2, w) for s, w in cifar.PLACES.values()),
                        (32, 1.0), (16, 1.0))
  ),
])  # fmt: skip
def test_the_table_that_comes_along_has_every_op_of_the_configs_spaces(space, core):
  whole = s.space(**space)
  for row in latency.covering(whole):
    one = c.ops_of_arch(s.decode(whole, row))
    assert set(latency.rows([(one, made_up(one))])) <= set(latency.read(core).shapes)


@pytest.mark.parametrize('core', ('m4', 'm7'))
def test_the_table_has_every_op_of_the_mixtures_of_configs_nas(core):
  module = models.choice(**{k: v for k, v in digits.get_config().model.items() if k != 'name'})
  for path in paths.uniform(module):
    one = paths.ops(module, (8, 8, 1), path)
    assert set(latency.rows([(one, made_up(one))])) <= set(latency.read(core).shapes)


@pytest.mark.slow
@pytest.mark.skipif(measure.missing() is not None, reason=f'needs {measure.missing()}')
@pytest.mark.parametrize('core', ('m4', 'm7'))
def test_the_table_s_sum_is_within_5_percent_of_the_emulator(core):
  """Of networks that were not measured: the table that comes along is of a few others."""
  space = s.space(**setting.DIGITS)
  genes = s.sample(space, np.random.default_rng(1), 2)
  for one, counts in latency.measured(space, genes, core):
    assert latency.predict(latency.read(core), one)[0] == pytest.approx(sum(counts), rel=0.05)
