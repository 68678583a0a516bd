"""Inputs that linears share, found in modules of several kinds; folding changes no function."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction import tree
from reduction.models import bert, gpt, lenet, llama
from reduction.quantize import awq, inputs
from tests.quantize.blocks import Block, Gain, filled

X = jax.random.normal(jax.random.key(0), (2, 3, 16))
NORM1 = ['norm1/scale', 'norm1/bias']
SIZES = dict(layers=1, width=16, heads=4, inner=24, vocabulary=9, positions=4)
READ = 'attention/query attention/key attention/value'


def found(module, params, x):
  """{the linears of an input: the weights that make it}"""
  by = inputs.find(module, params, x)
  return {' '.join(one.linears): [s.path for s in one.sources] or one.why for one in by}


def of_llama(value):
  """What `found` gives for a block of `models.llama`. value: what makes the heads' output."""
  return {
    READ: ['attention_norm/scale'],
    'attention/output': value,
    'mlp/gate mlp/up': ['mlp_norm/scale'],
    'mlp/down': ['mlp/up/kernel'],
  }


def of_gpt(inner):
  """What `found` gives for a block of `models.gpt`. inner: what makes the input of 'outer'."""
  return {
    READ: ['attention_norm/scale', 'attention_norm/bias'],
    'attention/output': ['attention/value/kernel', 'attention/value/bias'],
    'mlp/inner': ['mlp_norm/scale', 'mlp_norm/bias'],
    'mlp/outer': inner,
  }


@pytest.mark.parametrize(
  'module, expected',
  [
    (
      Block(),
      {
        'q k v': ['norm1/scale'],
        'o': ['v/kernel', 'v/bias'],
        'gate up': ['norm2/scale'],
        'down': ['up/kernel', 'up/bias'],
      },
    ),
    (
      Block(nn.LayerNorm, shared=1, gated=False, activation='relu'),
      {
        'q k v': NORM1,
        'o': ['v/kernel', 'v/bias'],
        'gate': ['norm2/scale', 'norm2/bias'],
        'down': ['gate/kernel', 'gate/bias'],
      },
    ),
    (
      Block(Gain, fused=True, gated=False, activation='gelu'),
      {
        'qkv': ['norm1/scale'],
        'o': ['qkv/kernel', 'qkv/bias'],
        'gate': ['norm2/scale'],
        'down': 'also read by integer_pow',
      },
    ),
    (
      Block(nn.LayerNorm, gated=False, activation='relu', after=True),
      {
        'q k v': 'also read by add',
        'o': ['v/kernel', 'v/bias'],
        'gate': 'also read by add',
        'down': ['gate/kernel', 'gate/bias'],
      },
    ),
    (llama(**SIZES, kv_heads=2).layer, of_llama(['attention/value/kernel'])),
    (
      llama(**SIZES, kv_heads=1, size=8, bias=True).layer,
      of_llama(['attention/value/kernel', 'attention/value/bias']),
    ),
    (
      llama(**SIZES, kv_heads=2, size=8, head_norm=True).layer,
      of_llama(['attention/value/kernel']),
    ),
    (gpt(**SIZES).layer, of_gpt('also read by integer_pow')),
    (gpt(**SIZES, activation='relu').layer, of_gpt(['mlp/inner/kernel', 'mlp/inner/bias'])),
  ],
  ids=['llama', 'opt', 'gemma fused', 'norms after', 'Llama', 'Qwen2', 'Qwen3', 'GPT-2', 'OPT'],
)
def test_what_makes_an_input_takes_its_scales(module, expected):
  params = filled(module, X)
  assert found(module, params, X) == expected
  by = inputs.find(module, params, X)
  scales = {}
  for i, one in enumerate(by):
    scale = np.exp(np.random.default_rng(i).normal(size=one.rows)).astype(np.float32)
    scales[one.linears[0]] = scale[one.ties]
  flat = dict(tree.named(params))
  new = awq.folded(flat, by, scales)
  changed = {path for path in flat if not np.array_equal(flat[path], new[path])}
  kernels = {f'{name}/kernel' for one in by if one.sources for name in one.linears}
  assert changed == kernels | {s.path for one in by for s in one.sources}
  before, after = (module.apply({'params': p}, X) for p in (params, tree.nest(new)))
  assert np.allclose(before, after, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  'module, output',
  [
    (Block(), 'o'),
    (llama(**SIZES, kv_heads=2).layer, 'attention/output'),
    (llama(**SIZES, kv_heads=2, head_norm=True).layer, 'attention/output'),
  ],
  ids=['block', 'Llama', 'Qwen3'],
)
def test_query_heads_of_one_value_head_share_its_scales(module, output):
  by = inputs.find(module, filled(module, X), X)
  ties = next(one.ties for one in by if one.linears == (output,))
  heads = ties.reshape(4, 4)  # [heads, size]
  assert np.array_equal(heads[0], heads[1]) and np.array_equal(heads[2], heads[3])
  assert len(set(ties)) == 8  # two value heads of four channels


def test_nothing_is_computed_and_shapes_are_enough():
  module = lenet()
  x = jax.ShapeDtypeStruct((1, 28, 28), jnp.float32)
  params = jax.eval_shape(module.init, jax.random.key(0), x)['params']
  assert found(module, params, x) == {
    'fc1': "the module's own input",
    'fc2': ['fc1/kernel', 'fc1/bias'],
    'out': ['fc2/kernel', 'fc2/bias'],
  }


class Odd(nn.Module):
  """Linears that look scalable and are not."""

  @nn.compact
  def __call__(self, x):
    twice = nn.Dense(16, name='twice')
    x = twice(nn.relu(twice(x)))  # one kernel for two inputs
    y = nn.Dense(16, name='first')(x)
    z = nn.Dense(16, name='shown')(nn.relu(y))
    return nn.Dense(16, name='capped')(nn.relu6(z)), y


def test_a_scale_stops_where_it_would_be_seen():
  assert found(Odd(), filled(Odd(), X), X) == {
    'twice': 'twice is used more than once',
    'first': 'twice/kernel is also read by dot_general',
    'shown': 'also a result of the module',
    'capped': 'made by min, which no scale passes',
  }


def test_a_bert_scales_its_values_alone():
  module = bert(layers=1, width=16, heads=2, inner=24, vocabulary=9, positions=4, classes=0)
  tokens = jnp.ones((1, 3), jnp.int32)
  params = module.init(jax.random.key(0), tokens)['params']
  by = found(module, params, tokens)
  value = 'layer0/attention/value'
  assert by['layer0/attention/output'] == [f'{value}/kernel', f'{value}/bias']
  assert [name for name, sources in by.items() if isinstance(sources, list)] == [
    'layer0/attention/output'
  ]
