"""The GPU's kernel in the emulator against the weights as floats; compiled for an absent H100."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reduction.kernels import int4, int4_gpu
from reduction.kernels.accelerator import chunk
from reduction.qtensor import QTensor, Scheme, dequantize, pack
from reduction.quantize.rtn import quantize
from tests.kernels.children import EMULATOR, NVIDIA, check_step, child
from tests.kernels.shapes import off_where_it_runs

TABLE = pathlib.Path(__file__).parent / 'gpu.jsonl'
CASES = [
  dict(bits=4, group=128, symmetric=False, count=1, rows=512, columns=128, dtype='bfloat16'),
  dict(bits=4, group=64, symmetric=True, count=3, rows=300, columns=77, dtype='float32'),
  dict(bits=4, group=192, symmetric=False, count=9, rows=384, columns=130, dtype='float16'),
  dict(bits=4, group='channel', symmetric=False, count=40, rows=256, columns=128, dtype='float32'),
  dict(bits=4, group=32, symmetric=False, count=30, rows=300, columns=77, dtype='bfloat16'),
  dict(bits=3, group=128, symmetric=False, count=1, rows=512, columns=128, dtype='float32'),
  dict(bits=3, group=32, symmetric=True, count=9, rows=1300, columns=130, dtype='float16'),
]
PREPACKED = jax.jit(int4_gpu.prepacked)
DEQUANTIZED = jax.jit(int4_gpu.dequantized)


def made(rows, columns, **scheme):
  """A packed weight [rows, columns] off center."""
  random = np.random.default_rng(0)
  w = random.standard_normal((rows, columns), np.float32) + 0.3
  return quantize(jnp.asarray(w), Scheme(**scheme), dtype=jnp.float16)


@pytest.mark.parametrize('bits', [3, 4])
@pytest.mark.parametrize(
  'rows, columns, group, symmetric',
  [(256, 128, 128, False), (300, 77, 32, False), (384, 130, 192, True), (96, 5, 'tensor', True)],
)
def test_the_order_of_the_kernel_holds_the_same_weight(bits, rows, columns, group, symmetric):
  kernel = made(rows, columns, bits=bits, group=group, symmetric=symmetric)
  weight = PREPACKED(kernel)
  assert weight.shape == kernel.shape
  np.testing.assert_array_equal(DEQUANTIZED(weight), dequantize(kernel))


def test_planes_as_the_docstring_shows_them():
  codes = jnp.arange(8, dtype=jnp.uint8)[:, None]
  zero = jnp.zeros((1, 1), jnp.uint8)
  four = QTensor(pack(codes, 4), jnp.ones((1, 1)), zero, Scheme(4), 8)
  (data,) = PREPACKED(four).planes
  assert data[0, :4].tolist() == [0x98, 0xBA, 0xDC, 0xFE]  # -8, -7, ... -1
  signed = jax.lax.bitcast_convert_type(data[0, :4], jnp.int4)
  assert signed.reshape(-1).astype(jnp.int32).tolist() == list(range(-8, 0))
  row = 256 * 1 + 128 * 1 + 16 * 3 + 5  # s, h, i, j = 1, 1, 3, 5
  codes = jnp.zeros((512, 1), jnp.uint8).at[row].set(5)
  three = QTensor(pack(codes, 3), jnp.ones((1, 1)), zero, Scheme(3, 'channel'), 512)
  low, high = PREPACKED(three).planes
  assert np.flatnonzero(low[0]) == [32 + 16 + 5] and low[0, 53] == 1 << 6
  assert np.flatnonzero(high[0]) == [16 + 5] and high[0, 21] == 1 << 11


@pytest.mark.parametrize('bits, group', [(4, 32), (4, 64), (4, 'channel'), (3, 32)])
def test_resident_bytes_are_those_of_codes_and_a_word_a_group(bits, group):
  weight = jax.eval_shape(int4_gpu.prepacked, made(1024, 256, bits=bits, group=group))
  found = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(weight))
  assert found == 1024 * 256 * bits // 8 + 4 * 256 * 1024 // (128 if group == 'channel' else group)


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 20_000), st.integers(1, 20_000))
def test_a_weight_is_filled_little_and_shared_out_evenly(count, rows, columns):
  deep, wide = int4_gpu.filled(rows, columns, 128)
  assert deep >= rows and wide >= columns and wide % int4_gpu.SIDE == 0
  assert deep - rows < 4 * 128 and (deep - rows < 128 or rows > 31 * 128)
  parts = int4_gpu.split(count, deep // 128, wide)
  assert deep // 128 % parts == 0 and (parts <= 2 or count <= int4_gpu.SPLIT)


@pytest.mark.parametrize('dtype, near', [('float32', 1e-6), ('float16', 2e-3)])
@pytest.mark.parametrize('bits, rows, columns, group', [(4, 300, 77, 32), (3, 1300, 131, 64)])
def test_derivatives_go_through_the_order_of_the_kernel(
  monkeypatch, bits, rows, columns, group, dtype, near
):
  monkeypatch.setattr(int4_gpu, 'matmul', int4.reference)  # the emulator's own is below
  kernel, random = made(rows, columns, bits=bits, group=group), np.random.default_rng(1)
  x = jnp.asarray(random.standard_normal((3, rows), np.float32), dtype)
  by, weight = random.integers(-3, 4, (3, columns)), PREPACKED(kernel)
  _, pull = jax.vjp(lambda x: int4.matmul(x, weight), x)
  (found,) = pull(jnp.asarray(by, dtype))
  wanted = by @ np.float64(dequantize(kernel)).T
  assert found.dtype == x.dtype and found.shape == x.shape
  np.testing.assert_allclose(np.float64(found), wanted, atol=near * abs(wanted).max())


def test_one_row_of_a_layer_of_llama_keeps_an_h100_busy():
  assert [int4_gpu.split(1, 32, n) for n in (4096, 11008, 32000)] == [8, 8, 4]
  assert int4_gpu.split(64, 32, 4096) == 2


def test_on_a_gpu_weights_are_made_for_it(monkeypatch, caplog):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  monkeypatch.setattr(int4_gpu, 'hopper', lambda: True)
  monkeypatch.setattr(int4_gpu, 'matmul', int4.reference)  # a small product is tried first
  int4._fit.cache_clear()
  weight = int4.prepacked(made(128, 8, bits=4, group=64))
  assert isinstance(weight, int4_gpu.GpuWeight) and int4.is_weight(weight)
  assert int4.form(1, weight) is int4.form(64, weight) is int4_gpu.matmul
  assert int4.form(65, weight) is int4.reference
  assert not caplog.messages


@pytest.mark.parametrize('hopper, group', [(False, 64), (True, 16), (True, 72)])
def test_what_has_no_kernel_is_told_once(monkeypatch, caplog, hopper, group):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  monkeypatch.setattr(int4_gpu, 'hopper', lambda: hopper)
  int4._fit.cache_clear()
  kernel = made(144, 8, bits=4, group=group)
  assert int4.prepacked(kernel) is kernel and int4.prepacked(kernel) is kernel
  (line,) = caplog.messages
  assert 'no kernel on gpu' in line and 'bits=4' in line


@pytest.mark.device
@pytest.mark.skipif(
  jax.default_backend() != 'gpu' or not int4_gpu.hopper(), reason='no Hopper GPU'
)
@pytest.mark.parametrize('bits', [3, 4])
def test_a_gpu_itself_gives_what_the_weights_give(bits):
  found = list(off_where_it_runs(bits))
  assert {kind for kind, _ in found} == {int4_gpu.GpuWeight}
  assert max(error for _, error in found) < 0.01


@EMULATOR
def test_the_kernel_gives_what_the_weights_give():
  rounding = dict(float32=1e-6, float16=2**-11, bfloat16=2**-8)
  unseen = dict(CASES[3], columns=256, unfenced=True)
  *right, wrong = child('emulate_gpu', [*CASES, unseen], 280)
  assert wrong['raced'], wrong  # or nobody would be told
  for found in right:
    assert found['error'] < rounding[found['dtype']], found
    assert found['gradient'] < 4 * rounding[found['dtype']], found  # weights are rounded too
    assert not found['raced'], found


@pytest.mark.slow
@pytest.mark.timeout(600)
@NVIDIA
def test_what_is_tuned_compiles_for_an_h100_that_is_not_here():
  wanted = [json.loads(line) for line in TABLE.read_text().splitlines()]
  for before, now in zip(wanted, child('compile_gpu', wanted, 580), strict=True):
    assert now['bytes'] == before['bytes'], now
    assert now['spilled'] == 0 < now['wgmma'], now
    # so that a multiprocessor, which has 65,536, holds five blocks of 128 threads, or two at least
    assert now['registers'] <= (96 if rows_of(now) <= 16 else 232), now


def rows_of(case):
  """Rows that the kernel multiplies, in pieces of x."""
  return case['count'] * dict(bfloat16=1, float16=2, float32=3)[case.get('x', 'bfloat16')]


def test_what_is_tuned_is_every_size_of_blocks_and_number_of_parts():
  cases = [json.loads(line) for line in TABLE.read_text().splitlines()]
  assert {case.get('x', 'bfloat16') for case in cases} == {'bfloat16', 'float16', 'float32'}
  blocks, parts = set(), set()
  for case in cases:
    bits, rows, count = case['bits'], case['rows'], rows_of(case)
    scheme = Scheme(bits, case['group'])
    step, most = int4_gpu.step_of(scheme, rows), int4_gpu.most_rows(bits, chunk(scheme, rows))
    deep, wide = int4_gpu.filled(rows, case['columns'], step)
    whole = 'many' if count > most else 'full' if count == most else 'few'
    blocks.add((bits, int4_gpu.is_viewed(scheme, rows), most, whole))
    parts.add((bits, int4_gpu.split(count, deep // step, wide)))
  kinds = [(4, True, 64), (4, False, 64), (3, False, 64), (3, False, 32)]
  assert blocks >= {(*kind, whole) for kind in kinds for whole in ('few', 'full', 'many')}
  assert parts >= {(bits, part) for bits in (3, 4) for part in (2, int4_gpu.PARTS)}


@pytest.mark.slow
@pytest.mark.timeout(300)
@NVIDIA
def test_a_token_s_step_compiles_for_an_h100_that_is_not_here():
  check_step('gpu')
