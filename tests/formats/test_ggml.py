"""GGUF's blocks: by hand and bit for bit with the package gguf; files are whole or not there."""

import numpy as np
import pytest

from reduction.errors import DataError, StorageError, UsageError
from reduction.formats import ggml
from reduction.formats.ggml import Blocks

KINDS = 'Q4_0', 'Q4_1', 'Q8_0'


def weight(rows=24, width=96, seed=0):
  """Random rows, some of them hard: zeros, one sign, ties, one large weight."""
  w = np.random.default_rng(seed).normal(0, 0.05, (rows, width)).astype(np.float32)
  w[0] = 0
  w[1] = abs(w[1]) + 1
  w[2] = np.linspace(-8, 7.5, width)
  w[3, 40] = -30
  w[4] = -0.25
  return w


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('factor, to', [(1, np.float32), (1e-7, np.float32), (1, np.float16)])
def test_blocks_are_those_of_gguf_bit_for_bit(kind, factor, to):
  gguf = pytest.importorskip('gguf')
  w, theirs = (weight() * factor).astype(to), gguf.GGMLQuantizationType[kind]
  blocks = ggml.quantize(w, kind)
  assert np.array_equal(blocks.data, gguf.quants.quantize(w.astype(np.float32), theirs))
  assert np.array_equal(ggml.dequantize(blocks), gguf.quants.dequantize(blocks.data, theirs))


@pytest.mark.parametrize('kind', KINDS)
def test_any_bytes_of_blocks_are_read_as_gguf_does(kind):
  gguf = pytest.importorskip('gguf')
  data = np.random.default_rng(0).integers(0, 256, (64, 3 * ggml.BYTES[kind]), np.uint8)
  theirs = gguf.GGMLQuantizationType[kind]
  with np.errstate(all='ignore'):  # some scales are NaN or infinite
    found, wanted = ggml.dequantize(Blocks(data, kind)), gguf.quants.dequantize(data, theirs)
  assert np.array_equal(found, wanted, equal_nan=True)


half = lambda x: np.float16(x).tobytes()


@pytest.mark.parametrize(
  'kind, w, wanted',
  [
    ('Q4_0', [-8.0] + [1.0] * 15 + [2.0] * 16, half(1) + b'\xa0' + b'\xa9' * 15),
    ('Q4_1', [0.0] * 16 + [15.0] * 16, half(1) + half(0) + b'\xf0' * 16),
    ('Q8_0', [127.0, -127.0, 2.5] + [0.0] * 29, half(1) + b'\x7f\x81\x03' + b'\0' * 29),
    ('Q4_0', [0.0] * 32, half(-0.0) + b'\x88' * 16),
  ],
)
def test_blocks_as_written_down(kind, w, wanted):
  w = np.array([w], np.float32)
  blocks = ggml.quantize(w, kind)
  assert blocks.data.tobytes() == wanted and blocks.data.shape == (1, ggml.BYTES[kind])
  exact = w if kind != 'Q8_0' else np.where(w == 2.5, 3, w)  # half away from zero
  assert np.array_equal(ggml.dequantize(blocks), exact)


def coded(bits, group, symmetric, scale=None, rows=128, columns=5):
  random = np.random.default_rng(0)
  shape = rows // group, columns
  codes = random.integers(0, 2**bits, (rows, columns), np.uint8)
  scale = random.uniform(0.001, 0.1, shape).astype(np.float16) if scale is None else scale(shape)
  return codes, scale, None if symmetric else random.integers(0, 2**bits, shape, np.uint8)


@pytest.mark.parametrize('group', [32, 64, 128])
@pytest.mark.parametrize(
  'kind, bits, symmetric', [('Q4_0', 4, True), ('Q4_1', 4, False), ('Q8_0', 8, True)]
)
def test_codes_stand_for_the_same_numbers(kind, bits, symmetric, group):
  powers = lambda shape: 2.0 ** -np.arange(np.prod(shape)).reshape(shape) % 8
  codes, scale, zero = coded(bits, group, symmetric, None if symmetric else powers)
  blocks = ggml.from_codes(codes, scale, zero, bits, group)
  assert blocks.kind == kind and blocks.data.shape == (5, 4 * ggml.BYTES[kind])
  middle = np.full(scale.shape, 2 ** (bits - 1)) if zero is None else zero
  wide = lambda x: np.repeat(x.astype(np.float32), group, 0)
  wanted = (codes - wide(middle)) * wide(scale)
  assert np.array_equal(ggml.dequantize(blocks), wanted.T)


def test_a_zero_point_of_8_everywhere_is_symmetric():
  codes, scale, _ = coded(4, 32, True)
  plain = ggml.from_codes(codes, scale, None, 4, 32)
  zero = np.full(scale.shape, 8, np.uint8)
  assert np.array_equal(ggml.from_codes(codes, scale, zero, 4, 32).data, plain.data)


