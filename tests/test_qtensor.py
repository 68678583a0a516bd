"""Packed weights: by hand, back again, and as small as they say."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction.errors import UsageError
from reduction.qtensor import QTensor, Scheme, dequantize, pack, packed, unpack

column = lambda *values: np.array(values, np.uint8)[:, None]


@pytest.mark.parametrize(
  'bits, rows, data',
  [
    (4, (1, 2, 3, 4), (0x21, 0x43)),
    (4, (15, 0, 9), (0x0F, 0x09)),  # an odd row ends with a nibble of 0
    (2, (1, 2, 3, 0), (0b00_11_10_01,)),
    (3, (1, 2, 3, 4), (0b00_11_10_01, 0b1000)),
    (3, (7,) * 9, (0xFF, 0xFF, 0b11, 0xFF, 0b1)),
    (8, (200, 7), (200, 7)),
  ],
)
def test_codes_pack_as_written_down(bits, rows, data):
  assert np.array_equal(pack(column(*rows), bits), column(*data))
  assert packed(bits, len(rows)) == len(data)


@pytest.mark.parametrize('bits, rows', [(4, 4), (2, 8), (3, 5)])
def test_every_column_comes_back(bits, rows):
  codes = np.array(list(itertools.product(range(2**bits), repeat=rows)), np.uint8).T
  assert codes.shape[1] >= 2**15  # 65,536 of 4 and of 2 bits: all pairs of bytes
  data = pack(codes, bits)
  assert data.dtype == jnp.uint8 and np.array_equal(unpack(data, bits, rows), codes)


@pytest.mark.parametrize('bits', [2, 3, 4, 8])
@pytest.mark.parametrize('axis', [-2, -1])
@pytest.mark.parametrize('rows', [1, 7, 43])
def test_any_number_of_rows_comes_back_along_both_axes(bits, axis, rows):
  shape = (2, rows, 5) if axis == -2 else (2, 5, rows)
  codes = np.random.default_rng(0).integers(0, 2**bits, shape, np.uint8)
  data = pack(codes, bits, axis=axis)
  assert data.shape[axis] == packed(bits, rows)
  assert np.array_equal(unpack(data, bits, rows, axis=axis), codes)


def tensor(bits, rows=128, columns=64, group=32, symmetric=False, **change):
  scheme = Scheme(bits, group, symmetric)
  groups = scheme.groups(rows)
  parts = dict(
    data=jnp.zeros((packed(bits, rows), columns), jnp.uint8),
    scale=jnp.ones((groups, columns), jnp.float16),
    zero=None if symmetric else jnp.ones((groups, columns), jnp.uint8),
  )
  return QTensor(**(parts | change), scheme=scheme, rows=rows)


@pytest.mark.parametrize('bits, share', [(2, 0.25), (3, 0.375), (4, 0.5), (8, 1.0)])
def test_a_compiled_program_takes_as_many_bytes_as_it_should(bits, share):
  q = tensor(bits, rows=256, symmetric=True)
  scales = q.scale.size * 2
  assert q.data.size == share * 256 * 64 and q.nbytes == q.data.size + scales
  program = jax.jit(dequantize).lower(q).compile()
  assert program.memory_analysis().argument_size_in_bytes == q.nbytes


@pytest.mark.parametrize('symmetric, value', [(False, -0.5), (True, -4.0)])
def test_a_code_stands_for_its_distance_from_zero(symmetric, value):
  q = tensor(4, symmetric=symmetric, scale=jnp.full((4, 64), 0.5, jnp.bfloat16))
  w = dequantize(q, jnp.float16)  # code 0: (0 - 1) * 0.5, or (0 - 8) * 0.5
  assert w.dtype == jnp.float16 and w.shape == q.shape == (128, 64) and (w == value).all()


def test_it_is_a_pytree_and_replicates_stack():
  one, other = tensor(3), tensor(3)
  both = jax.tree.map(lambda *x: jnp.stack(x), one, other)
  assert both.shape == (2, 128, 64) and both.scheme == one.scheme
  assert np.array_equal(jax.vmap(dequantize)(both), dequantize(both))


@pytest.mark.parametrize(
  'change, says',
  [
    (dict(data=jnp.zeros((65, 64), jnp.uint8)), '128 rows are 64 bytes of 4 bits, not 65'),
    (dict(scale=jnp.ones((5, 64))), '128 rows are 4 groups of 32, not 5'),
    (dict(zero=None), 'a zero point is needed by Scheme'),
    (dict(symmetric=True, zero=jnp.ones((4, 64))), 'a zero point is not for Scheme'),
    (dict(zero=jnp.ones((4, 1))), r'zero points \(4, 1\) for scales \(4, 64\)'),
  ],
)
def test_parts_that_do_not_fit_are_refused(change, says):
  with pytest.raises(UsageError, match=says):
    tensor(4, **change)


@pytest.mark.parametrize(
  'settings, says',
  [
    (dict(bits=5), 'bits=5 must be one of'),
    (dict(bits=4, group=0), "group=0 must be a number of rows, 'channel' or 'tensor'"),
    (dict(bits=4, group=True), 'group=True'),
    (dict(bits=4, group='row'), "group='row'"),
    (dict(bits=4, axis=0), 'axis=0 must be -2 or -1'),
  ],
)
def test_other_schemes_are_refused(settings, says):
  with pytest.raises(UsageError, match=says):
    Scheme(**settings)
