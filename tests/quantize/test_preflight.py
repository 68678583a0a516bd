"""What a job will take, from shapes: by hand, and beside what it took."""

import math
import time
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction import tree
from reduction.errors import UsageError
from reduction.models.language import family
from reduction.net import Net
from reduction.qtensor import Scheme
from reduction.quantize.method import Method
from reduction.quantize.preflight import preflight, stored
from reduction.quantize.rtn import quantize

LLAMA_70B = dict(
  model_type='llama', num_hidden_layers=80, hidden_size=8192, num_attention_heads=64,
  num_key_value_heads=8, intermediate_size=28672, vocab_size=32000, max_position_embeddings=4096,
  rms_norm_eps=1e-5,
)  # fmt: skip
GPT = dict(
  model_type='gpt2', n_layer=2, n_embd=32, n_head=4, vocab_size=50, n_positions=64,
  activation_function='gelu_new',
)  # fmt: skip
AWQ = Method(Scheme(4, 128), 'awq', clip=True)
RTN = Method(Scheme(4, 128))


def outlined(config):
  of = family(config)
  sizes = of.settings(config)
  shapes = {p: jax.ShapeDtypeStruct((1, *s), np.float32) for p, s in of.shapes(sizes).items()}
  return Net(of.make(**sizes), tree.nest(shapes))


def row(config=LLAMA_70B, method=AWQ, calibration=(128, 512), test=(40, 512), batch=4, held=0.25):
  return preflight(outlined(config), calibration, test, method=method, batch=batch, held=held)


def test_seventy_billion_by_hand_in_no_time_and_memory():
  row()  # compiles what moves numbers about
  tracemalloc.start()
  began = time.process_time()
  found = row()
  assert time.process_time() - began < 1
  assert tracemalloc.get_traced_memory()[1] < 32 * 2**20
  tracemalloc.stop()
  block = 2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 28672
  vectors, tables = (2 * 80 + 1) * 8192, 2 * 32000 * 8192
  params = 80 * block + vectors + tables
  assert found['params'] == params == 68_976_648_192
  assert found['fp16_bytes'] == 2 * params  # 138.0 GB; of 70 billion it were 140
  assert found['int4_bytes'] == params / 2  # 34.5 GB; 35
  assert found['int8_bytes'] == params and found['int3_bytes'] == params * 3 / 8
  # 128 weights have a float16 and a byte
  assert found['packed_bytes'] == 80 * block * (4 + 24 / 128) / 8 and found['bits'] == 4.188
  assert found['int3_group_bytes'] == (80 * block + tables) * (3 + 24 / 128) / 8 + 2 * vectors
  assert found['folder_bytes'] == found['packed_bytes'] + 2 * (vectors + tables)
  assert [f'{found[f"{name}_bytes"] / 1e9:.1f}' for name in ('fp16', 'int4', 'folder')] == [
    '138.0', '34.5', '36.9',
  ]  # fmt: skip
  assert found['packed_linears'] == 560 and found['unscaled'] == ''
  assert found['unpacked'] == 'embed: outside the blocks; out: outside the blocks'


