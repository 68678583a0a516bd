"""What a run tells of a language model before it begins."""

import json

import pytest

from launch import preflight
from reduction.report.intervals import NONE
from tests import decoders
from tests.quantize.test_preflight import GPT, LLAMA_70B

LLM = '--config=configs/awq/llm.py'


def told(launch, root, config, *flags):
  """The Result of a run on a folder that holds a config.json alone."""
  folder = root / 'model'
  folder.mkdir()
  (folder / 'config.json').write_text(json.dumps(config))
  return launch(LLM, f'--config.model.path={folder}', f'--workdir={root / "run"}', *flags)


def test_a_config_alone_is_told_and_lacks_weights(launch, tmp_path):
  result = told(launch, tmp_path, LLAMA_70B, '--config.awq.group=128')
  assert result.code == 66
  assert result.lines[-1].startswith('error: no weights in ') and 'Traceback' not in result.err
  lines = [line.split() for line in result.out.splitlines()]
  for line in (
    'FP16 16.00 138.0 1.00', 'INT8 8.00 69.0 2.00', 'INT4 4.00 34.5 4.00',
    'INT4 in groups 4.19 36.1 3.82', 'INT3 3.00 25.9 5.33',
    'linears packed, the rest FP16 4.28 36.9 3.74', f'two blocks 6.85 {NONE}',
  ):  # fmt: skip
    assert line.split() in lines, result.out
  assert '68,976,648,192 parameters' in result.out and 'Estimates.' in result.out
  assert 'Not quantized: embed: outside the blocks; out: outside the blocks.' in result.out


def test_what_no_scale_passes_is_told(launch, tmp_path):
  result = told(launch, tmp_path, GPT, '--config.data.length=16', '--config.folder.format=float16')
  assert 'Not scaled: mlp/outer: also read by integer_pow.' in result.out, result.out
  assert result.code == 66 and len(result.lines) == 1


@pytest.mark.parametrize(
  'change, flag, says',
  [
    ({}, '--config.awq.bits=5', 'bits=5 must be one of'),
    (dict(max_position_embeddings=512), '--config.awq.group=24',
     'q_proj: group=24 does not divide the 32 rows'),
    (GPT, '--config.data.length=16', 'c_attn has no layout in compressed-tensors'),
    ({}, '--config.data.length=65', '65 tokens, but the model has 64 places'),
    (dict(hidden_size=10**12), '--config.awq.bits=4', 'hidden_size=1000000000000'),
    (dict(model_type='bert'), '--config.awq.bits=4', "model_type='bert'"),
  ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_it(launch, tmp_path, change, flag, says):
  result = told(launch, tmp_path, decoders.CONFIG | change, flag)
  assert result.code == 2 and says in result.lines[-1] and not result.out, result.out + result.err


def test_seconds_are_operations_over_the_paces_of_this_machine(decoder, monkeypatch):
  monkeypatch.setattr(preflight, 'paces', lambda: (10**6, 10**3))
  monkeypatch.setattr(preflight, 'memory', lambda: 10**9)
  data = dict(name='passages', calibration='text.txt', test='text.txt', examples=4, length=16)
  config = dict(model=dict(path='tiny'), data=data, stages=('awq',), awq=dict(group=16))
  row = preflight.foreseen(config, decoder)
  work = row['searching_flops'] / 10**6 + row['searching_weights'] / 10**3
  assert row['searching_s'] == pytest.approx(work, abs=0.06) and row['machine_bytes'] == 10**9
  # a text of 8,000 bytes and more, at 4 of them a token
  count = (decoder / 'text.txt').stat().st_size // 64
  few = preflight.foreseen(dict(config, data=dict(data, test_passages=1)), decoder)
  assert row['measuring_flops'] == count * few['measuring_flops']
  absent = preflight.foreseen(dict(config, data=dict(data, test='nowhere.txt')), decoder)
  assert absent['measuring_flops'] == 0


def test_other_runs_are_told_nothing(decoder):
  data = dict(name='passages', calibration='text.txt', test='text.txt')
  tune = dict(stages=('tune',), tune=dict(steps=1, batch=1, every=1, optimizer={}))
  assert preflight.foreseen(dict(model=dict(path='tiny'), data=data, **tune), decoder) is None
  digits = dict(model=dict(name='mlp', widths=(3,)), data=dict(name='digits'), **tune)
  assert preflight.foreseen(digits) is None


def test_the_paces_and_the_memory_of_a_machine_are_plausible(tmp_path, monkeypatch):
  products, weights = preflight.paces()
  assert 1e7 < products < 1e16 and 1e5 < weights < 1e14
  whole = preflight.memory()
  assert whole > 2**28
  limit = tmp_path / 'memory.max'
  monkeypatch.setattr(preflight, 'LIMITS', (str(limit), str(tmp_path / 'none')))
  limit.write_text('max\n')
  assert preflight.memory() >= whole
  limit.write_text(f'{2**27}\n')
  assert preflight.memory() == 2**27
