"""The TPU's kernel in interpret mode against the weights as floats; compiled for absent TPUs."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu

from reduction.kernels import accelerator, int4, int4_tpu
from reduction.qtensor import QTensor, Scheme, dequantize, pack
from reduction.quantize.rtn import quantize
from tests.kernels.children import LIBTPU, check_step, child
from tests.kernels.shapes import off_where_it_runs, weight

TABLE = pathlib.Path(__file__).parent / 'tpu.jsonl'
CHIPS = 'v5e', 'v5p', 'v6e'
KEYS = 'bits', 'group', 'rows', 'columns', 'count'
SCHEMES = [  # rows, columns, group, symmetric
  (256, 128, 128, False),
  (300, 77, 32, False),
  (384, 130, 192, True),
  (300, 1, 'channel', False),
  (96, 5, 'tensor', True),
]


PREPACKED = jax.jit(int4_tpu.prepacked)
DEQUANTIZED = jax.jit(int4_tpu.dequantized)
INTERPRETED = jax.jit(functools.partial(int4_tpu.matmul, interpret=True))


@functools.cache
def made(rows, columns, **scheme):
  """A packed weight [rows, columns] off center."""
  random = np.random.default_rng(0)
  w = random.standard_normal((rows, columns), np.float32) + 0.3
  return quantize(jnp.asarray(w), scheme=Scheme(**scheme), dtype=jnp.float16)


def error(x, kernel):
  """The largest of the kernel's product, over the largest product."""
  found = INTERPRETED(x, PREPACKED(kernel))
  assert found.dtype == x.dtype and found.shape == (*x.shape[:-1], kernel.shape[1])
  wanted = np.float64(x) @ np.float64(dequantize(kernel))
  return abs(np.float64(found) - wanted).max() / abs(wanted).max()


@pytest.mark.parametrize('bits', [3, 4])
@pytest.mark.parametrize('rows, columns, group, symmetric', SCHEMES)
def test_the_order_of_the_kernel_holds_the_same_weight(bits, rows, columns, group, symmetric):
  kernel = made(rows, columns, bits=bits, group=group, symmetric=symmetric)
  weight = PREPACKED(kernel)
  assert weight.shape == kernel.shape
  np.testing.assert_array_equal(DEQUANTIZED(weight), dequantize(kernel))


def test_words_as_the_docstring_shows_them():
  codes = jnp.arange(8, dtype=jnp.uint8)[:, None]
  four = QTensor(pack(codes, 4), jnp.ones((1, 1)), jnp.zeros((1, 1), jnp.uint8), Scheme(4), 8)
  assert PREPACKED(four).planes[0][0, 0] == np.uint32(0xFEDCBA98).view(np.int32)
  row = 128 * 1 + 64 * 1 + 8 * 2 + 3  # p, h, t, r, i = 0, 1, 1, 2, 3
  codes = jnp.zeros((256, 1), jnp.uint8).at[row].set(5)
  zero = jnp.zeros((1, 1), jnp.uint8)
  three = QTensor(pack(codes, 3), jnp.ones((1, 1)), zero, Scheme(3, 'channel'), 256)
  low, high = PREPACKED(three).planes
  assert np.flatnonzero(low[:, 0]) == [10] and low[10, 0] == 1 << 14
  assert np.flatnonzero(high[:, 0]) == [2] and high[2, 0] == 1 << 15


@pytest.mark.parametrize(
  'bits, rows, columns, group, dtype, near',
  [(4, 300, 77, 32, 'float16', 2e-3), (3, 300, 131, 64, 'float32', 1e-6)],
)
def test_derivatives_go_through_a_frozen_weight(
  monkeypatch, bits, rows, columns, group, dtype, near
):
  own, random = int4_tpu.matmul, np.random.default_rng(1)
  monkeypatch.setattr(int4_tpu, 'matmul', lambda *args: own(*args, interpret=True))
  kernel = made(rows, columns, bits=bits, group=group)
  x = jnp.asarray(random.standard_normal((3, rows), np.float32), dtype)
  by, weight, w = random.integers(-3, 4, (3, columns)), PREPACKED(kernel), dequantize(kernel)

  @jax.jit
  def both(x, weight, by):
    y, pull = jax.vjp(lambda x: int4.matmul(x, weight), x)
    return y, *pull(by)

  y, found = both(x, weight, jnp.asarray(by, dtype))
  for one, wanted in (y, np.float64(x) @ np.float64(w)), (found, by @ np.float64(w).T):
    assert one.dtype == x.dtype
    np.testing.assert_allclose(np.float64(one), wanted, atol=near * abs(wanted).max())


