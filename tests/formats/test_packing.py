"""Packed layers of AWQ, GPTQ and compressed-tensors: by hand, back again, and what they refuse."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reduction.errors import DataError, UsageError
from reduction.formats import awq, compressed, gptq, packing
from reduction.formats.packing import Linear

# where the columns 0..7 of a word are, in nibbles from the low end: AutoAWQ's reverse order
PLACES = 0, 4, 1, 5, 2, 6, 3, 7
signed = lambda *numbers: np.array(numbers, np.uint32).view(np.int32)
few = settings(max_examples=25, deadline=None)


def layer(rows, columns, bits, group, *, least=0, seed=0):
  """(codes, scale, zero) of random numbers; zero points from `least` on."""
  random = np.random.default_rng(seed)
  shape = rows // (rows if group == 'channel' else group), columns
  codes = random.integers(0, 2**bits, (rows, columns), np.uint8)
  scale = random.uniform(1e-3, 0.1, shape).astype(np.float16)
  return codes, scale, random.integers(least, 2**bits, shape, np.uint8)


def stream(codes, bits):
  """Codes as one long number, cut in words: what running on without a gap means."""
  number = sum(int(code) << bits * i for i, code in enumerate(codes))
  count = -(-len(codes) * bits // 32)
  return signed(*(number >> 32 * i & 0xFFFFFFFF for i in range(count)))


def same(found, *wanted):
  """Whether a layer has these parts, and is laid out as they are."""
  return all(
    a is b is None or (np.array_equal(a, b) and a.dtype == b.dtype and a.flags.c_contiguous)
    for a, b in zip(found, wanted, strict=False)
  )


@pytest.mark.parametrize(
  'bits, codes, wanted',
  [
    (4, [1, 2, 3], [0x321]),
    (4, [0, 1, 2, 3, 4, 5, 6, 7, 8], [0x76543210, 8]),
    (2, [1, 2, 3, 0, 1], [0x139]),
    (8, [1, 2, 3, 255], [0xFF030201]),
    (3, [0] * 10 + [5], [0x40000000, 1]),
    (3, [7] * 32, [0xFFFFFFFF] * 3),
    (3, [0] * 21 + [6] + [0] * 10, [0, 0, 3]),  # 6 = 0b110: 0 on top of a word, 11 in the next
  ],
)
def test_codes_run_on_as_written_down(bits, codes, wanted):
  codes = np.array(codes, np.uint8)
  packed = packing.words(codes[:, None], bits, axis=0)
  assert np.array_equal(packed[:, 0], signed(*wanted)) and packed.dtype == np.int32
  assert np.array_equal(packing.fields(packed, bits, len(codes), axis=0)[:, 0], codes)


@few
@given(st.sampled_from([2, 3, 4, 8]), st.integers(1, 99), st.integers(1, 4), st.integers(0, 1))
def test_codes_run_on_like_one_long_number(bits, count, others, axis):
  shape = (count, others) if axis == 0 else (others, count)
  codes = np.random.default_rng(count).integers(0, 2**bits, shape, np.uint8)
  packed = packing.words(codes, bits, axis=axis)
  lines = codes.T if axis == 0 else codes
  found = packed.T if axis == 0 else packed
  assert all(np.array_equal(f, stream(c, bits)) for f, c in zip(found, lines, strict=True))
  assert np.array_equal(packing.fields(packed, bits, count, axis=axis), codes)


@pytest.mark.parametrize('column, place', list(enumerate(PLACES)))
def test_awq_places_each_of_16_codes(column, place):
  codes = np.zeros((16, 8), np.uint8)
  codes[:, column] = np.arange(16)
  tensors = awq.pack(codes, np.ones((1, 8), np.float16), codes[:1], 4, 'channel')
  wanted = [code << 4 * place for code in range(16)]
  assert np.array_equal(tensors['qweight'][:, 0], signed(*wanted))


def test_awq_as_written_down():
  codes = np.arange(8, dtype=np.uint8)[None]
  scale, zero = np.full((1, 8), 0.5, np.float16), codes[:, ::-1].copy()
  tensors = awq.pack(codes, scale, zero, 4, 1)
  assert tensors['qweight'].view(np.uint32) == 0x75316420
  assert tensors['qzeros'].view(np.uint32) == 0x02461357
  assert tensors['scales'].dtype == np.float16 and tensors['scales'].shape == (1, 8)


def test_awq_gemv_as_written_down():
  codes, scale, zero = layer(64, 8, 4, 32)
  codes[:8, 3] = np.arange(8)
  zero[:, 3] = 9, 2
  tensors = awq.pack(codes, scale, zero, 4, 32, version='gemv')
  assert tensors['qweight'].shape == (8, 8)
  assert tensors['qweight'].view(np.uint32)[3, 0] == 0x76543210
  assert tensors['qzeros'].tolist()[3] == [0x29, 0, 0, 0]  # 2 groups of 32 take a multiple of 4
  assert tensors['scales'].shape == (8, 32) and (tensors['scales'][:, 2:] == 0).all()
  assert np.array_equal(tensors['scales'][:, :2], scale.T)


@pytest.mark.parametrize(
  'rows, group, wide', [(32, 32, 4), (1280, 32, 8), (64, 64, 2), (1152, 64, 4), (1152, 128, 2)]
)
def test_awq_gemv_fills_zero_points_up(rows, group, wide):
  tensors = awq.pack(*layer(rows, 8, 4, group), 4, group, version='gemv')
  assert tensors['qzeros'].shape == (8, wide) and tensors['scales'].shape == (8, 8 * wide)


@few
@given(
  st.sampled_from(['gemm', 'gemv']), st.sampled_from([32, 64, 128, 'channel']), st.integers(1, 3),
  st.integers(1, 5),
)  # fmt: skip
def test_awq_comes_back(version, group, groups, eights):
  rows = 128 * groups if group == 'channel' else group * groups
  parts = layer(rows, 8 * eights, 4, group)
  found = awq.unpack(awq.pack(*parts, 4, group, version=version), 4, group, version=version)
  assert same(found, *parts, None)


@few
@given(
  st.sampled_from([2, 3, 4, 8]), st.sampled_from([1, 2]), st.sampled_from([16, 32, 'channel']),
  st.booleans(), st.integers(1, 3), st.integers(1, 2),
)  # fmt: skip
def test_gptq_comes_back(bits, version, group, ordered, rows, columns):
  rows, columns = 32 * rows, 32 * columns
  parts = layer(rows, columns, bits, group, least=version == 1)
  size = rows if group == 'channel' else group
  random = np.random.default_rng(rows)
  index = random.permutation(np.arange(rows) // size).astype(np.int32) if ordered else None
  tensors = gptq.pack(*parts, bits, group, index=index, version=version)
  wanted = np.arange(rows) // size if index is None else index
  assert np.array_equal(tensors['g_idx'], wanted) and tensors['g_idx'].dtype == np.int32
  assert np.array_equal(tensors['qweight'][:, 1], stream(parts[0][:, 1], bits))
  assert np.array_equal(tensors['qzeros'][0], stream(parts[2][0] - (version == 1), bits))
  found = gptq.unpack(tensors, bits, group, version=version)
  assert same(found, *parts, None if (wanted == np.arange(rows) // size).all() else index)


def test_gptq_versions_differ_by_one():
  codes, scale, _ = layer(32, 32, 4, 32)
  zero = np.full((1, 32), 8, np.uint8)
  first, second = (gptq.pack(codes, scale, zero, 4, 32, version=v)['qzeros'] for v in (1, 2))
  assert (first.view(np.uint32) == 0x77777777).all()
  assert (second.view(np.uint32) == 0x88888888).all()
  for version in 1, 2:  # symmetric layers have zero points there too
    plain = gptq.pack(codes, scale, None, 4, 32, version=version)
    assert np.array_equal(plain['qzeros'], (first, second)[version - 1])


def test_a_zero_point_of_0_is_for_version_2_alone():
  codes, scale, zero = layer(32, 32, 4, 32, least=1)
  zero[0, 5] = 0
  with pytest.raises(UsageError, match=r'1 groups have a zero point of 0.*use gptq_v2'):
    gptq.pack(codes, scale, zero, 4, 32, version=1)
  tensors = gptq.pack(codes, scale, zero, 4, 32, version=2)
  assert gptq.unpack(tensors, 4, 32, version=2).zero[0, 5] == 0
  tensors['qzeros'] = packing.words(zero - np.uint8(1), 4, axis=1)  # wrapped to 15
  with pytest.raises(DataError, match=r'fields of ones only.*convert the model to gptq_v2'):
    gptq.unpack(tensors, 4, 32, version=1)


def test_rows_in_another_order_give_the_same_outputs():
  codes, scale, zero = layer(64, 32, 4, 16)
  index = np.random.default_rng(1).permutation(np.repeat(np.arange(4), 16)).astype(np.int32)
  value = lambda x, which: (x.codes - x.zero[which].astype(np.float32)) * x.scale[which]
  plain, order = packing.by_group(Linear(codes, scale, zero, index))
  assert plain.index is None and sorted(order) == list(range(64))
  w = value(Linear(codes, scale, zero), index)
  assert np.array_equal(w[order], value(plain, np.arange(64) // 16))
  same_layer, order = packing.by_group(plain)
  assert same_layer is plain and np.array_equal(order, np.arange(64))


@few
@given(
  st.sampled_from([2, 3, 4, 8]), st.sampled_from([16, 32, 'channel']), st.booleans(),
  st.sampled_from(['float16', 'float32']), st.integers(1, 3), st.integers(1, 40),
)  # fmt: skip
def test_compressed_tensors_comes_back(bits, group, symmetric, kind, rows, columns):
  codes, scale, zero = layer(32 * rows, columns, bits, group)
  zero, scale = None if symmetric else zero, scale.astype(kind)
  tensors = compressed.pack(codes, scale, zero, bits, group)
  assert tensors['weight_shape'].tolist() == [columns, 32 * rows]
  assert tensors['weight_shape'].dtype == np.int64
  assert np.array_equal(tensors['weight_packed'][0], stream(codes[:, 0], bits))
  assert ('weight_zero_point' in tensors) != symmetric
  if not symmetric:
    assert np.array_equal(tensors['weight_zero_point'][:, 0], stream(zero[0], bits))
  assert same(compressed.unpack(tensors, bits, group), codes, scale, zero, None)


def by_ten(codes):
  """Codes of 3 bits as compressed-tensors before 0.18 packed them: ten in a word."""
  cut = [codes[i : i + 10] for i in range(0, len(codes), 10)]
  return [sum(int(code) << 3 * i for i, code in enumerate(ten)) for ten in cut]


def test_older_compressed_tensors_are_read():
  codes, scale, zero = layer(64, 12, 3, 32)
  tensors = dict(
    weight_packed=np.array([by_ten(column) for column in codes.T], np.int32),
    weight_zero_point=np.array([by_ten(row) for row in zero], np.int32).T,
    weight_scale=scale.T, weight_shape=np.array([12, 64]), weight_g_idx=np.full(64, -1, np.int32),
  )  # fmt: skip
  assert tensors['weight_packed'].shape == (12, 7)
  assert same(compressed.unpack(tensors, 3, 32), codes, scale, zero, None)
  order = np.arange(64)[::-1] // 32
  ordered = compressed.unpack(tensors | dict(weight_g_idx=order), 3, 32)
  assert np.array_equal(ordered.index, order)


def test_scales_in_bfloat16_are_kept():
  import ml_dtypes

  codes, scale, _ = layer(32, 8, 4, 32)
  scale = scale.astype(ml_dtypes.bfloat16)
  found = compressed.unpack(compressed.pack(codes, scale, None, 4, 32), 4, 32)
  assert found.scale.dtype == ml_dtypes.bfloat16 and np.array_equal(found.scale, scale)


PACKERS = dict(
  gemm=awq.pack,
  gemv=lambda *parts: awq.pack(*parts, version='gemv'),
  v1=lambda *parts: gptq.pack(*parts, version=1),
  v2=gptq.pack,
  compressed=compressed.pack,
)
every = 'gemm gemv v1 v2 compressed'


@pytest.mark.parametrize(
  'names, change, says',
  [
    (every, dict(group=48), 'group=48 does not divide the 64 rows; .* such as 16'),
    (every, dict(group=0), "group=0 must be a number of rows, or 'channel'"),
    (every, dict(group=True), 'group=True must be a number of rows'),
    (every, dict(codes=np.full((64, 32), 16, np.uint8)), 'a code of 16 does not fit in 4 bits'),
    (every, dict(zero=np.full((2, 32), 99, np.uint8)), 'a zero point of 99 does not fit'),
    (every, dict(codes=np.zeros((0, 32), np.uint8)), r'codes are uint8 \[0, 32\]'),
    (every, dict(codes=np.zeros((64, 32), int)), r'codes are int64 \[64, 32\], not uint8'),
    (every, dict(scale=np.ones((4, 32), np.float16)), r'64 rows by 32 need \(2, 32\)'),
    (every, dict(scale=np.full((2, 32), np.inf)), 'a scale is NaN or infinite'),
    (every, dict(zero=np.zeros((2, 32), int)), 'zero points are int64'),
    (every, dict(zero=np.zeros((1, 32), np.uint8)), r'not uint8 \(2, 32\)'),
    ('gemm gemv v1 v2', dict(scale=np.full((2, 32), 0.1)), '64 of 64 scales are no float16'),
    ('gemm gemv v1 v2', dict(scale=np.full((2, 32), 1e6)), 'quantize with scales in float16'),
    ('compressed', dict(scale=np.ones((2, 32))), 'scales are float64, which is none of'),
    ('gemm gemv', dict(bits=3), 'awq packs 4 bits, not 3; use gptq_v2 or compressed-tensors'),
    ('gemm gemv', dict(zero=None), 'awq has a zero point for each group; give 8 everywhere'),
    ('v1 v2', dict(bits=5), 'gptq packs 2, 3, 4, 8 bits, not 5'),
    ('compressed', dict(bits=5), 'compressed-tensors packs 2, 3, 4, 8 bits, not 5'),
  ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused(names, change, says):
  for name in names.split():
    codes, scale, zero = layer(64, 32, 3, 32, least=1)
    parts = dict(codes=codes, scale=scale, zero=zero, bits=4, group=32) | change
    with pytest.raises(UsageError, match=says) as raised:
      PACKERS[name](*parts.values())
    assert '\n' not in str(raised.value)


@pytest.mark.parametrize(
  'name, rows, columns, bits, group, says',
  [
    ('gemm', 64, 12, 4, 32, 'awq packs 8 columns in a word and 12 are none; pad the layer'),
    ('gemv', 48, 8, 4, 48, 'awq gemv takes rows in multiples of 32, not 48'),
    ('gemv', 96, 8, 4, 96, 'awq gemv takes groups of 32, 64 or 128 and more, not 96'),
    ('v2', 48, 32, 4, 16, 'gptq takes rows in multiples of 32, not 48; pad the layer'),
    ('v1', 32, 48, 4, 16, 'gptq takes columns in multiples of 32, not 48; pad the layer'),
    ('compressed', 48, 8, 3, 16, '3 bits take rows in multiples of 32, not 48; pad the layer'),
  ],
)
def test_shapes_that_a_format_lacks_are_refused(name, rows, columns, bits, group, says):
  with pytest.raises(UsageError, match=says):
    PACKERS[name](*layer(rows, columns, bits, group, least=1), bits, group)


def test_an_index_names_each_group_as_often():
  parts = layer(64, 32, 4, 32)
  for index in np.zeros(64, int), np.arange(64) // 16, np.arange(32) // 16, np.full(64, -1):
    with pytest.raises(UsageError, match='must give each of the 2 groups 32 of the 64 rows'):
      gptq.pack(*parts, 4, 32, index=index)


def test_other_versions_are_refused():
  parts = layer(64, 32, 4, 32)
  with pytest.raises(UsageError, match="awq version 'marlin' is none of gemm, gemv"):
    awq.pack(*parts, 4, 32, version='marlin')
  with pytest.raises(UsageError, match='gptq has versions 1 and 2, not 3'):
    gptq.unpack({}, 4, 32, version=3)


PACKED = {
  'awq': (awq, awq.pack(*layer(64, 32, 4, 32), 4, 32)),
  'gptq': (gptq, gptq.pack(*layer(64, 32, 4, 32), 4, 32)),
  'compressed': (compressed, compressed.pack(*layer(64, 32, 4, 32), 4, 32)),
}


@pytest.mark.parametrize('name', PACKED)
def test_tensors_that_lack_are_named(name):
  module, tensors = PACKED[name]
  for lost in tensors.keys() - {'g_idx', 'weight_zero_point'}:
    rest = {key: value for key, value in tensors.items() if key != lost}
    with pytest.raises(DataError, match=f'{lost} is missing; this layer has'):
      module.unpack(rest, 4, 32)
  with pytest.raises(DataError, match='this layer has nothing'):
    module.unpack({}, 4, 32)


@pytest.mark.parametrize('name', PACKED)
@pytest.mark.parametrize('damage', [lambda x: x[:-1], lambda x: x[None], lambda x: x != 0])
def test_tensors_of_another_shape_or_kind_are_named(name, damage):
  module, tensors = PACKED[name]
  for part, tensor in tensors.items():
    with pytest.raises((DataError, UsageError)) as raised:
      module.unpack(tensors | {part: damage(tensor)}, 4, 32)
    assert '\n' not in str(raised.value)


@pytest.mark.parametrize(
  'name, change, bits, says',
  [
    ('gptq', dict(g_idx=np.full(64, 2)), 4, 'g_idx holds 2 to 2, not 0 to 1'),
    ('gptq', dict(g_idx=np.arange(-1, 63)), 4, 'g_idx holds -1 to 62'),
    ('gptq', {}, 3, 'qweight has 8 words a column; 3 bits fill three at a time'),
    ('compressed', dict(weight_shape=np.array([32, 2**62])), 4, 'has 8 words for'),
    ('compressed', dict(weight_shape=np.array([32, -64])), 4, 'has 8 words for -64 rows'),
    ('compressed', dict(weight_shape=np.array([2**40, 64])), 4, r'int32 \[32, 8\] for a weight'),
    ('compressed', dict(weight_shape=np.array([32, 80])), 3, 'in old and new layers alike'),
  ],
)
def test_damaged_layers_are_one_line(name, change, bits, says):
  module, tensors = PACKED[name]
  with pytest.raises(DataError, match=says):
    module.unpack(tensors | change, bits, 32)
