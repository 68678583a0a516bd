"""quantization_config: as others write it, read back, and refused where it says something else."""

import json

import numpy as np
import pytest

from reduction.errors import DataError, UsageError
from reduction.formats import quantization
from reduction.formats.packing import Linear
from reduction.formats.quantization import Packing

ALL = [
  Packing('awq-gemm', 4, 128, False), Packing('awq-gemv', 4, 'channel', False),
  Packing('gptq', 4, 128, True), Packing('gptq', 8, 'channel', False),
  Packing('gptq_v2', 3, 64, False), Packing('gptq_v2', 2, 32, True),
  Packing('compressed-tensors', 4, 128, True), Packing('compressed-tensors', 3, 32, False),
  Packing('compressed-tensors', 8, 'channel', True),
]  # fmt: skip


@pytest.mark.parametrize('packing', ALL)
def test_what_is_written_is_read(packing):
  text = json.dumps(quantization.settings(packing))
  assert quantization.read(json.loads(text)) == packing


@pytest.mark.parametrize('packing', [p for p in ALL if p.group == 32 or p.group == 'channel'])
def test_layers_come_back(packing):
  random, bits = np.random.default_rng(0), packing.bits
  codes = random.integers(0, 2**bits, (128, 32), np.uint8)
  shape = (1 if packing.group == 'channel' else 4, 32)
  scale = random.uniform(0.01, 1, shape).astype(np.float16)
  zero = None if packing.symmetric else random.integers(1, 2**bits, shape, np.uint8)
  found = quantization.unpack(packing, quantization.pack(packing, Linear(codes, scale, zero)))
  assert found.index is None and np.array_equal(found.codes, codes)
  assert np.array_equal(found.scale, scale)
  assert found.zero is None if packing.symmetric else np.array_equal(found.zero, zero)


def test_the_layer_and_its_description_agree():
  codes, scale = np.zeros((32, 32), np.uint8), np.ones((1, 32), np.float16)
  zero, index = np.full((1, 32), 9, np.uint8), np.zeros(32, int)
  symmetric, other = Packing('gptq', 4, 32, True), Packing('gptq', 4, 32, False)
  with pytest.raises(UsageError, match=r'zero points are not for Packing\(format=.gptq'):
    quantization.pack(symmetric, Linear(codes, scale, zero))
  with pytest.raises(UsageError, match='zero points are needed by Packing'):
    quantization.pack(other, Linear(codes, scale))
  with pytest.raises(UsageError, match='awq-gemm keeps rows in order; use gptq_v2'):
    quantization.pack(Packing('awq-gemm', 4, 32, False), Linear(codes, scale, zero, index))
  tensors = quantization.pack(other, Linear(codes, scale, zero))
  with pytest.raises(DataError, match='has zero points other than 8; these may be gptq_v2'):
    quantization.unpack(symmetric, tensors)
  packing = Packing('compressed-tensors', 4, 32, True)
  tensors = quantization.pack(packing, Linear(codes, scale))
  with pytest.raises(DataError, match='needs zero points and the layer has none'):
    quantization.unpack(packing._replace(symmetric=False), tensors)


def test_awq_says_what_autoawq_says():
  assert quantization.settings(Packing('awq-gemm', 4, 128, False), skip=()) == dict(
    quant_method='awq', bits=4, group_size=128, zero_point=True, version='gemm',
    modules_to_not_convert=None,
  )  # fmt: skip


def test_gptq_names_the_layers_that_are_left_out():
  packing, skip = Packing('gptq_v2', 4, 'channel', True), ['lm_head', 'model.layers.0.mlp']
  assert quantization.settings(packing, skip=skip, ordered=True) == dict(
    quant_method='gptq', bits=4, group_size=-1, sym=True, desc_act=True, lm_head=False,
    checkpoint_format='gptq_v2', dynamic={r'-:.*model\.layers\.0\.mlp$': {}},
  )  # fmt: skip
  with pytest.raises(UsageError, match='compressed-tensors keeps rows in order; use gptq_v2'):
    quantization.settings(Packing('compressed-tensors', 4, 32, True), ordered=True)


def test_compressed_tensors_says_what_its_compressor_says():
  found = quantization.settings(Packing('compressed-tensors', 4, 128, True))
  assert found['format'] == 'pack-quantized' and found['ignore'] == ['lm_head']
  assert found['config_groups']['group_0']['weights'] == dict(
    num_bits=4, type='int', symmetric=True, strategy='group', group_size=128, dynamic=False
  )


