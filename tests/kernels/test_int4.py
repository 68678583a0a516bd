"""Products with packed weights in every form against the weights as floats."""

import functools
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from reduction.errors import UsageError
from reduction.kernels import int4, int4_cpu, native
from reduction.qtensor import Scheme, dequantize
from reduction.quantize.rtn import quantize

REFERENCE = jax.jit(int4.reference)


@functools.cache
def made(rows, columns, **scheme):
  """(x [3, rows], a packed kernel [rows, columns])."""
  random = np.random.default_rng(0)
  w = random.standard_normal((rows, columns), np.float32) + 0.3
  x = jnp.asarray(random.standard_normal((3, rows), np.float32))
  return x, quantize(jnp.asarray(w), scheme=Scheme(**scheme), dtype=jnp.float16)


@pytest.mark.parametrize('bits', [2, 3, 4, 8])
@pytest.mark.parametrize(
  'rows, group, symmetric', [(256, 64, True), (172, 64, False), (96, 8, False), (129, 32, True)]
)
def test_groups_give_what_the_weights_give(bits, rows, group, symmetric):
  x, kernel = made(rows, 33, bits=bits, group=group, symmetric=symmetric)
  wanted = np.float64(x) @ np.float64(dequantize(kernel))
  found = jax.jit(int4.grouped)(x, kernel)
  np.testing.assert_allclose(found, wanted, atol=2e-5 * abs(wanted).max())


@pytest.mark.parametrize('group', ['channel', 'tensor', 12, 64])
@pytest.mark.parametrize('shape', [(64 + 24,), (1, 88), (2, 3, 88), (40, 88)])
def test_any_shape_and_scheme_has_a_product(group, shape):
  _, kernel = made(88, 5, bits=4, group=group)
  x = jnp.asarray(np.random.default_rng(1).standard_normal(shape, np.float32))
  found = jax.jit(int4.matmul)(x, kernel)
  np.testing.assert_allclose(found, REFERENCE(x, kernel), rtol=1e-4, atol=1e-4)
  assert found.dtype == x.dtype


def test_half_floats_stay_such():
  x, kernel = made(128, 16, bits=4, group=32)
  half = x.astype(jnp.bfloat16)
  found = int4.matmul(half, kernel)
  assert found.dtype == jnp.bfloat16
  wanted = half.astype(jnp.float32) @ dequantize(kernel)
  np.testing.assert_allclose(found.astype(jnp.float32), wanted, rtol=0.01, atol=0.05)


