"""Attention to a memory against the whole softmax; accelerators' kernels in their interpreters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction.errors import UsageError
from reduction.kernels import attention, attention_gpu, attention_tpu
from reduction.kernels.attention import BLOCK
from tests.kernels.children import EMULATOR, LIBTPU, NVIDIA, child


def made(heads, kv_heads, size, stored, places=4 * BLOCK, n=2):
  """(query of one token, key, value, scales), and the memory in floats twice."""
  random = np.random.default_rng(0)
  query = jnp.asarray(random.standard_normal((n, 1, heads, size), np.float32), jnp.bfloat16)
  shape = 2, n, places, kv_heads, size
  if stored != 'int8':
    memory = jnp.asarray(random.standard_normal(shape, np.float32), stored)
    return (query, *memory.reshape(2, n, places, -1), None), np.float64(memory)
  memory = random.integers(-127, 128, shape).astype(np.int8)
  scales = random.uniform(0.01, 0.03, (2, n, kv_heads, places)).astype(np.float32)
  floats = memory * np.float64(scales).transpose(0, 1, 3, 2)[..., None]
  key, value = jnp.asarray(memory.reshape(2, n, places, -1))
  return (query, key, value, jnp.asarray(scales)), floats


def wanted(query, floats, place):
  """What the token at `place` reads, in float64, [n, heads * size]."""
  key, value = floats[:, :, : place + 1]
  n, _, _, size = query.shape
  query = np.float64(query).reshape(n, key.shape[2], -1, size)
  scores = np.einsum('ngrd,nkgd->ngrk', query, key) * size**-0.5
  weights = np.exp(scores - scores.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  return np.einsum('ngrk,nkgd->ngrd', weights, value).reshape(n, -1)


def error(read, query, key, value, scales, floats, place):
  """The largest difference over the largest number."""
  found, right = read(query, key, value, scales, place), wanted(query, floats, place)
  assert found.dtype == jnp.float32
  return abs(np.float64(found).reshape(right.shape) - right).max() / abs(right).max()


SHAPES = [(4, 2, 64), (9, 3, 128), (8, 8, 32)]  # heads, kv_heads, size
INTERPRETED = jax.jit(functools.partial(attention_tpu.read, interpret=True))


@pytest.mark.parametrize('stored', ['float32', 'bfloat16', 'int8'])
@pytest.mark.parametrize('heads, kv_heads, size', SHAPES)
@pytest.mark.parametrize('place', [0, BLOCK - 1, BLOCK, 3 * BLOCK + 5])
def test_a_token_reads_what_is_filled(heads, kv_heads, size, stored, place):
  (query, *memory), floats = made(heads, kv_heads, size, stored)
  assert error(jax.jit(attention.reference), query, *memory, floats, place) < 1e-5


@pytest.mark.parametrize('stored, most', [('float32', 1e-5), ('bfloat16', 0.01), ('int8', 0.01)])
@pytest.mark.parametrize('heads, kv_heads, size', SHAPES)
@pytest.mark.parametrize('place', [0, BLOCK - 1, BLOCK, 3 * BLOCK + 5])
def test_a_tpus_kernel_gives_what_the_softmax_gives(
  monkeypatch, heads, kv_heads, size, stored, most, place
):
  monkeypatch.setattr(attention_tpu, 'PLACES', (BLOCK,))
  (query, *memory), floats = made(heads, kv_heads, size, stored)
  one = lambda query, *rest: INTERPRETED(query[:, 0], *rest)
  assert error(one, query, *memory, floats, place) < most


def test_several_blocks_of_the_largest_size():
  (query, *memory), floats = made(4, 2, 64, 'int8', places=1024, n=1)
  for place in 511, 512, 1023:
    one = lambda query, *rest: INTERPRETED(query[:, 0], *rest)
    assert error(one, query, *memory, floats, place) < 0.01


def test_places_that_are_no_whole_blocks_are_refused():
  key = jnp.zeros((1, 200, 64))
  with pytest.raises(UsageError, match='a memory of 200 places: it needs a multiple of 128'):
    attention.read(jnp.zeros((1, 1, 1, 64)), key, key, None, 150)


def test_no_token_is_lost_in_a_large_sum():
  query = jnp.full((1, 1, 1, 4), 30.0)  # scores of 1,800: their powers overflow without the maximum
  key = jnp.full((1, BLOCK, 4), 30.0)
  value = jnp.arange(BLOCK, dtype=jnp.float32).reshape(1, -1, 1) * jnp.ones(4)
  found = attention.reference(query, key, value, None, BLOCK - 1)
  np.testing.assert_allclose(found, (BLOCK - 1) / 2, rtol=1e-6)


def test_blocks_have_a_size_that_divides_the_places_and_fits():
  assert attention_tpu.at_once(2048, 1024 * 2) == 512
  assert attention_tpu.at_once(1280, 1024 * 2) == 256 and attention_tpu.at_once(384, 2048) == 128
  assert attention_tpu.at_once(2048, 4096 * 2) == 128  # a MiB


def test_places_are_shared_out_until_an_h100_is_busy():
  assert [attention_gpu.split(heads, 4096) for heads in (1, 8, 32, 999)] == [32, 32, 9, 1]
  assert attention_gpu.split(8, 256) == 4


@pytest.fixture
def fresh():
  """No kernel was tried before, none is known after."""
  attention._own.cache_clear()
  yield
  attention._own.cache_clear()


def test_one_token_is_read_by_the_kernel_of_the_platform(monkeypatch, caplog, fresh):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  (query, *memory), floats = made(4, 2, 64, 'bfloat16', n=1)
  monkeypatch.setattr(attention_tpu, 'read', INTERPRETED)
  one = jax.jit(attention.read)
  assert error(one, query, *memory, floats, 2 * BLOCK) < 0.01
  program = lambda query: str(jax.make_jaxpr(attention.read)(query, *memory, 0))
  assert 'remembered' in program(query)  # the name of the kernel
  assert 'remembered' not in program(jnp.concatenate([query, query], 1))
  assert not caplog.messages


@pytest.mark.parametrize('broken, told', [(True, 'not give what'), (False, 'not compile')])
def test_a_kernel_that_fails_where_it_runs_is_not_trusted(monkeypatch, caplog, fresh, broken, told):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  if broken:  # scales of keys for those of values; otherwise there is no TPU to compile for
    swapped = lambda query, key, value, scales, place: attention.reference(
      query[:, None], key, value, scales[::-1], place
    )[:, 0]
    monkeypatch.setattr(attention_tpu, 'read', swapped)
  (query, *memory), floats = made(4, 2, 64, 'int8', n=1)
  for _ in range(2):
    assert error(attention.read, query, *memory, floats, 5) < 1e-5
  (line,) = caplog.messages
  assert told in line and 'heads of 64 units in int8' in line


def test_a_tpu_takes_whole_tiles():
  takes = functools.partial(attention_tpu.takes, 9, 64)
  assert takes(3 * 128, 'int8') and not takes(3 * 64, 'int8') and not takes(128, 'float16')


@pytest.mark.parametrize(
  'size, stored, heads', [(80, 'int8', 4), (64, 'float32', 4), (64, 'int8', 256)]
)
def test_a_gpu_says_once_what_it_has_no_kernel_for(monkeypatch, caplog, fresh, size, stored, heads):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  monkeypatch.setattr(attention_gpu, 'hopper', lambda: True)
  memory = [jnp.zeros((1, BLOCK, 2 * size), stored)] * 2
  for _ in range(2):
    attention.read(jnp.zeros((1, 1, heads, size)), *memory, None, 0)
  (line,) = caplog.messages
  assert 'there is none' in line


CASES = [
  dict(heads=4, kv_heads=2, size=64, stored='bfloat16', n=2, place=0, parts=2),  # one has none
  dict(heads=4, kv_heads=2, size=64, stored='int8', n=1, place=200, parts=1),  # four steps
  dict(heads=4, kv_heads=2, size=64, stored='int8', n=2, place=200, parts=3),
  dict(heads=9, kv_heads=3, size=128, stored='bfloat16', n=1, place=300, parts=2),
  dict(heads=20, kv_heads=1, size=128, stored='float16', n=1, place=511, parts=8),
]


@EMULATOR
def test_a_gpus_kernel_gives_what_the_softmax_gives():
  unseen = dict(CASES[1], unfenced=True)
  *right, wrong = child('emulate_attention', [*CASES, unseen], 280)
  assert wrong['raced'], wrong  # or nobody would be told
  for found in right:
    assert found['error'] < (1e-3 if found['stored'] == 'float16' else 0.01), found
    assert not found['raced'], found


SIZES = dict(
  llama=dict(heads=32, kv_heads=8, size=128, places=8192),
  mha=dict(heads=32, kv_heads=32, size=128, places=4096),
  qwen=dict(heads=14, kv_heads=2, size=64, places=2048),
)
STORED = 'bfloat16', 'int8'


def check(devices, third):
  """Each size compiles for them into one kernel beside which nothing large is copied.

  third: another type of the memory that there are kernels for.
  """
  cases = [
    dict(device=d, stored=s, **size)
    for d in devices for s in (*STORED, third) for size in SIZES.values()
  ]  # fmt: skip
  for found in child('compile_attention', cases, 280):
    assert found['kernels'] == 1 and not found['loops'] and found['copied'] < 10_000, found
    assert found['device'] != 'h100' or found['spilled'] == 0 < found['wgmma'], found


@pytest.mark.slow
@pytest.mark.timeout(300)
@LIBTPU
def test_it_compiles_for_tpus_that_are_not_here():
  check(('v5e', 'v5p', 'v6e'), 'float32')


@pytest.mark.slow
@pytest.mark.timeout(300)
@NVIDIA
def test_it_compiles_for_an_h100_that_is_not_here():
  check(('h100',), 'float16')


@pytest.mark.device
@pytest.mark.skipif(jax.default_backend() == 'cpu', reason='no accelerator')
@pytest.mark.parametrize('stored', STORED)
def test_the_accelerator_itself_gives_what_the_softmax_gives(stored):
  for size in (dict(heads=32, kv_heads=8, size=128), dict(heads=14, kv_heads=2, size=64)):
    (query, *memory), floats = made(*size.values(), stored, places=2048)
    here = jax.default_backend(), query.shape[2:], memory[0].shape[-1], stored, 1024
    assert attention._own(*here)
    for place in 0, 63, 64, 1000, 2047:
      assert error(jax.jit(attention.read), query, *memory, floats, place) < 0.01