def test_offsets_are_rounded_only_when_asked():
  codes, scale, zero = coded(4, 32, False)
  with pytest.raises(UsageError, match=r'of 20 blocks have -zero \* scale that is no float16'):
    ggml.from_codes(codes, scale, zero, 4, 32)
  blocks = ggml.from_codes(codes, scale, zero, 4, 32, rounded=True)
  wide = lambda x: np.repeat(x.astype(np.float32), 32, 0)
  wanted = (codes - wide(zero)) * wide(scale)
  assert (abs(ggml.dequantize(blocks).T - wanted) <= wide(scale) * 15 * 2.0**-11).all()


@pytest.mark.parametrize(
  'parts, bits, group, says',
  [
    (coded(4, 16, True), 4, 16, 'groups of 16 are no multiple of'),
    (coded(3, 32, True), 3, 32, 'blocks hold 4 or 8 bits, not 3'),
    (coded(8, 32, False), 8, 32, 'Q8_0 has no zero points; quantize symmetric'),
    (coded(4, 32, True, lambda shape: np.full(shape, 0.1)), 4, 32, 'no float16 numbers'),
    (coded(4, 32, True), 4, 48, 'does not divide the 128 rows'),
  ],
)
def test_codes_that_blocks_do_not_hold_are_refused(parts, bits, group, says):
  with pytest.raises(UsageError, match=says):
    ggml.from_codes(*parts, bits, group)


def test_other_weights_and_bytes_are_refused():
  with pytest.raises(UsageError, match='takes inputs in multiples of 32, not 40; pad the layer'):
    ggml.quantize(np.zeros((2, 40)), 'Q4_0')
  with pytest.raises(UsageError, match=r"'Q4_2' are unknown. Did you mean 'Q4_"):
    ggml.quantize(np.zeros((2, 32)), 'Q4_2')
  with pytest.raises(DataError, match='the weight holds NaN or infinity'):
    ggml.quantize(np.full((2, 32), np.nan), 'Q8_0')
  with pytest.raises(DataError, match='is too large for a float16'):
    ggml.quantize(np.full((2, 32), 1e7), 'Q4_1')
  with pytest.raises(DataError, match=r'uint8 \[2, 35\] are no bytes of Q8_0 blocks'):
    ggml.dequantize(Blocks(np.zeros((2, 35), np.uint8), 'Q8_0'))


METADATA = {
  'general.architecture': 'llama', 'llama.block_count': 1, 'llama.rope.freq_base': 10000.0,
  'general.name': 'small', 'tokenizer.ggml.tokens': ['a', 'b'], 'tokenizer.ggml.add_bos': True,
}  # fmt: skip


def named(crash=None):
  """Tensors of a file; raises in their midst where told to."""
  yield 'blk.0.attn_q.weight', ggml.quantize(weight(), 'Q4_0')
  if crash:
    raise crash
  yield 'output_norm.weight', np.arange(32, dtype=np.float32)
  yield 'output.weight', weight().astype(np.float16)


def test_a_file_is_read_by_gguf(tmp_path):
  gguf = pytest.importorskip('gguf')
  ggml.write(tmp_path / 'model.gguf', METADATA, named())
  assert [path.name for path in tmp_path.iterdir()] == ['model.gguf']
  reader = gguf.GGUFReader(tmp_path / 'model.gguf')
  found = {key: reader.fields[key].contents() for key in METADATA}
  assert found == METADATA
  assert reader.fields['llama.block_count'].types == [gguf.GGUFValueType.UINT32]
  for tensor, (name, wanted) in zip(reader.tensors, named(), strict=True):
    assert tensor.name == name
    data = wanted.data if isinstance(wanted, Blocks) else wanted
    assert np.array_equal(tensor.data, data)
  assert reader.tensors[0].tensor_type == gguf.GGMLQuantizationType.Q4_0
  assert reader.tensors[0].shape.tolist() == [96, 24]  # the fastest first


@pytest.mark.parametrize(
  'crash, raised',
  [(OSError(28, 'No space left'), StorageError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_a_crash_leaves_the_file_before(tmp_path, crash, raised):
  pytest.importorskip('gguf')
  path = tmp_path / 'model.gguf'
  path.write_text('before')
  with pytest.raises(raised):
    ggml.write(path, METADATA, named(crash))
  assert path.read_text() == 'before' and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
  'change, tensors, says',
  [
    ({'general.architecture': None}, [], "metadata needs 'general.architecture'"),
    (dict(a=None), [], 'a=None is no str, bool, int, float, list'),
    (dict(a=-1), [], 'a=-1 does not fit in a uint32'),
    (dict(a=''), [], "a='' is empty or of several kinds"),
    (dict(a=[1, 'b']), [], 'is empty or of several kinds'),
    ({}, [('w', np.zeros(2))], r'w is float64 \[2\], not float16, float32 or blocks'),
    ({}, [('w', np.zeros(2, np.float32))] * 2, 'w comes twice'),
  ],
)
def test_what_a_file_does_not_hold_is_refused(tmp_path, change, tensors, says):
  pytest.importorskip('gguf')
  with pytest.raises(UsageError, match=says):
    ggml.write(tmp_path / 'model.gguf', METADATA | change, tensors)
  assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
  pytest.importorskip('gguf')
  (tmp_path / 'file').write_text('')
  with pytest.raises(StorageError, match='cannot write'):
    ggml.write(tmp_path / 'file' / 'model.gguf', METADATA, named())