def test_derivatives_go_through_a_frozen_weight():
  x, kernel = made(64, 16, bits=4, group=16)
  loss = lambda x, product: (product(x, kernel) ** 2).sum()
  slope = jax.jit(jax.grad(loss), static_argnums=1)
  found = slope(x, int4.matmul)
  np.testing.assert_allclose(found, slope(x, int4.reference), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize('bits', [3, 4])
@pytest.mark.parametrize('own', [False, True])
def test_an_adapter_trains_through_a_frozen_packed_weight(bits, own):
  if own and not native.ready():
    pytest.skip('no C++ compiler')
  x, kernel = made(64, 16, bits=bits, group=64)
  kernel = int4.prepacked(kernel) if own else kernel
  few = jax.random.normal(jax.random.key(3), (64, 4)) / 8
  wanted = int4.matmul(x + x @ few @ few.T, kernel)
  before = jax.tree.map(np.array, kernel)
  adapter = dict(down=few, up=jnp.zeros((4, 64)))  # LoRA of the input
  optimizer = optax.adam(0.02)

  def loss(adapter):
    return jnp.mean((int4.matmul(x + x @ adapter['down'] @ adapter['up'], kernel) - wanted) ** 2)

  @jax.jit
  def step(adapter, state):
    slope = jax.grad(loss)(adapter)
    change, state = optimizer.update(slope, state)
    return optax.apply_updates(adapter, change), state

  state, first = optimizer.init(adapter), loss(adapter)
  for _ in range(100):
    adapter, state = step(adapter, state)
  assert loss(adapter) < first / 10
  jax.tree.map(np.testing.assert_array_equal, before, kernel)


def test_few_rows_never_meet_the_whole_weight_in_floats():
  x, kernel = made(2048, 512, bits=4, group=128)
  used = lambda f: jax.jit(f).lower(x, kernel).compile().memory_analysis().temp_size_in_bytes
  whole = 2048 * 512 * 4
  assert used(int4.matmul) < whole / 8 < whole <= used(int4.reference)


NATIVE = pytest.mark.skipif(not native.ready(), reason='no C++ compiler')


@pytest.mark.parametrize('bits', [3, 4, 8])
@pytest.mark.parametrize(
  'rows, group, symmetric',
  [(256, 64, True), (300, 128, False), (384, 192, True), (256, 'channel', False), (256, 32, True),
   (90, 32, False), (300, 'channel', True), (96, 128, False)],
)  # fmt: skip
def test_the_order_of_the_native_kernel_holds_the_same_weight(bits, rows, group, symmetric):
  _, kernel = made(rows, 33, bits=bits, group=group, symmetric=symmetric)
  weight = jax.jit(int4_cpu.prepacked)(kernel)
  np.testing.assert_array_equal(jax.jit(int4_cpu.dequantized)(weight), dequantize(kernel))
  groups = -(-rows // weight.size)
  assert weight.shape == (rows, 33)
  filled = -(-groups * weight.size // 64) * 64
  assert weight.data.nbytes == 40 * filled * bits // 8  # whole tiles, of whole units
  words = np.array([[5], [32]])
  found = jax.jit(int4_cpu.looked_up)(weight, words)
  np.testing.assert_array_equal(found, dequantize(kernel).T[words])


@NATIVE
@pytest.mark.parametrize('bits', [3, 4])
@pytest.mark.parametrize('rows, group', [
  (256, 64), (300, 128), (384, 192), (8_960, 'channel'), (256, 32), (90, 32), (300, 'channel'),
  (96, 128),
])  # fmt: skip
@pytest.mark.parametrize('count', [1, 7, 19])
def test_the_native_kernel_gives_what_the_weights_give(bits, rows, group, count):
  _, kernel = made(rows, 77, bits=bits, group=group)
  x = jnp.asarray(np.random.default_rng(2).standard_normal((count, rows), np.float32))
  weight = int4.prepacked(kernel)
  w, size = np.float64(dequantize(kernel)), weight.size
  for eight, near in (False, 5e-5), (True, 0.02):
    found = jax.jit(int4.matmul)(x, weight.replace(eight=eight))
    wanted = in_integers(np.asarray(x), size, 127 if eight else 127 * 257) @ w
    np.testing.assert_allclose(found, wanted, atol=2e-6 * abs(wanted).max())  # exact but for sums
    wanted = np.float64(x) @ w
    np.testing.assert_allclose(found, wanted, atol=near * abs(wanted).max())


def in_integers(x, size, most):
  """x [count, rows] with each group of so many rows rounded to integers up to most."""
  filled = np.pad(x, ((0, 0), (0, -x.shape[1] % size))).reshape(len(x), -1, size)
  step = abs(filled).max(-1, keepdims=True) / np.float32(most)
  codes = np.rint(filled * np.float64(1 / step))
  return (codes * step).reshape(len(x), -1)[:, : x.shape[1]]


@NATIVE
def test_the_native_kernel_and_its_gradient_are_of_each_example_under_vmap():
  _, kernel = made(256, 77, bits=4, group=64)
  weight = int4.prepacked(kernel)
  x = jnp.asarray(np.random.default_rng(2).standard_normal((3, 2, 256)), jnp.float32)
  loss = lambda x: (int4.matmul(x, weight) ** 2).sum()
  for f in (lambda x: int4.matmul(x, weight)), jax.grad(loss):
    np.testing.assert_array_equal(jax.vmap(f)(x), np.stack([f(one) for one in x]))


@NATIVE
@pytest.mark.parametrize('kind', [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize('bits', [3, 4])
def test_half_floats_go_through_the_native_kernel(bits, kind):
  _, kernel = made(256, 77, bits=bits, group=64)
  x = jnp.asarray(np.random.default_rng(2).standard_normal((3, 256)), kind)
  weight = int4.prepacked(kernel)
  assert isinstance(weight, int4_cpu.CpuWeight)
  found = jax.jit(int4.matmul)(x, weight)
  wanted = np.float64(x) @ np.float64(dequantize(kernel))
  assert found.dtype == kind
  step = float(jnp.finfo(kind).eps)  # of what comes out; sums are of float32
  np.testing.assert_allclose(np.float64(found), wanted, atol=step * abs(wanted).max())


@NATIVE
def test_zeros_and_numbers_of_any_size_are_rounded():
  _, kernel = made(128, 8, bits=4, group=64)
  weight = int4.prepacked(kernel)
  x = np.zeros((3, 128), np.float32)
  x[1, :64], x[2, 3] = 1e30, 1e-30
  wanted = np.float64(x) @ np.float64(dequantize(kernel))
  for eight in False, True:
    found = int4.matmul(jnp.asarray(x), weight.replace(eight=eight))
    for one, other in zip(found, wanted):
      np.testing.assert_allclose(one, other, atol=1e-3 * abs(other).max())


@NATIVE
def test_threads_change_no_bit(monkeypatch):
  _, kernel = made(640, 999, bits=4, group=64)
  x, weight = jnp.ones((2, 640)), int4.prepacked(kernel)
  every = int4_cpu.matmul(x, weight)
  monkeypatch.setenv(native.THREADS, '1')
  np.testing.assert_array_equal(int4_cpu.matmul(x, weight), every)
  told = lambda: str(jax.make_jaxpr(lambda x: int4_cpu.matmul(x, weight))(x))
  assert "('threads', 1)" in told()
  monkeypatch.setenv(native.THREADS, '2')
  assert "('threads', 2)" in told()
  monkeypatch.setenv(native.THREADS, 'two')
  with pytest.raises(UsageError, match="REDUCTION_THREADS='two' must be a number"):
    int4_cpu.matmul(x, weight)


def test_the_native_kernels_can_be_switched_off(monkeypatch):
  monkeypatch.setenv(native.SWITCH, '0')
  monkeypatch.setattr(native, '_built', lambda name: pytest.fail('it is built all the same'))
  native.ready.cache_clear()
  try:
    assert not native.ready()
    _, kernel = made(128, 8, bits=4, group=64)
    assert int4.prepacked(kernel) is kernel
  finally:
    native.ready.cache_clear()


def test_the_native_kernels_can_be_kept_to_older_instructions(monkeypatch):
  monkeypatch.setattr(native, '_processor', lambda: ' '.join((*native.SETS, 'fma f16c avx512vl')))
  known = native.SETS.values()
  for granted in True, False:
    monkeypatch.setattr(native, '_granted', lambda granted=granted: granted)
    assert native.instructions() == ', '.join(n for n in known if granted or n != 'AMX')
  for told, last in ('AVX2', 'AVX2'), ('AVX-512', 'AVX2, AVX-512'):
    monkeypatch.setenv(native.SWITCH, told)
    assert native.instructions() == last
  monkeypatch.setenv(native.SWITCH, 'avx2')
  with pytest.raises(UsageError, match="REDUCTION_NATIVE='avx2' must be 0, 1, AVX2, AVX-512 or"):
    native.ready.__wrapped__()
  monkeypatch.setattr(native, '_processor', lambda: 'avx2 fma f16c')
  monkeypatch.setenv(native.SWITCH, 'AVX-512')
  with pytest.raises(UsageError, match='that this processor has not'):
    native.ready.__wrapped__()


@NATIVE
def test_scales_are_kept_as_they_were_stored():
  _, kernel = made(128, 8, bits=4, group=64)
  assert int4.prepacked(kernel).scale.dtype == jnp.float16
  wide = kernel.replace(scale=kernel.scale.astype(jnp.float32) * (1 + 1e-5))
  x = jnp.ones((1, 128))
  found = int4.matmul(x, int4.prepacked(wide))
  np.testing.assert_allclose(found, x @ dequantize(wide), rtol=1e-5, atol=1e-5)


@NATIVE
def test_what_has_no_native_kernel_stays_as_it_is():
  others = dict(bits=2, group=64), dict(bits=4, group=16), dict(bits=4, group='tensor')
  for scheme in others:
    _, kernel = made(128, 8, **scheme)
    assert int4.prepacked(kernel) is kernel
  weight = int4.prepacked(made(128, 8, bits=4, group=64)[1])
  for eight in False, True:
    own = weight.replace(eight=eight)
    assert int4.form(own.most, own) is int4_cpu.matmul
    assert int4.form(own.most + 1, own) is int4.reference


@NATIVE
def test_derivatives_go_through_the_order_of_the_native_kernel():
  x, kernel = made(128, 16, bits=3, group=64)
  loss = lambda x, kernel: (int4.matmul(x, kernel) ** 2).sum()
  slope = jax.jit(jax.grad(loss))
  found, wanted = slope(x, int4.prepacked(kernel)), slope(x, kernel)
  np.testing.assert_allclose(found, wanted, atol=2e-4 * abs(wanted).max())


def test_without_a_compiler_one_line_says_so(monkeypatch, tmp_path, caplog):
  monkeypatch.setenv('CXX', 'no-such-compiler')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  assert not native.ready.__wrapped__()
  (line,) = caplog.messages
  assert 'without their native kernel' in line and 'no C++ compiler' in line


def test_a_compiler_that_fails_leaves_nothing_and_one_line(monkeypatch, tmp_path, caplog):
  broken = tmp_path / 'g++'
  broken.write_text('#!/bin/sh\necho it broke >&2\nexit 1\n')
  broken.chmod(0o755)
  monkeypatch.setenv('CXX', str(broken))
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  assert not native.ready.__wrapped__()
  assert 'it broke' in caplog.messages[0]
  assert list((tmp_path / 'cache').rglob('*.so')) == []


@pytest.mark.slow
def test_two_processes_that_build_at_once_leave_one_whole_library(tmp_path):
  slow = tmp_path / 'g++'  # writes one half, and after a while the other
  slow.write_text('#!/bin/sh\nfor out; do :; done\nprintf half > "$out"\nsleep 1\n'
                  'printf " and half" >> "$out"\n')  # fmt: skip
  slow.chmod(0o755)
  script = 'from reduction.kernels import native; print(native._built().read_text())'
  env = os.environ | {'CXX': str(slow), 'XDG_CACHE_HOME': str(tmp_path / 'cache')}
  start = lambda: subprocess.Popen([sys.executable, '-c', script], env=env, text=True,
                                   stdout=subprocess.PIPE)  # fmt: skip
  both = [start(), start()]
  assert [one.communicate(timeout=120)[0] for one in both] == ['half and half\n'] * 2
  (folder,) = (tmp_path / 'cache').rglob('kernels')
  assert [path.read_text() for path in folder.iterdir()] == ['half and half']


def test_a_library_is_built_once(monkeypatch, tmp_path):
  made = lambda command, **how: pathlib.Path(command[-1]).write_text('a library')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  monkeypatch.setattr(native.shutil, 'which', lambda name: '/usr/bin/g++')
  monkeypatch.setattr(native.subprocess, 'run', made)
  first = native._built()
  monkeypatch.setattr(native.subprocess, 'run', lambda *a, **k: pytest.fail('built again'))
  assert native._built() == first and list(first.parent.iterdir()) == [first]
  monkeypatch.setattr(native, '_processor', lambda: 'another')
  monkeypatch.setattr(native.subprocess, 'run', made)
  assert native._built() != first


@NATIVE
@pytest.mark.parametrize('eight', [False, True])
@pytest.mark.parametrize('place', [0, 63, 130])
@pytest.mark.parametrize('wrong', [np.nan, np.inf])
def test_what_is_not_finite_does_not_become_a_number(eight, place, wrong):
  x, kernel = made(160, 24, bits=4, group=64)
  weight = int4.prepacked(kernel).replace(eight=eight)
  found = int4.matmul(x.at[1, place].set(wrong), weight)
  assert not np.isfinite(found[1]).any()
  np.testing.assert_array_equal(np.delete(found, 1, 0), np.delete(int4.matmul(x, weight), 1, 0))


@NATIVE
@pytest.mark.parametrize('size', [0, 8, 4096, 3 * 4096 + 8])
def test_reading_sums_whole_blocks(size):
  data = np.random.default_rng(0).integers(0, 256, size, np.uint8)
  words = data[: size // 4096 * 4096].view(np.uint64)
  assert int(native.read(jnp.asarray(data))[0]) == int(words.sum(dtype=np.uint64) % 2**32)


@NATIVE
def test_a_damaged_library_is_built_again(tmp_path, monkeypatch):
  whole, built = native._built('packed').read_bytes(), []

  def build(name):
    path = tmp_path / f'{name}.so'
    if not path.exists():
      built.append(name)
      path.write_bytes(whole if len(built) > 1 else b'damaged')
    return path

  monkeypatch.setattr(native, '_built', build)
  assert native._loaded('packed') and built == ['packed', 'packed']