@pytest.mark.parametrize('zero', [0, 15, 16])
@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float32'])
def test_a_scale_and_its_zero_point_share_a_word(zero, dtype):
  scale = jnp.asarray([[6e-8, 0.1, 1 / 3, 3e4]], dtype)
  zeros = jnp.full((1, 4), zero, jnp.uint8)
  kernel = QTensor(jnp.zeros((4, 4), jnp.uint8), scale, zeros, Scheme(4, 8), 8)
  found = DEQUANTIZED(PREPACKED(kernel))
  tolerance = 2**-19 if dtype == 'float32' else 0
  np.testing.assert_allclose(found, dequantize(kernel), rtol=tolerance)


@pytest.mark.parametrize('bits, group', [(4, 128), (4, 32), (3, 64), (3, 'channel')])
def test_resident_bytes_are_those_of_codes_and_a_word_a_group(bits, group):
  weight = jax.eval_shape(int4_tpu.prepacked, made(1024, 256, bits=bits, group=group))
  found = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(weight))
  assert found == 1024 * 256 * bits // 8 + 4 * 256 * 1024 // (128 if group == 'channel' else group)


@pytest.mark.parametrize('bits', [3, 4])
@pytest.mark.parametrize(
  'case, count, dtype',
  [(0, 1, 'float32'), (1, 9, 'bfloat16'), (2, 17, 'float16'), (3, 3, 'float32'), (4, 8, 'float32')],
)
def test_the_kernel_gives_what_the_weights_give(bits, case, count, dtype):
  rows, columns, group, symmetric = SCHEMES[case]
  kernel = made(rows, columns, bits=bits, group=group, symmetric=symmetric)
  x = np.random.default_rng(1).standard_normal((count, rows), np.float32)
  rounding = {'float32': 5e-7, 'float16': 2**-11, 'bfloat16': 2**-8}[dtype]
  assert error(jnp.asarray(x, dtype), kernel) < rounding


def test_many_blocks_of_rows_and_columns():
  kernel = made(2048 + 1024, 640, bits=4, group=64)  # 3 x 5 blocks, and 192 rows in two
  x = np.random.default_rng(1).standard_normal((2, 32, 3072), np.float32)
  deep, wide = int4_tpu.filled(*kernel.shape, 4)
  block_k, block_n = int4_tpu.tiles(deep, wide)
  assert deep // block_k > 1 and wide // block_n > 1
  assert error(jnp.asarray(x), kernel) < 1e-6


@settings(max_examples=4, deadline=None)
@given(
  bits=st.sampled_from([3, 4]),
  rows=st.integers(1, 400),
  columns=st.integers(1, 150),
  group=st.sampled_from([32, 64, 96, 128, 'channel', 'tensor']),
  count=st.integers(1, 20),
  seed=st.integers(0, 99),
)
def test_any_shape_has_its_product(bits, rows, columns, group, count, seed):
  random = np.random.default_rng(seed)
  w = jnp.asarray(random.standard_normal((rows, columns), np.float32))
  kernel = quantize(w, scheme=Scheme(bits, group), dtype=jnp.float16)
  if int4_tpu.takes(kernel):
    assert error(jnp.asarray(random.standard_normal((count, rows), np.float32)), kernel) < 2e-6


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1))
def test_pieces_add_up_to_x(values):
  x = np.where(np.abs(values) < 1e-20, 0, values).astype(np.float32)
  pieces = jax.jit(accelerator.pieces)(np.resize(x, 64))  # one shape, one compilation
  assert all(piece.dtype == jnp.bfloat16 for piece in pieces)
  np.testing.assert_array_equal(sum(np.float64(piece) for piece in pieces), np.resize(x, 64))


def test_on_a_tpu_weights_are_made_for_it(monkeypatch, caplog):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  int4._fit.cache_clear()
  with pltpu.force_tpu_interpret_mode():  # a small product is tried first
    weight = int4.prepacked(made(128, 8, bits=3, group=32))
  assert isinstance(weight, int4_tpu.TpuWeight) and int4.is_weight(weight)
  assert int4.form(1, weight) is int4.form(64, weight) is int4_tpu.matmul
  assert int4.form(65, weight) is int4.reference
  assert not caplog.messages


@pytest.mark.parametrize('scheme', [dict(bits=2), dict(bits=4, group=48), dict(bits=3, group=8)])
def test_a_tpu_says_once_what_it_has_no_kernel_for(monkeypatch, caplog, scheme):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  int4._fit.cache_clear()
  kernel = made(192, 8, **scheme)
  assert int4.prepacked(kernel) is kernel and int4.prepacked(kernel) is kernel
  (line,) = caplog.messages
  assert 'no kernel on tpu' in line and f'bits={scheme["bits"]}' in line and 'none' in line


