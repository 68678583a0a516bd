"""A token through all blocks at once gives what the blocks give one after another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction import tree
from reduction.chat.runtime import Runtime, resident
from reduction.chat.sampling import Sampling
from reduction.kernels import native
from reduction.kernels.int4 import is_weight
from reduction.models import memory, stacked
from reduction.models.gpt import gpt
from reduction.models.llama import llama
from reduction.models.served import Served
from reduction.net import Net
from reduction.qtensor import Scheme
from reduction.quantize.rtn import quantize

pytestmark = pytest.mark.skipif(not native.ready(), reason='no C++ compiler')
SIZES = dict(layers=2, width=64, heads=4, inner=192, vocabulary=128, positions=256)
PROMPT = np.random.default_rng(0).integers(0, 128, 11).tolist()


def net(bits=4, make=llama, but=(), **change):
  """A packed net of random weights. but: kernels that are left as they are."""
  module = make(**SIZES | change)
  params = module.init(jax.random.key(1), np.zeros((1, 4), np.int32))['params']
  params = {path: 3 * w[None] for path, w in tree.named(params)}
  for path in params:
    if path.endswith(('bias', 'query_norm/scale', 'key_norm/scale')):
      params[path] += np.random.default_rng(2).normal(size=params[path].shape).astype(np.float32)
    if path.startswith('layer') and path.endswith('kernel') and path not in but:
      params[path] = quantize(params[path], Scheme(bits, 64), dtype=jnp.float16)
  return Net(Served(module), tree.nest(params))


def logits(runtime, tokens=PROMPT):
  """After each of some tokens, given one by one: [tokens, vocabulary]."""
  return np.concatenate([runtime._read([token], i) for i, token in enumerate(tokens)])


@pytest.mark.parametrize(
  'change',
  [
    dict(bits=3, size=32, theta=500_000.0, scaling=(8.0, 1.0, 4.0, 64)),
    dict(bits=8, kv_heads=1, epsilon=1e-5),
    dict(bits=4, kv_heads=2, bias=True),  # Qwen2
    dict(bits=4, kv_heads=2, size=32, head_norm=True),  # Qwen3
  ],
)
def test_logits_are_those_of_the_blocks_one_by_one(change):
  of = net(**change)
  at_once, apart = Runtime(of), Runtime(of, at_once=False)
  assert stacked.BLOCKS in at_once.params and stacked.BLOCKS not in apart.params
  found, exact = logits(at_once), logits(apart)
  # beside sums in another order, inputs may be rounded to the other of two integers of 16 bits
  np.testing.assert_allclose(found, exact, atol=2e-4 * abs(exact).max())


def test_prompts_and_answers_are_those_of_the_blocks_one_by_one():
  of = net(kv_heads=2, tied=True)
  at_once, apart = Runtime(of), Runtime(of, at_once=False)
  assert stacked.BLOCKS in at_once.params and 'layer1' in apart.params
  write = lambda runtime: list(runtime.continued(PROMPT, Sampling(), jax.random.key(0), most=8))
  tokens = write(at_once)
  assert tokens == write(apart) and len(set(tokens)) > 3
  assert at_once.bytes_per_token() == apart.bytes_per_token()


@pytest.mark.parametrize('stored, most', [('bfloat16', 0.01), ('int8', 0.02)])  # of the largest
def test_a_memory_of_fewer_bits_is_as_near_as_the_blocks_own(stored, most):
  of = net(kv_heads=2)
  exact, found = logits(Runtime(of)), logits(Runtime(of, stored=stored))
  own, size = logits(Runtime(of, stored=stored, at_once=False)), abs(exact).max()
  assert 0 < abs(found - exact).max() < most * size
  assert abs(found - own).max() < most / 4 * size


@pytest.mark.parametrize('stored', ['float32', 'bfloat16', 'int8'])
def test_tokens_read_what_a_prompt_wrote_block_by_block(stored):
  """XLA writes the memory of a prompt, C++ reads it and goes on."""
  prompt, of = [token % 7 for token in range(24)], net(kv_heads=2)
  ends = []
  for at_once in True, False:
    runtime = Runtime(of, stored=stored, at_once=at_once)
    first = runtime._read(prompt, 0)
    later = [runtime._read([token], 24 + i) for i, token in enumerate(PROMPT)]
    ends.append(np.concatenate([first, *later]))
  most = dict(float32=2e-4, bfloat16=3e-3, int8=5e-3)[stored]
  np.testing.assert_allclose(*ends, atol=most * abs(ends[1]).max())


def test_a_memory_of_other_shapes_is_refused():
  module, params = resident(net(kv_heads=2))
  blocks = stacked.stacked(module, dict(params))[stacked.BLOCKS]
  x = jnp.zeros((1, 1, 64))
  kept = stacked.remembered(jax.eval_shape(lambda: memory.empty(module, 1, 128, 'int8')))
  good = kept['attention']
  stacked.token(module, blocks, kept, x, 5)
  for wrong in (
    dict(scales=good['scales'][..., :1]), dict(value=good['value'][:, :, :64]),
    dict(value=good['value'].astype(jnp.float32)), dict(key=good['key'][0], value=good['value'][0]),
  ):  # fmt: skip
    with pytest.raises(jax.errors.JaxRuntimeError, match='shapes do not fit'):
      jax.block_until_ready(stacked.token(module, blocks, dict(attention=good | wrong), x, 5))
  bare = {name: part for name, part in good.items() if name != 'scales'}
  with pytest.raises(jax.errors.JaxRuntimeError, match='shapes do not fit'):
    jax.block_until_ready(stacked.token(module, blocks, dict(attention=bare), x, 5))


def test_inputs_in_eight_bits_are_rounded_as_by_the_blocks_own():
  of = net(kv_heads=2)
  at_once, apart = Runtime(of), Runtime(of, at_once=False)
  changes = [runtime.round_inputs(PROMPT[:1]) for runtime in (at_once, apart)]
  assert changes[0] > 0 and changes[0] == pytest.approx(changes[1], rel=0.05)
  assert all(w.eight for w in jax.tree.leaves(
    at_once.params[stacked.BLOCKS], is_leaf=is_weight
  ) if isinstance(w, stacked.CpuWeight))  # fmt: skip


def test_a_long_memory_is_read_to_its_end_by_any_number_of_threads(monkeypatch):
  module, params = resident(net(kv_heads=2))
  embed, block, _ = memory.parts(module)
  tokens = np.random.default_rng(1).integers(0, 128, (1, 200)).astype(np.int32)
  kept = memory.empty(module, 1, 256)
  x, apart = embed(params, tokens, 0), dict(kept)
  for i in range(2):
    x, apart[f'layer{i}'] = block(params[f'layer{i}'], kept[f'layer{i}'], x, 0)
  both = jax.tree.map(lambda *parts: jnp.stack(parts), apart['layer0'], apart['layer1'])
  last = embed(params, tokens[:, -1:], 199)
  wrong = jax.tree.map(lambda part: part.at[:, :, 199:].set(9) if part.ndim == 4 else part, both)
  blocks = stacked.stacked(module, dict(params))[stacked.BLOCKS]
  y, new = stacked.token(module, blocks, wrong, last, 199)
  np.testing.assert_allclose(y[0, 0], x[0, -1], atol=5e-4 * float(abs(x).max()))
  for name in 'key', 'value':
    found, wanted = new['attention'][name], both['attention'][name]
    np.testing.assert_allclose(found[:, :, :200], wanted[:, :, :200], atol=1e-3)
    assert (found[:, :, 200:] == 9).all()  # and what lies behind is as it was
  monkeypatch.setenv(native.THREADS, '1')
  alone, _ = stacked.token(module, blocks, wrong, last, 199)
  np.testing.assert_array_equal(alone, y)


@pytest.mark.parametrize('change', [{}, dict(bias=True, head_norm=True)])
def test_block_by_block_reads_its_part(change):
  module, params = resident(net(kv_heads=2, **change))
  blocks = stacked.stacked(module, dict(params))[stacked.BLOCKS]
  for i in range(2):
    found = dict(tree.named(stacked.unstacked(module, blocks, i)))
    own = dict(tree.named(params[f'layer{i}']))
    assert own.keys() == found.keys()
    for name, w in own.items():
      np.testing.assert_array_equal(found[name], w)


@pytest.mark.parametrize(
  'change, stored',
  [
    (dict(activation='gelu'), 'float32'),
    (dict(make=gpt), 'float32'),
    (dict(but=('layer1/mlp/up/kernel',)), 'float32'),
    (dict(), 'float16'),
  ],
)
def test_other_nets_keep_their_blocks_apart(change, stored):
  module, params = resident(net(**change))
  assert not stacked.fits(module, params, stored)


def test_an_empty_memory_is_made_in_one_of_the_shapes_of_its_layers_alone():
  module, _ = resident(net())
  apart = memory.empty(module, 1, 256, 'int8')
  made = stacked.remembered(jax.eval_shape(lambda: memory.empty(module, 1, 256, 'int8')))
  wanted = jax.tree.map(lambda a: np.stack([a, a]), apart['layer0'])
  assert jax.tree.structure(made) == jax.tree.structure(wanted)
  for one, other in zip(jax.tree.leaves(made), jax.tree.leaves(wanted)):
    assert one.dtype == other.dtype and np.array_equal(one, other)