def test_memory_by_hand():
  found = row()
  weights = 2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 28672 + 16384
  assert found['blocks_memory'] == 2 * 4 * weights
  gram = 4 * (3 * 8192**2 + 28672**2)
  assert gram * 3 <= found['statistics_memory'] < gram * 3 * 1.001
  assert found['states_memory'] == 2 * 4 * 128 * 512 * 8192
  assert found['embedding_memory'] == 4 * 32000 * 8192
  kinds = 'embedding', 'blocks', 'statistics', 'states', 'outs', 'judging', 'working'
  assert found['outs_memory'] == 2 * (2**25 + found['packed_bytes'] // 80)
  quantizing = sum(found[f'{kind}_memory'] for kind in kinds)
  assert found['memory_bytes'] == max(quantizing, found['measuring_memory'])
  assert found['measuring_memory'] > found['packed_bytes']
  plain = row(method=RTN)
  assert plain['statistics_memory'] == 0 and plain['searching_flops'] == 0


def test_work_by_hand():
  """Of a small net, for which products are counted one by one."""
  config = dict(LLAMA_70B, num_hidden_layers=2, hidden_size=32, num_attention_heads=4,
                num_key_value_heads=2, intermediate_size=48, vocab_size=50)  # fmt: skip
  method = Method(Scheme(4, 16), 'awq', clip=True, rounding='gptq')
  found = row(config, method, (6, 16), (3, 8))
  kernels = {(32, 32): 2, (32, 16): 2, (32, 48): 2, (48, 32): 1}  # shape -> how many
  weights = sum(count * math.prod(shape) for shape, count in kernels.items())
  forward = lambda n, length: n * (length * weights + 2 * length * length * 32)
  gram = 6 * 16 * (3 * 32**2 + 48**2)
  assert found['calibrating_flops'] == 2 * 2 * (forward(6, 16) + gram)
  error = lambda shape: (shape[0] ** 2 + shape[0]) * shape[1]
  outputs = sum(count * error(shape) for shape, count in kernels.items())
  clipped = weights - 32 * 32 - 32 * 16  # all but queries and keys
  assert found['searching_flops'] == 2 * 2 * (22 * outputs + 10 * 17 * clipped)
  gptq = sum(
    count * (rows**2 * columns + 4 * rows**3 // 3) for (rows, columns), count in kernels.items()
  )
  assert found['rounding_flops'] == 2 * 2 * (2 * outputs + gptq)
  assert found['measuring_flops'] == 2 * 2 * (2 * forward(3, 8) + 3 * 7 * 32 * 50)
  assert found['searching_weights'] == 2 * (22 * weights + 10 * clipped)


def test_what_scales_are_judged_on_by_hand():
  """Queries, keys and values where attention ends, gate and up where the MLP ends."""
  config = dict(LLAMA_70B, num_hidden_layers=2, hidden_size=32, num_attention_heads=4,
                num_key_value_heads=2, intermediate_size=48, vocab_size=50)  # fmt: skip
  method = Method(Scheme(4, 16), 'awq')
  plain = row(config, method, (8, 16), (3, 8), batch=2)
  found = row(config, method._replace(tokens=40), (8, 16), (3, 8), batch=2)
  tokens = 2 * 16  # two passages have at most 40
  attention = tokens * (2 * 32 * 32 + 2 * 32 * 16) + 2 * tokens * 16 * 32
  error = lambda rows, columns: (rows**2 + rows) * columns
  instead = error(32, 32) + 2 * error(32, 16) + 2 * error(32, 48)
  change = 2 * 2 * 22 * (attention + tokens * 3 * 32 * 48 - instead)
  assert found['searching_flops'] - plain['searching_flops'] == change
  # on the tokens of both parts: what linears read, the rotations, and what came of them
  assert found['judging_memory'] >= 2 * 4 * (2 * tokens * 32 + 2 * tokens * 32)
  assert found['judging_memory'] <= 1.2 * 2 * 4 * (2 * tokens * 32 + 2 * tokens * 32)
  assert plain['judging_memory'] == 0 and found['working_memory'] >= 4 * tokens * 16 * 4


@pytest.mark.parametrize('rows, columns', [(64, 24), (43, 7), (1, 3)])
@pytest.mark.parametrize('axis', [-2, -1])
def test_stored_bytes_are_those_of_a_packed_weight(rows, columns, axis):
  shape = (rows, columns) if axis == -2 else (columns, rows)
  for bits in 2, 3, 4, 8:
    for group in 16, 'channel', 'tensor':
      for symmetric in False, True:
        scheme = Scheme(bits, group, symmetric, axis)
        w = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
        packed = jax.eval_shape(lambda w, by=scheme: quantize(w, by, dtype=jnp.float16), w)
        assert stored(w.shape, scheme) == packed.nbytes, scheme


def test_what_is_left_as_it_is_has_a_reason():
  found = row(GPT, Method(Scheme(4, 16), 'awq', skip=('inner$',)), (4, 16), (4, 16))
  assert found['unpacked'].split('; ') == [
    'embed: outside the blocks', 'positions: outside the blocks', 'mlp/inner: matches skip',
  ]  # fmt: skip
  # no scale passes GELU
  linears, _, why = found['unscaled'].partition(': ')
  assert (linears, why) == ('mlp/outer', 'also read by integer_pow')
  assert row(GPT, Method(Scheme(4, 16)), (4, 16), (4, 16))['unscaled'] == ''


def test_passages_longer_than_the_model_reads_are_refused():
  with pytest.raises(UsageError, match='65 tokens, but the model has 64 places'):
    row(GPT, RTN, (4, 16), (4, 65))
