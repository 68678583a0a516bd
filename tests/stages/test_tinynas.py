"""TinyNAS' choice of a space: larger memory, more computation; what fits nothing is said."""

import pytest

from reduction import stages
from reduction.errors import UsageError

SPACE = dict(name='mcunet', resolutions=(48, 96, 144), widths=(0.2, 0.5))


def test_a_larger_board_gets_a_larger_space(fresh, tmp_path):
  settings = dict(samples=30, attempts=2_000, budgets=((64, 128), (512, 1024)))
  stage = stages.tinynas(space=SPACE, boards=('stm32f746',), released=dict(stm32f746=(144, 0.5)),
                         **settings)  # fmt: skip
  net, run = fresh()
  assert stage(net, run) is net
  rows = {row['budget']: row for row in run.rows if row['kind'] == 'choice'}
  macs = lambda name: rows[name]['mean_macs'][0]
  assert macs('128 KiB, 1024 KiB') > macs('64 KiB, 1024 KiB')
  assert macs('128 KiB, 1024 KiB') >= macs('128 KiB, 512 KiB')
  assert rows['64 KiB, 512 KiB']['resolution'][0] <= rows['128 KiB, 512 KiB']['resolution'][0]
  board = rows['stm32f746']
  assert board['sram'] == 320 * 1024 - 2048
  assert (board['resolution'][0], board['width'][0]) == (144, 0.5)  # all fits: the largest
  assert board['released_rank'] == [1, 1]
  quantiles = [r['macs'][0] for r in run.rows if r['kind'] == 'cdf' and r['rank'] == 1]
  assert quantiles == sorted(quantiles) and len(quantiles) == 21


def test_what_fits_nothing_is_said(fresh):
  stage = stages.tinynas(space=SPACE, boards=(), budgets=((4,), (64,)), samples=10)
  with pytest.raises(UsageError, match='no network of mcunet fits any of'):
    stage(*fresh())
