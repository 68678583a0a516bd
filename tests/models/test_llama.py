"""The Llama family against a plain NumPy one that reads the file itself, head by head."""

import json
import math
import tracemalloc

import hypothesis
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import strategies as st
from safetensors.numpy import save_file

from reduction import tree
from reduction.errors import DataError, UsageError
from reduction.formats import huggingface
from reduction.models import decoder
from reduction.models.decoder import checked, parts
from reduction.models.llama import frequencies, llama
from reduction.models.llama_files import settings, shapes, weights
from reduction.net import apply

CONFIG = dict(
  model_type='llama', num_hidden_layers=2, hidden_size=32, num_attention_heads=4,
  num_key_value_heads=2, intermediate_size=48, vocab_size=50, max_position_embeddings=32,
  rms_norm_eps=1e-5, rope_theta=500.0, hidden_act='silu', tie_word_embeddings=False,
)  # fmt: skip
LLAMA3 = dict(
  rope_type='llama3', factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
  original_max_position_embeddings=64,
)  # fmt: skip
FAMILIES = dict(
  llama=dict(rope_scaling=LLAMA3),
  mistral=dict(num_key_value_heads=1, sliding_window=16, head_dim=None),
  qwen2=dict(tie_word_embeddings=True, use_sliding_window=False, sliding_window=8),
  qwen3=dict(head_dim=16, rope_parameters=dict(rope_type='default', rope_theta=90.0)),
  gemma=dict(num_key_value_heads=1, head_dim=16, hidden_act='gelu', hidden_activation=None),
)
TOKENS = np.array([[7, 3, 49, 8, 1, 0, 0, 12, 5], [9, 30, 2, 2, 41, 17, 8, 0, 1]])
NAN = float('nan')


def config(family):
  """A config.json of a family; Gemma's leaves out that embeddings are tied."""
  made = dict(CONFIG, model_type=family) | FAMILIES[family]
  if family == 'gemma':
    del made['tie_word_embeddings']
  return made


def tensors(config):
  """Random weights by Hugging Face's names."""
  random = np.random.default_rng(0)
  d, inner = config['hidden_size'], config['intermediate_size']
  heads = config['num_attention_heads']
  size = config.get('head_dim') or d // heads
  queries, keys = heads * size, config['num_key_value_heads'] * size
  kind = config['model_type']
  linear = dict(
    q=(queries, d), k=(keys, d), v=(keys, d), o=(d, queries), gate=(inner, d), up=(inner, d),
    down=(d, inner),
  )  # fmt: skip
  made, norms = {'model.embed_tokens.weight': random.standard_normal((config['vocab_size'], d))}, {}
  for i in range(config['num_hidden_layers']):
    at = f'model.layers.{i}'
    for name, shape in linear.items():
      part = 'self_attn' if name in 'qkvo' else 'mlp'
      made[f'{at}.{part}.{name}_proj.weight'] = 0.2 * random.standard_normal(shape)
      if kind == 'qwen2' and name in 'qkv':
        made[f'{at}.{part}.{name}_proj.bias'] = random.standard_normal(shape[0])
    norms |= {f'{at}.input_layernorm': d, f'{at}.post_attention_layernorm': d}
    if kind == 'qwen3':
      norms |= {f'{at}.self_attn.q_norm': size, f'{at}.self_attn.k_norm': size}
  for name, units in dict(norms, **{'model.norm': d}).items():
    made[f'{name}.weight'] = (kind != 'gemma') + 0.3 * random.standard_normal(units)
  if not config.get('tie_word_embeddings', kind == 'gemma'):
    made['lm_head.weight'] = 0.2 * random.standard_normal((config['vocab_size'], d))
  return {name: w.astype(np.float32) for name, w in made.items()}


