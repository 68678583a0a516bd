"""The roofline: the paper's own figures, from sizes alone, and that a model is measured."""

import importlib

import pytest

from configs.bench.roofline import MODELS
from launch.bench import run
from launch.benchmarks.sides import Session
from reduction.opened import language_model

roofline = importlib.import_module('launch.benchmarks.roofline')
LLAMA = roofline.Sizes(**MODELS['Llama-2-7B'])


def test_sizes_are_the_models_own():
  assert LLAMA.linears + 2 * LLAMA.head + 65 * 4096 == 6_738_415_616  # parameters
  assert roofline.Sizes(**MODELS['Llama-2-70B']).linears == 80 * (
    2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 28672
  )


def test_weights_and_activations_are_the_papers():
  attention, mlp = roofline.parts('llama', LLAMA)
  assert round(attention['weight_bytes'] / 1e6) == 134 and round(mlp['weight_bytes'] / 1e6) == 271
  assert attention['activation_bytes'] < 0.2e6 and mlp['activation_bytes'] < 0.2e6


def test_an_answer_waits_for_the_memory_and_a_prompt_computes():
  of = lambda bits: roofline.stages(
    LLAMA, 200, 20, roofline.weight_bytes(LLAMA, bits, 128), 165e12, 1008e9
  )
  prompt, answer = of(16)
  assert prompt['bound'] == 'compute' and answer['bound'] == 'memory'
  assert 0.014 < prompt['s'] < 0.018 and 0.25 < answer['s'] < 0.31  # paper: 10 and 310 ms
  assert 0.9 < answer['flops_per_byte'] < 1.1
  _, packed = of(4)
  assert 3.3 < packed['flops_per_byte'] < 4  # 4, without scales and with a last layer of 4 bits
  assert packed['flops'] == answer['flops'] and packed['s'] < answer['s'] / 3


def test_a_model_is_measured(decoder):
  config = dict(
    models={'one': MODELS['SmolLM2-135M']}, devices={'all': dict(flops=1e12, bytes=1e9)},
    prompt=8, answer=4, bits=(4,), group=64, measured='tiny',
  )  # fmt: skip
  rows = run(dict(benches=('roofline',), roofline=config), Session(str(decoder)))
  ran = [row for row in rows if row['kind'] == 'roofline_measured']
  ran, limit = ran[:4], ran[4:]
  assert [row['gflops'] for row in limit] == pytest.approx([
    ran[0]['limit_gb'] / 4, ran[0]['limit_gflops'], ran[0]['limit_gflops']
  ], rel=0.02)  # fmt: skip
  assert limit[1]['flops_per_byte'] == pytest.approx(
    ran[0]['limit_gflops'] / ran[0]['limit_gb'], rel=0.02
  )
  assert [(row['weights'], row['stage']) for row in ran] == [
    ('float32', 'prompt'), ('float32', 'answer'), ('INT4', 'prompt'), ('INT4', 'answer'),
  ]  # fmt: skip
  assert all(row['s'] > 0 and row['gflops'] > 0 and 0 < row['of_limit'] < 2 for row in ran)
  assert ran[2]['weight_bytes'] < ran[0]['weight_bytes']
  assert ran[3]['flops_per_byte'] > ran[1]['flops_per_byte']


def test_a_program_moves_what_sizes_say(decoder):
  """The products of one token in the traced program, beside the formulas."""
  net = language_model('tiny', str(decoder)).net
  sizes = roofline.Sizes(*(getattr(net.module, name) for name in roofline.Sizes._fields))
  bytes_ = lambda rows: [(row['weight_bytes'], row['activation_bytes']) for row in rows]
  traced, counted = roofline.program_parts('a', net), roofline.parts('b', sizes)
  for (weights, moved), (own, least) in zip(bytes_(traced), bytes_(counted), strict=True):
    assert weights == own
    assert least <= moved <= 2 * least  # inputs that linears share are counted once each


@pytest.mark.parametrize('bits, bytes_', [(16, 2), (4, 0.5 + 3 / 128)])
def test_bytes_by_hand(bits, bytes_):
  one = roofline.Sizes(1, 128, 2, 1, 64, 10)
  weights = 2 * 128**2 + 2 * 128 * 64 + 3 * 128 * 64
  assert roofline.weight_bytes(one, bits, 128) == weights * bytes_ + 2 * 1280
