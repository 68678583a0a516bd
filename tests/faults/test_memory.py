"""Models larger than the memory. Numbers in brackets: the project's fault list."""

import json
import re
import signal
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from launch import cli, preflight
from reduction import tree
from reduction.quantize import plan as plans
from tests.faults import bounded

LINUX = pytest.mark.skipif(sys.platform != 'linux', reason='only Linux limits what is its own')
SIZES = dict(hidden_size=512, intermediate_size=2048)
RTN = dict(scaling='none', clip=False, group=64)


def quantized(launch, folder, sizes, layers, stage, *flags):
  """(Result, bytes of the large model's weights as float32)"""
  bounded.write(folder / 'small', num_hidden_layers=2, **sizes)
  floats = bounded.write(folder / 'large', num_hidden_layers=layers, **sizes)
  folders = [folder / name for name in ('small', 'large', 'runs')]
  how = dict(module='tests.faults.bounded', env=dict(XLA_FLAGS=None))
  return launch(*folders, json.dumps(stage), *flags, **how), floats


@pytest.mark.slow
@LINUX
@pytest.mark.parametrize('stage, sizes, layers', [
  (RTN, dict(hidden_size=1024, intermediate_size=4096), 16),
  (dict(group=64), dict(hidden_size=256, intermediate_size=1024), 96),
], ids=['rtn', 'awq'])  # fmt: skip
def test_a_model_is_quantized_in_less_memory_than_its_file_takes(
  launch, tmp_path, stage, sizes, layers
):
  result, floats = quantized(launch, tmp_path, sizes, layers, stage)
  assert result.code == 0, result.err
  row = json.loads(result.out.splitlines()[-1])
  assert row['memory_bytes'] + bounded.NOISE < 0.9 * floats / 2  # its file is in bfloat16
  rows = (tmp_path / 'runs' / 'large' / 'metrics.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in rows]
  assert [one['kind'] for one in rows[:2]] == ['preflight', 'stage']
  assert sum(one['kind'] == 'quantized' for one in rows) == row['packed_linears'] == 7 * layers
  assert rows[-1]['bytes'] == [row['stored_bytes']]  # foreseen to the byte


@LINUX
def test_the_limit_is_too_low_for_all_weights_at_once(launch, tmp_path):
  result, _ = quantized(launch, tmp_path, SIZES, 24, RTN, '--careless')
  assert result.code != 0 and 'MemoryError' in result.err
  assert (tmp_path / 'runs' / 'small' / 'metrics.jsonl').exists()
  assert not (tmp_path / 'runs' / 'large' / 'metrics.jsonl').exists()


def test_too_little_memory_is_a_line_with_numbers():  # [27]
  parts = dict.fromkeys([f'{part}_memory' for part in (*preflight.PARTS, 'measuring')], 10**9)
  row = dict(parts, statistics_memory=40e9, memory_bytes=60e9, machine_bytes=64 * 10**9)
  assert preflight.short(row) == ''
  warning = preflight.short(dict(row, machine_bytes=25 * 10**9))
  assert 'about 60.8 GB of memory are needed, 40.0 GB of them for statistics' in warning
  assert '25.0 GB are there' in warning and '\n' not in warning
  assert preflight.short(dict(row, machine_bytes=None)) == ''  # a device that does not say


@pytest.mark.parametrize(
  'asked', [lambda: np.ones(2**50), lambda: jnp.ones(2**40).block_until_ready()]
)
def test_no_memory_left_is_one_line(capsys, monkeypatch, asked):
  monkeypatch.setattr(sys, 'argv', ['run'])
  with pytest.raises(SystemExit) as left:
    cli.run(lambda argv: asked())
  (line,) = capsys.readouterr().err.splitlines()
  assert left.value.code == 2
  assert re.match(
    'error: out of memory: .*(Unable to allocate|Out of memory alloc).* take less', line
  )


@pytest.mark.slow
def test_killed_at_a_block_it_goes_on_with_the_same_scales(launch, decoder, tmp_path):  # [26]
  how = dict(module='tests.faults.blocks')
  assert launch(decoder, tmp_path / 'whole', **how).code == 0
  killed = launch(decoder, tmp_path / 'killed', env={'REDUCTION_CRASH_AT': 'blocks:1'}, **how)
  assert killed.code == -signal.SIGKILL
  assert list((tmp_path / 'killed').glob('checkpoints/*/carry/[0-9]*'))  # block 0 is kept
  assert launch(decoder, tmp_path / 'killed', **how).code == 0
  one, other = (
    plans.read(tmp_path / name / 'files' / 'plan' / 'plan.npz') for name in ('whole', 'killed')
  )
  assert tree.digests(one) == tree.digests(other)