def turns(config, size):
  """Radians a token for each pair, as Hugging Face's code has them."""
  rotation = config.get('rope_parameters', {})
  theta = rotation.get('rope_theta', config['rope_theta'])
  found = [1 / theta ** (2 * i / size) for i in range(size // 2)]
  scaling = config.get('rope_scaling')
  if scaling is None:
    return np.array(found)
  low, high, before = (scaling[k] for k in list(LLAMA3)[2:])
  for i, turn in enumerate(found):
    wave = 2 * math.pi / turn
    if wave > before / low:
      found[i] = turn / scaling['factor']
    elif wave >= before / high:
      smooth = (before / wave - low) / (high - low)
      found[i] = (1 - smooth) * turn / scaling['factor'] + smooth * turn
  return np.array(found)


def oracle(file, config, tokens):
  """Logits [n, length, vocabulary], one text and one head at a time, in float64."""
  w = {name: value.astype(np.float64) for name, value in file.items()}
  kind, heads = config['model_type'], config['num_attention_heads']
  shared = heads // config['num_key_value_heads']
  linear = lambda x, name: x @ w[f'{name}.weight'].T + w.get(f'{name}.bias', 0)

  def norm(x, name):
    scale = w[f'{name}.weight'] + (kind == 'gemma')
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + config['rms_norm_eps']) * scale

  def activation(x):
    if kind == 'gemma':
      return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x / (1 + np.exp(-x))

  def turned(x, name):
    """A head [length, size]: normalized where Qwen3 does, then pairs as complex numbers."""
    x, half = (norm(x, name) if f'{name}.weight' in w else x), x.shape[1] // 2
    angle = np.outer(np.arange(len(x)), turns(config, 2 * half))
    pairs = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * angle)
    return np.concatenate([pairs.real, pairs.imag], 1)

  logits = []
  for ids in tokens:
    x = w['model.embed_tokens.weight'][ids] * (
      math.sqrt(config['hidden_size']) ** (kind == 'gemma')
    )
    for i in range(config['num_hidden_layers']):
      at = f'model.layers.{i}.self_attn'
      y, read = norm(x, f'model.layers.{i}.input_layernorm'), []
      q, k, v = (linear(y, f'{at}.{name}_proj') for name in 'qkv')
      size = q.shape[1] // heads
      for h in range(heads):
        mine, theirs = (slice(j * size, (j + 1) * size) for j in (h, h // shared))
        query, key = turned(q[:, mine], f'{at}.q_norm'), turned(k[:, theirs], f'{at}.k_norm')
        scores = np.exp(query @ key.T / math.sqrt(size)) * np.tri(len(ids))
        read.append(scores / scores.sum(1, keepdims=True) @ v[:, theirs])
      x = x + linear(np.concatenate(read, 1), f'{at}.o_proj')
      y, at = norm(x, f'model.layers.{i}.post_attention_layernorm'), f'model.layers.{i}.mlp'
      inner = activation(linear(y, f'{at}.gate_proj')) * linear(y, f'{at}.up_proj')
      x = x + linear(inner, f'{at}.down_proj')
    x = norm(x, 'model.norm')
    logits.append(x @ w.get('lm_head.weight', w['model.embed_tokens.weight']).T)
  return np.stack(logits)


def ours(file, config):
  """(module, params) of a file."""
  return llama(**settings(config)), tree.nest(dict(weights(file, config)))


@pytest.mark.parametrize('family', FAMILIES)
def test_it_computes_what_the_papers_say(family):
  file = tensors(config(family))
  module, params = ours(file, config(family))
  made = jax.eval_shape(module.init, jax.random.key(0), TOKENS)['params']
  found = {path: w.shape for path, w in tree.named(made)}
  assert found == shapes(settings(config(family)))
  run = jax.jit(lambda tokens: apply(module, params, {}, tokens))
  logits = run(TOKENS)
  assert logits.dtype == np.float32
  expected = oracle(file, config(family), TOKENS)
  np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5)
  # what comes later changes nothing before
  later = TOKENS.copy()
  later[:, 6:] = 25
  assert np.array_equal(run(later)[:, :6], logits[:, :6])
  assert (run(later)[:, 6:] != logits[:, 6:]).any(-1).all()


@pytest.mark.parametrize('family', ['qwen3', 'gemma'])  # one is tied
def test_its_parts_one_by_one_are_the_whole(family):
  module, params = ours(tensors(config(family)), config(family))
  embed, layer, head = parts(module)
  x = embed(dict(embed=params['embed']), TOKENS)
  assert x.shape == (*TOKENS.shape, 32)
  step = jax.jit(layer.apply)
  for i in range(module.layers):
    x = step(dict(params=params[f'layer{i}']), x)
  last = {name: w for name, w in params.items() if not name.startswith('layer')}
  whole = jax.jit(lambda tokens: apply(module, params, {}, tokens))(TOKENS)
  np.testing.assert_allclose(head(last, x), whole, rtol=0, atol=2e-5)


def test_scaled_rotations_by_hand():
  # 10.19, 2.194489, 0.47 and 0.10 turns in 64 tokens: kept, mixed, slowed, slowed
  found = frequencies(8, 10_000 ** (2 / 3))
  np.testing.assert_allclose(found, 10 ** (-2 * np.arange(4) / 3), rtol=1e-6)
  mixed = (2.194489 - 1) / 3
  found = frequencies(8, 10_000 ** (2 / 3), settings(config('llama'))['scaling'])
  factor = [1, mixed + (1 - mixed) / 8, 1 / 8, 1 / 8]
  np.testing.assert_allclose(found, 10 ** (-2 * np.arange(4) / 3) * factor, rtol=1e-5)


def test_a_folder_in_bfloat16_and_shorter_numbers_on_request(tmp_path):
  file = {name: w.astype(ml_dtypes.bfloat16) for name, w in tensors(CONFIG).items()}
  save_file(file, tmp_path / 'model.safetensors')
  (tmp_path / 'config.json').write_text(json.dumps(CONFIG))
  found = weights(huggingface.tensors(tmp_path), huggingface.config(tmp_path))
  w = found['layer1/mlp/up/kernel']
  assert w.dtype == np.float32 and w.shape == (32, 48)
  assert np.array_equal(w, file['model.layers.1.mlp.up_proj.weight'].T.astype(np.float32))
  short = weights(huggingface.tensors(tmp_path), CONFIG, dtype=ml_dtypes.bfloat16)
  assert short['norm/scale'].dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(model_type='gpt2'), "model_type='gpt2'; models.llama knows llama, mistral"),
    (dict(model_type=['llama']), 'model_type'),
    (dict(hidden_act='relu'), "hidden_act='relu'; models.llama computes 'silu' only"),
    (dict(attention_bias=True), 'attention_bias=True'),
    (dict(mlp_bias=True), 'mlp_bias=True'),
    (dict(partial_rotary_factor=0.5), 'partial_rotary_factor=0.5'),
    (dict(quantization_config=dict(bits=4)), 'quantization_config'),
    (dict(rope_scaling=dict(type='linear', factor=2.0)), "rope_type='linear'"),
    (dict(rope_scaling=dict(rope_type='yarn')), "rope_type='yarn'; models.llama computes default"),
    (dict(rope_scaling=[1]), 'the rotation [1] is no object'),
    (dict(rope_scaling=dict(LLAMA3, factor=NAN)), 'factor=nan must be a number'),
    (dict(rope_scaling=dict(LLAMA3, low_freq_factor=4.0)), 'needs a low below its high'),
    (dict(rope_scaling=dict(rope_type='llama3')), 'factor=None must be a number'),
    (dict(layer_types=['linear_attention']), 'layer_types'),
    (dict(sliding_window=-1), 'sliding_window=-1 must be a whole number'),
    (
      dict(hidden_size=10**12),
      'hidden_size=1000000000000 must be a whole number from 1 to 131,072',
    ),
    (dict(hidden_size=1e12), 'hidden_size=1000000000000.0'),
    (dict(hidden_size='32'), "hidden_size='32'"),
    (dict(hidden_size=None), 'hidden_size=None'),
    (dict(hidden_size=34), 'num_attention_heads does not divide hidden_size'),
    (dict(num_attention_heads=-4), 'num_attention_heads=-4'),
    (dict(num_key_value_heads=3), 'kv_heads=3 must divide heads=4'),
    (dict(num_hidden_layers=True), 'num_hidden_layers=True'),
    (dict(num_hidden_layers=10**9), 'num_hidden_layers=1000000000'),
    (dict(head_dim=7), 'size=7 must be even'),
    (dict(vocab_size=NAN), 'vocab_size=nan'),
    (dict(intermediate_size=[48] * 999), 'intermediate_size=[48, 48'),
    (dict(rms_norm_eps=NAN), 'rms_norm_eps=nan must be a number above 0'),
    (dict(rope_theta=float('inf')), 'rope_theta=inf'),
    (dict(rope_theta='1e4'), "rope_theta='1e4'"),
    (dict(tie_word_embeddings='no'), 'tie_word_embeddings is true or false'),
  ],
)
def test_what_is_not_computed_and_what_cannot_be_is_refused(change, message):
  tracemalloc.start()
  with pytest.raises(UsageError) as raised:
    settings(dict(CONFIG, **change))
  assert message in str(raised.value)
  assert '\n' not in str(raised.value) and len(str(raised.value)) < 200
  assert tracemalloc.get_traced_memory()[1] < 2**20  # nothing of those sizes was made
  tracemalloc.stop()


