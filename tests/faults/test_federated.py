"""A federation killed between rounds ends with the same bits as one left alone."""

import signal

import pytest

CONFIG = '--config=configs/fedkd/digits.py:quick'


@pytest.mark.slow
def test_sigkill_between_rounds_changes_no_bit(launch, tmp_path):
  whole, cut = tmp_path / 'whole', tmp_path / 'cut'
  assert launch(CONFIG, f'--workdir={whole}').code == 0
  for point in 'rounds:1', 'rounds-saved:2':
    crash = {'REDUCTION_CRASH_AT': point}
    assert launch(CONFIG, f'--workdir={cut}', env=crash).code == -signal.SIGKILL
  result = launch(CONFIG, f'--workdir={cut}')
  assert result.code == 0, result.err
  nets = sorted(path.relative_to(whole) for path in (whole / 'nets').rglob('*') if path.is_file())
  assert len(nets) >= 2
  for path in nets:
    assert (whole / path).read_bytes() == (cut / path).read_bytes(), path
  assert (whole / 'metrics.jsonl').read_text() == (cut / 'metrics.jsonl').read_text()
