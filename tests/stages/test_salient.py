"""Channels of a language model kept in float or scaled up before rounding."""

import numpy as np
import pytest

from reduction import stages, tree
from reduction.errors import UsageError
from reduction.qtensor import dequantize, is_packed
from reduction.run import Run

THREE = dict(bits=3, group=16)


@pytest.fixture(scope='module')
def made(tiny):
  """made(**settings) -> (kernels by path, the row of the stage)"""
  model, data = tiny

  def make(**settings):
    run = Run(data)
    net = stages.salient(**THREE, **settings)(model.net, run)
    rows = [row for row in run.rows if row['kind'] == 'quantized']
    assert len(rows) == 14 and run.rows[-1]['kind'] == 'salient'
    return kernels(net), run.rows[-1] | dict(error=[row['error'][0] for row in rows])

  return make


def kernels(net):
  leaves = tree.named(net.params, is_packed)
  return {n: np.asarray(dequantize(w) if is_packed(w) else w) for n, w in leaves if 'kernel' in n}


def test_from_round_to_nearest_to_the_float_net(tiny, made):
  model, data = tiny
  plain = kernels(stages.awq(**THREE, scaling='none', clip=False)(model.net, Run(data)))
  for settings in dict(kept=0), dict(scaled=1.0):
    found, row = made(**settings)
    assert all(np.array_equal(found[n], w) for n, w in plain.items())
  assert row['changed'] == 0 and row['growth'] == 1
  found, row = made(kept=1)
  assert all(np.array_equal(found[n], np.asarray(w)) for n, w in kernels(model.net).items())
  assert row['really_kept'] == 1 and max(row['error']) == 0 and 'changed' not in row


def test_channels_that_are_kept_leave_less_error_and_large_scales_change_more_steps(made):
  none, kept, twice, more = (
    made(**how)[1] for how in (dict(kept=0), dict(kept=0.1), dict(scaled=2.0), dict(scaled=4.0))
  )
  assert np.mean(kept['error']) < np.mean(none['error'])
  # of 32 rows a tenth is 3, of 48 it is 5, of one linear in seven
  assert np.isclose(kept['really_kept'], (6 * 3 + 5) / (6 * 32 + 48))
  assert np.isclose(twice['really_kept'], 7 / (6 * 32 + 48))  # 1 %: one channel of each
  assert 0 < twice['changed'] < more['changed'] <= 0.5  # it lies in one group of two or three
  assert 1 < twice['growth'] < more['growth']


def test_random_channels_are_drawn_again(made):
  first, other = (made(by='random', kept=0.2, draw=draw)[0] for draw in (0, 1))
  again = made(by='random', kept=0.2)[0]
  assert all(np.array_equal(first[n], again[n]) for n in first)
  assert any(not np.array_equal(first[n], other[n]) for n in first)


@pytest.mark.parametrize(
  'bad, message',
  [
    (dict(by='activations'), "by='activations' is unknown. Did you mean 'activation'"),
    (dict(kept=1.5), r'kept=1.5 must lie in \[0, 1\]'),
    (dict(scaled=0.0), 'scaled=0.0 must be above 0'),
    (dict(bits=5), 'bits=5 must be one of'),
  ],
)
def test_what_cannot_be_is_one_line(bad, message):
  with pytest.raises(UsageError, match=message):
    stages.salient(**bad)