ANYTHING = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
  lambda of: st.lists(of, max_size=3) | st.dictionaries(st.text(max_size=8), of, max_size=3),
  max_leaves=4,
)  # fmt: skip


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(st.dictionaries(st.sampled_from(sorted(CONFIG)), ANYTHING, max_size=3))
def test_any_json_in_a_config_is_computed_or_refused_in_one_line(change):
  try:
    found = settings(dict(CONFIG, **change))
  except UsageError as error:
    assert '\n' not in str(error) and len(str(error)) < 300
  else:
    assert found['width'] < 2**20 and found['layers'] < 2**16


@pytest.mark.parametrize(
  'change, positions',
  [
    ({}, 32),
    (dict(sliding_window=None), 32),
    (dict(sliding_window=8), 8),
    (dict(sliding_window=8, use_sliding_window=False), 32),
    (dict(sliding_window=8, layer_types=['full_attention'] * 2), 32),
    (dict(sliding_window=8, layer_types=['full_attention', 'sliding_attention']), 8),
    (dict(sliding_window=99), 32),
  ],
)
def test_texts_are_no_longer_than_a_window_that_would_cut_them(change, positions):
  module = llama(**settings(dict(CONFIG, **change)))
  assert module.positions == positions
  with pytest.raises(UsageError, match=f'{positions + 1} tokens, but the model has {positions}'):
    module.init(jax.random.key(0), np.ones((1, positions + 1), np.int32))