OTHERS = [
  (dict(quant_method='awq', w_bit=4, q_group_size=64, zero_point=True, version='GEMM'),
   Packing('awq-gemm', 4, 64, False)),
  (dict(quant_method='awq', bits=4, group_size=-1, zero_point=True, backend='autoawq'),
   Packing('awq-gemm', 4, 'channel', False)),
  (dict(quant_method='gptq', bits=4, group_size=128, sym=True, desc_act=False, damp_percent=0.1,
        dynamic={'-:.*gate.*': {}}),
   Packing('gptq', 4, 128, True)),
]  # fmt: skip


@pytest.mark.parametrize('found, packing', OTHERS)
def test_what_others_write_is_read(found, packing):
  assert quantization.read(found) == packing


AWQ, GPTQ, COMPRESSED = (
  quantization.settings(Packing(form, 4, 128, False))
  for form in ('awq-gemm', 'gptq_v2', 'compressed-tensors')
)
GROUP = COMPRESSED['config_groups']['group_0']
weights = lambda **change: dict(
  config_groups=dict(group_0=GROUP | dict(weights=GROUP['weights'] | change))
)


@pytest.mark.parametrize(
  'found, change, says',
  [
    (AWQ, dict(quant_method='awk'), "quant_method 'awk' is unknown. Did you mean 'awq'?"),
    (AWQ, dict(quant_method=None), 'quant_method None is unknown. Known: awq, compressed-tensors'),
    (AWQ, dict(quant_method=['awq']), 'is unknown'),
    (AWQ, dict(version='gemv_fast'), "version 'gemv_fast' is not read; convert the model to gemm"),
    (AWQ, dict(bits=8), 'awq packs 4 bits, not 8'),
    (AWQ, dict(zero_point=False), 'awq-gemm has a zero point for each group'),
    (GPTQ, dict(group_size=0), 'group=0 must be a number of rows'),
    (GPTQ, dict(bits=5), 'gptq packs 2, 3, 4, 8 bits, not 5'),
    (GPTQ, dict(checkpoint_format='gptq_v3'), "'gptq_v3' is unknown. Did you mean 'gptq_v2'?"),
    (GPTQ, dict(dynamic={'+:.*down.*': dict(bits=8)}), 'layers in other bits or groups'),
    (COMPRESSED, dict(format='marlin-24'), "'marlin-24' is not read; 'pack-quantized' is"),
    (COMPRESSED, weights(type='float'), "weights of type 'float' are not read; int is"),
    (COMPRESSED, weights(strategy='tensor'), "strategy 'tensor' is not read"),
    (COMPRESSED, weights(num_bits=6), 'compressed-tensors packs 2, 3, 4, 8 bits, not 6'),
    (COMPRESSED, dict(transform_config=dict(a=1)), 'has a transform_config, which is not read'),
    (COMPRESSED, dict(config_groups=dict(a=GROUP, b=GROUP | dict(weights=dict(num_bits=8)))),
     '2 groups of layers that differ'),
    (COMPRESSED, dict(config_groups=dict(a=GROUP | dict(input_activations=dict(num_bits=8)))),
     'quantizes activations too'),
  ],
)  # fmt: skip
def test_what_is_not_read_is_told(found, change, says):
  with pytest.raises(UsageError, match=says.replace('?', r'\?')) as raised:
    quantization.read(found | change)
  assert '\n' not in str(raised.value)


@pytest.mark.parametrize(
  'found',
  [
    [], AWQ | dict(bits='4'), AWQ | dict(bits=True), AWQ | dict(group_size=None),
    AWQ | dict(zero_point=1), AWQ | dict(version=1), GPTQ | dict(sym='yes'),
    GPTQ | dict(checkpoint_format=2), COMPRESSED | dict(config_groups=[]),
    COMPRESSED | dict(config_groups={}), COMPRESSED | dict(config_groups=dict(a=1)),
    COMPRESSED | dict(config_groups=dict(a={'format': 'pack-quantized'})),
    COMPRESSED | weights(group_size='128'), COMPRESSED | weights(symmetric=None),
  ],
)  # fmt: skip
def test_nonsense_is_one_line(found):
  with pytest.raises(DataError) as raised:
    quantization.read(found)
  assert '\n' not in str(raised.value)


@pytest.mark.parametrize(
  'packing, says',
  [
    (Packing('gptq_v3', 4, 128, False), "format 'gptq_v3' is unknown. Did you mean 'gptq_v2'"),
    (Packing('awq-gemm', 3, 128, False), 'awq packs 4 bits, not 3'),
    (Packing('awq-gemm', 4, 128, True), 'give 8 everywhere'),
    (Packing('gptq', 16, 128, True), 'not 16'),
    (Packing('gptq', 4, -1, True), "group=-1 must be a number of rows, or 'channel'"),
  ],
)
def test_other_packings_are_refused(packing, says):
  with pytest.raises(UsageError, match=says):
    quantization.settings(packing)