@pytest.mark.parametrize('broken, told', [(True, 'not give what'), (False, 'not compile')])
def test_a_kernel_that_fails_where_it_runs_is_not_trusted(monkeypatch, caplog, broken, told):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  int4._fit.cache_clear()
  if broken:  # high nibbles first; otherwise there is no TPU to compile for
    swapped = lambda x, w: int4.reference(x, w.replace(planes=(_swapped(w.planes[0]),)))
    monkeypatch.setattr(int4_tpu, 'matmul', swapped)
  kernel = made(256, 8, bits=4, group=64)
  assert int4.prepacked(kernel) is kernel
  assert told in caplog.text
  int4._fit.cache_clear()


def _swapped(words):
  return ((words >> 4) & 0x0F0F0F0F) | ((words & 0x0F0F0F0F) << 4)


def test_derivatives_go_through_the_order_of_the_kernel():
  kernel = made(128, 16, bits=3, group=64)
  x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 128), np.float32))
  loss = lambda x, kernel: (int4.matmul(x, kernel) ** 2).sum()
  with pltpu.force_tpu_interpret_mode():
    found = jax.jit(jax.grad(loss))(x, PREPACKED(kernel))
  np.testing.assert_allclose(found, jax.jit(jax.grad(loss))(x, kernel), rtol=1e-4, atol=1e-3)


@pytest.mark.device
@pytest.mark.skipif(jax.default_backend() != 'tpu', reason='no TPU')
@pytest.mark.parametrize('bits', [3, 4])
def test_a_tpu_itself_gives_what_the_weights_give(bits):
  found = list(off_where_it_runs(bits))
  assert {kind for kind, _ in found} == {int4_tpu.TpuWeight}
  assert max(error for _, error in found) < 0.01


TUNED = [json.loads(line) for line in TABLE.read_text().splitlines()]
CASES = sorted({(*(row[key] for key in KEYS), row.get('x', 'bfloat16')) for row in TUNED})


@pytest.mark.slow
@pytest.mark.parametrize('bits, group, rows, columns, count, dtype', CASES)
def test_what_is_tuned_gives_what_the_weights_give(bits, group, rows, columns, count, dtype):
  x = np.random.default_rng(1).standard_normal((count, rows), np.float32)
  near = dict(bfloat16=2**-8, float32=1e-5)[dtype]
  assert error(jnp.asarray(x, dtype), made(rows, columns, bits=bits, group=group)) < near


def test_what_a_block_of_x_takes_of_memory_has_a_bound():
  for deep in {int4_tpu.filled(rows, 128, 4)[0] for rows in range(128, 30_000, 128)}:
    block_k, _ = int4_tpu.tiles(deep, 128)
    for step in 32, 64, 128:
      rows = int4_tpu.most_rows(block_k, step)
      assert rows % 8 == 0 and 8 <= rows <= int4_tpu.TILE
      assert 2 * block_k * rows * (128 // step) <= int4_tpu.BLOCK


def test_what_is_tuned_is_every_size_of_blocks():
  """Rows at a time: all of DEEP, all of them at once; columns: both of WIDE, and fewer."""
  for bits in 3, 4:
    shapes = {(row['rows'], row['columns']) for row in TUNED if row['bits'] == bits}
    sizes = {int4_tpu.tiles(*int4_tpu.filled(*shape, bits)) for shape in shapes}
    assert {deep for deep, _ in sizes} > set(int4_tpu.DEEP)
    assert {wide for _, wide in sizes} >= set(int4_tpu.WIDE)
  assert {row['chip'] for row in TUNED} == set(CHIPS)
  assert len(TUNED) == len(CASES) * len(CHIPS)


@pytest.mark.slow
@pytest.mark.timeout(600)
@LIBTPU
@pytest.mark.parametrize('chip', CHIPS)
def test_what_is_tuned_compiles_for_tpus_that_are_not_here(chip):
  wanted = [row for row in TUNED if row['chip'] == chip]
  for before, now in zip(wanted, child('compile_tpu', wanted, 580), strict=True):
    assert now['bytes'] == before['bytes'], now
    assert 0 < now['bundles'] <= 1.1 * before['bundles'], (before, now)  # better is welcome
    floats, narrow = 2 * before['rows'] * before['columns'], before['group'] < 128
    packed = weight(int4_tpu.prepacked, *(before[k] for k in KEYS[:4]))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(packed))
    assert size < (0.33 if narrow else 0.28) * floats, now
    # x and what fills its tiles are no small part of a narrow layer's arguments
    x = 2 * before['rows'] * before['count']
    assert narrow or now['bytes'] < 0.28 * (floats + x), now


@pytest.mark.slow
@pytest.mark.timeout(300)
@LIBTPU
def test_a_token_s_step_compiles_for_a_tpu_that_is_not_here():
  check_step('tpu')