@pytest.mark.parametrize(
  'change, message',
  [
    ({'model.norm.weight': None}, "missing weights of a llama: 'model.norm.weight'"),
    ({'lm_head.weight': None, 'model.norm.weight': None}, "'model.norm.weight', 'lm_head.weight'"),
    ({'a\nb': np.ones(2)}, "unexpected weights of a llama: 'a\\nb'"),
    ({'a.weight': np.ones(2)}, "unexpected weights of a llama: 'a.weight'"),
    ({f'{i}.weight': np.ones(2) for i in range(5)}, "'1.weight', '2.weight' and 2 more"),
    ({'model.layers.1.self_attn.q_proj.bias': np.ones(32)}, 'unexpected weights of a llama'),
    ({'model.norm.weight': np.ones(33)}, 'model.norm.weight is float64 [33]; config needs'),
    ({'lm_head.weight': np.ones((32, 50))}, 'needs numbers [50, 32]'),
    ({'lm_head.weight': np.ones((50, 32), np.int32)}, 'lm_head.weight is int32 [50, 32]'),
  ],
)
def test_weights_of_another_model_are_named_in_one_line(change, message):
  file = {name: w for name, w in (tensors(CONFIG) | change).items() if w is not None}
  with pytest.raises(DataError) as raised:
    dict(weights(file, CONFIG))
  assert message in str(raised.value) and '\n' not in str(raised.value)


def test_what_old_and_tied_files_repeat_is_left():
  more = {'model.layers.0.self_attn.rotary_emb.inv_freq': np.ones(4)}
  assert set(weights(tensors(CONFIG) | more, CONFIG)) == set(weights(tensors(CONFIG), CONFIG))
  tied = dict(CONFIG, tie_word_embeddings=True)
  assert 'out/kernel' not in weights(tensors(CONFIG), tied)


@pytest.mark.parametrize(
  'tokens, message',
  [
    ([[3, 50]], r'token 50 at \(0, 1\) is none of 0..49'),
    ([[3, 2], [-1, 2]], r'token -1 at \(1, 0\)'),
    ([[2**40, 2]], f'token {2**40}'),
    ([[1.0, 2.0]], 'whole numbers, not float64'),
  ],
)
def test_tokens_of_another_vocabulary_are_refused_before_the_model_runs(tokens, message):
  for call in (
    lambda tokens: checked(tokens, 50),
    lambda tokens: llama(**settings(CONFIG)).apply({}, np.array(tokens)),
  ):
    with pytest.raises(DataError, match=message):
      call(tokens)
  assert checked([[0, 49]], 50).dtype == np.int32


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(width=30), 'heads=4 must divide width=30'),
    (dict(layers=0), 'layers=0 must be a whole number'),
    (dict(kv_heads=8), 'kv_heads=8 must divide heads=4'),
    (dict(activation='relu'), "activation='relu' must be one of silu, gelu"),
    (dict(theta=-1.0), 'theta=-1.0'),
    (dict(scaling=(8.0, 4.0, 1.0, 64)), 'needs a low below its high'),
  ],
)
def test_settings_outside_their_ranges_are_refused(change, message):
  known = dict(layers=1, width=32, heads=4, inner=8, vocabulary=50, positions=16)
  with pytest.raises(UsageError, match=message):
    llama(**dict(known, **change))


def test_attention_of_one_key_head_at_a_time_is_that_of_all(monkeypatch):
  rng = np.random.default_rng(0)
  draw = lambda heads: jnp.asarray(rng.normal(size=(2, 5, heads, 4)), jnp.float32)
  given = draw(6), draw(3), draw(3)
  both = lambda *x: jax.value_and_grad(lambda *y: (decoder.attended(*y) ** 3).sum(), (0, 1, 2))(*x)
  whole, slopes = both(*given)
  monkeypatch.setattr(decoder, 'CACHED', 0)
  assert 'scan' in str(jax.make_jaxpr(decoder.attended)(*given))
  alone, mine = both(*given)
  assert np.isclose(alone, whole, rtol=1e-6)
  for one, other in zip(mine, slopes):
    assert np.allclose(one, other, rtol=1e-5, atol=1e-6)
