"""GPT-2 and OPT against a plain NumPy net that reads the file itself, head by head."""

import json
import math
import tracemalloc

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from reduction import tree
from reduction.errors import DataError, UsageError
from reduction.formats import huggingface
from reduction.models.decoder import parts
from reduction.models.gpt import gpt
from reduction.models.gpt_files import settings, shapes, weights
from reduction.models.language import FAMILIES, family
from reduction.net import apply

CONFIGS = dict(
  gpt2=dict(
    model_type='gpt2', n_layer=2, n_embd=32, n_head=4, n_inner=None, vocab_size=50, n_positions=12,
    activation_function='gelu_new', layer_norm_epsilon=1e-4,
  ),
  opt=dict(
    model_type='opt', num_hidden_layers=2, hidden_size=32, num_attention_heads=4, ffn_dim=48,
    vocab_size=50, max_position_embeddings=12, word_embed_proj_dim=32, activation_function='relu',
    do_layer_norm_before=True,
  ),
)  # fmt: skip
# the names of what both have
NAMES = dict(
  gpt2=dict(
    tokens='transformer.wte', places='transformer.wpe', layer='transformer.h', before='ln_1',
    read='attn.c_attn', out='attn.c_proj', between='ln_2', inner='mlp.c_fc', outer='mlp.c_proj',
    last='transformer.ln_f',
  ),
  opt=dict(
    tokens='model.decoder.embed_tokens', places='model.decoder.embed_positions',
    layer='model.decoder.layers', before='self_attn_layer_norm', out='self_attn.out_proj',
    between='final_layer_norm', inner='fc1', outer='fc2', last='model.decoder.final_layer_norm',
  ),
)  # fmt: skip
TOKENS = np.array([[7, 3, 49, 8, 1, 0, 0, 12, 5], [9, 30, 2, 2, 41, 17, 8, 0, 1]])
NAN = float('nan')


def tensors(kind, tied=True):
  """Random weights by Hugging Face's names; no norm's scale is 1 and no bias 0."""
  random, names, d = np.random.default_rng(0), NAMES[kind], 32
  inner = 4 * d if kind == 'gpt2' else 48
  linear = dict(out=(d, d), inner=(inner, d), outer=(d, inner))
  linear = {names[name]: shape for name, shape in linear.items()}
  split = {f'self_attn.{n}_proj': (d, d) for n in 'qkv'}
  linear |= split if kind == 'opt' else {names['read']: (3 * d, d)}
  padding = 2 * (kind == 'opt')
  made = {f'{names["tokens"]}.weight': 0.5 * random.standard_normal((50, d))}
  made[f'{names["places"]}.weight'] = 0.5 * random.standard_normal((12 + padding, d))
  norms = [names['last']]
  for i in range(2):
    at = f'{names["layer"]}.{i}'
    norms += [f'{at}.{names["before"]}', f'{at}.{names["between"]}']
    for name, (out, into) in linear.items():
      shape = (into, out) if kind == 'gpt2' else (out, into)
      made[f'{at}.{name}.weight'] = 0.2 * random.standard_normal(shape)
      made[f'{at}.{name}.bias'] = 0.2 * random.standard_normal(out)
  for name in norms:
    made[f'{name}.weight'] = 1 + 0.3 * random.standard_normal(d)
    made[f'{name}.bias'] = 0.3 * random.standard_normal(d)
  if not tied:
    made['lm_head.weight'] = 0.2 * random.standard_normal((50, d))
  return {name: w.astype(np.float32) for name, w in made.items()}


def oracle(file, kind, tokens):
  """Logits [n, length, vocabulary], one text and one head at a time, in float64."""
  w, names = {name: value.astype(np.float64) for name, value in file.items()}, NAMES[kind]
  epsilon = 1e-4 if kind == 'gpt2' else 1e-5

  def linear(x, name):
    kernel = w[f'{name}.weight']
    return x @ (kernel if kind == 'gpt2' else kernel.T) + w[f'{name}.bias']

  def norm(x, name):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)
    return x * w[f'{name}.weight'] + w[f'{name}.bias']

  def activation(x):
    if kind == 'opt':
      return np.maximum(x, 0)
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

  logits = []
  for ids in tokens:
    places = np.arange(len(ids)) + 2 * (kind == 'opt')
    x = w[f'{names["tokens"]}.weight'][ids] + w[f'{names["places"]}.weight'][places]
    for i in range(2):
      at, read = f'{names["layer"]}.{i}', []
      y = norm(x, f'{at}.{names["before"]}')
      if kind == 'gpt2':
        q, k, v = np.split(linear(y, f'{at}.{names["read"]}'), 3, 1)
      else:
        q, k, v = (linear(y, f'{at}.self_attn.{n}_proj') for n in 'qkv')
      for h in range(4):
        mine = slice(8 * h, 8 * h + 8)
        scores = np.exp(q[:, mine] @ k[:, mine].T / math.sqrt(8)) * np.tri(len(ids))
        read.append(scores / scores.sum(1, keepdims=True) @ v[:, mine])
      x = x + linear(np.concatenate(read, 1), f'{at}.{names["out"]}')
      inner = activation(linear(norm(x, f'{at}.{names["between"]}'), f'{at}.{names["inner"]}'))
      x = x + linear(inner, f'{at}.{names["outer"]}')
    x = norm(x, names['last'])
    logits.append(x @ w.get('lm_head.weight', w[f'{names["tokens"]}.weight']).T)
  return np.stack(logits)


def ours(file, config):
  """(module, params) of a file."""
  of = family(config)
  return of.make(**of.settings(config)), tree.nest(dict(of.weights(file, config)))


@pytest.mark.parametrize('kind, tied', [('gpt2', True), ('gpt2', False), ('opt', True)])
def test_it_computes_what_the_papers_say_whole_and_in_parts(kind, tied):
  file, config = tensors(kind, tied), CONFIGS[kind] | dict(tie_word_embeddings=tied)
  module, params = ours(file, config)
  made = jax.eval_shape(module.init, jax.random.key(0), TOKENS)['params']
  assert {path: w.shape for path, w in tree.named(made)} == shapes(settings(config))
  run = jax.jit(lambda tokens: apply(module, params, {}, tokens))
  logits = run(TOKENS)
  assert logits.dtype == np.float32
  np.testing.assert_allclose(logits, oracle(file, kind, TOKENS), rtol=0, atol=2e-5)
  # what comes later changes nothing before
  later = TOKENS.copy()
  later[:, 6:] = 25
  assert np.array_equal(run(later)[:, :6], logits[:, :6])
  assert (run(later)[:, 6:] != logits[:, 6:]).any(-1).all()
  # block by block, with the weights of each part alone
  embed, layer, head = parts(module)
  x = embed({name: params[name] for name in ('embed', 'positions')}, TOKENS)
  step = jax.jit(layer.apply)
  for i in range(module.layers):
    x = step(dict(params=params[f'layer{i}']), x)
  last = {name: params[name] for name in ('norm', 'embed' if module.tied else 'out')}
  np.testing.assert_allclose(head(last, x), logits, rtol=0, atol=2e-5)


def test_a_norm_keeps_a_small_variance_beside_a_large_mean():
  sizes = dict(layers=1, width=32, heads=4, inner=8, vocabulary=32, positions=1, tied=False)
  x = 3_000 + np.linspace(-1, 1, 32, dtype=np.float32)
  exact = x.astype(np.float64) - x.astype(np.float64).mean()
  norm = dict(scale=np.ones(32, np.float32), bias=np.zeros(32, np.float32))
  params = dict(norm=norm, out=dict(kernel=np.eye(32, dtype=np.float32)))
  found = parts(gpt(**sizes))[2](params, x[None, None])[0, 0]
  expected = exact / np.sqrt((exact**2).mean() + 1e-5)
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize('kind', CONFIGS)
def test_a_folder_in_half_precision_is_read_one_by_one(kind, tmp_path, monkeypatch):
  file = {name: w.astype(np.float16) for name, w in tensors(kind).items()}
  save_file(file, tmp_path / 'model.safetensors')
  (tmp_path / 'config.json').write_text(json.dumps(CONFIGS[kind]))
  reads, read = [], huggingface.Tensors.__getitem__
  noted = lambda self, name: reads.append(name) or read(self, name)
  monkeypatch.setattr(huggingface.Tensors, '__getitem__', noted)
  found = weights(huggingface.tensors(tmp_path), huggingface.config(tmp_path))
  assert 'layer1/attention/key/kernel' in found and len(found) == 36
  assert reads == []
  key = found['layer1/attention/key/kernel']
  name = f'{NAMES[kind]["layer"]}.1.' + dict(gpt2='attn.c_attn', opt='self_attn.k_proj')[kind]
  name += '.weight'
  assert reads == [name] and key.dtype == np.float32 and key.shape == (32, 32)
  expected = file[name][:, 32:64] if kind == 'gpt2' else file[name].T
  assert np.array_equal(key, expected.astype(np.float32))
  short = weights(huggingface.tensors(tmp_path), CONFIGS[kind], dtype=ml_dtypes.bfloat16)
  assert short['layer0/attention/value/bias'].dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize('kind', CONFIGS)
def test_what_files_repeat_and_prefixes_that_they_lack_are_left(kind):
  file, config = tensors(kind), CONFIGS[kind]
  whole = dict(weights(file, config))
  more = dict(
    gpt2={f'transformer.h.{i}.attn.{n}': np.ones(1) for i in (0, 1) for n in
          ('bias', 'masked_bias')},
    opt={'model.decoder.version': np.ones(1)},
  )[kind]  # fmt: skip
  repeated = {'lm_head.weight': file[f'{NAMES[kind]["tokens"]}.weight']}
  bare = {n.removeprefix('transformer.').removeprefix('model.'): w for n, w in file.items()}
  for given in (file | more | repeated, bare):
    found = weights(given, config)
    assert found.keys() == whole.keys() and 'out/kernel' not in found
    assert all(np.array_equal(found[path], w) for path, w in whole.items())


COMMON = [
  (dict(model_type='gpt3'), "model_type='gpt3'; models.gpt knows gpt2, opt"),
  (dict(model_type=['opt']), 'model_type'),
  (dict(quantization_config=dict(bits=4)), 'quantization_config'),
  (dict(tie_word_embeddings=1), 'tie_word_embeddings is true or false'),
  (dict(vocab_size=NAN), 'vocab_size=nan must be a whole number from 1 to 4,194,304'),
]
GPT2 = [
  *COMMON,
  (dict(activation_function='relu'), "activation_function='relu'; models.gpt computes 'gelu_new'"),
  (dict(activation_function='gelu'), "activation_function='gelu'"),  # the exact one
  (dict(scale_attn_weights=False), 'scale_attn_weights=False'),
  (dict(scale_attn_by_inverse_layer_idx=True), 'scale_attn_by_inverse_layer_idx=True'),
  (dict(add_cross_attention=True), 'add_cross_attention=True'),
  (dict(n_embd=10**12), 'n_embd=1000000000000 must be a whole number from 1 to 131,072'),
  (dict(n_embd=34), 'heads=4 must divide width=34'),
  (dict(n_head=-4), 'n_head=-4'),
  (dict(n_layer=True), 'n_layer=True'),
  (dict(n_inner=0), 'n_inner=0'),
  (dict(n_inner=[48] * 999), 'n_inner=[48, 48'),
  (dict(n_positions=None), 'n_positions=None'),
  (dict(layer_norm_epsilon=NAN), 'layer_norm_epsilon=nan must be a number above 0'),
]
OPT = [
  *COMMON,
  (dict(activation_function='gelu'), "activation_function='gelu'; models.gpt computes 'relu' only"),
  (dict(do_layer_norm_before=False), 'do_layer_norm_before=False; models.gpt computes True only'),
  (dict(enable_bias=False), 'enable_bias=False'),
  (dict(layer_norm_elementwise_affine=False), 'layer_norm_elementwise_affine=False'),
  (dict(_remove_final_layer_norm=True), '_remove_final_layer_norm=True'),
  (dict(word_embed_proj_dim=16), 'word_embed_proj_dim=16; models.gpt computes 32 only'),
  (dict(hidden_size='32'), "hidden_size='32'"),
  (dict(num_hidden_layers=10**9), 'num_hidden_layers=1000000000'),
  (dict(num_attention_heads=5), 'heads=5 must divide width=32'),
  (dict(ffn_dim=2.5), 'ffn_dim=2.5'),
  (dict(max_position_embeddings=0), 'max_position_embeddings=0'),
]


@pytest.mark.parametrize(
  'kind, change, message', [('gpt2', *one) for one in GPT2] + [('opt', *one) for one in OPT]
)
def test_what_is_not_computed_and_what_cannot_be_is_refused(kind, change, message):
  tracemalloc.start()
  with pytest.raises(UsageError) as raised:
    settings(CONFIGS[kind] | change)
  assert message in str(raised.value)
  assert '\n' not in str(raised.value) and len(str(raised.value)) < 200
  assert tracemalloc.get_traced_memory()[1] < 2**20  # nothing of those sizes was made
  tracemalloc.stop()


@pytest.mark.parametrize(
  'kind, change, message',
  [
    ('gpt2', {'transformer.ln_f.bias': None}, "missing weights of a gpt2: 'transformer.ln_f.bias'"),
    (
      'gpt2', {'transformer.h.0.attn.c_attn.weight': None},  # named once, though it is three
      "missing weights of a gpt2: 'transformer.h.0.attn.c_attn.weight'\n",
    ),
    ('gpt2', {'wte.weight': np.ones(2)}, 'missing weights of a gpt2'),  # with a prefix or without
    ('gpt2', {'a\nb': np.ones(2)}, "unexpected weights of a gpt2: 'a\\nb'\n"),
    (
      'gpt2', {'transformer.h.1.attn.c_attn.weight': np.ones((96, 32))},
      'attn.c_attn.weight is float64 [96, 32]; config needs numbers [32, 96]',
    ),
    ('opt', {'model.decoder.layers.1.fc2.bias': None}, 'missing weights of an opt: '),
    ('opt', {'model.decoder.project_in.weight': np.ones((32, 16))}, 'unexpected weights of an opt'),
    (
      'opt', {'model.decoder.embed_positions.weight': np.ones((12, 32))},
      'embed_positions.weight is float64 [12, 32]; config needs numbers [14, 32]',
    ),
    (
      'opt', {'model.decoder.layers.0.fc1.weight': np.ones((48, 32), np.int8)},
      'fc1.weight is int8 [48, 32]',
    ),
  ],
)  # fmt: skip
def test_weights_of_another_model_are_named_in_one_line(kind, change, message):
  file = {name: w for name, w in (tensors(kind) | change).items() if w is not None}
  with pytest.raises(DataError) as raised:
    dict(weights(file, CONFIGS[kind]))
  assert message in f'{raised.value}\n' and '\n' not in str(raised.value)


def test_each_type_of_model_has_a_family_and_others_are_named():
  names = ['llama', 'mistral', 'qwen2', 'qwen3', 'gemma', 'gpt2', 'opt']
  assert list(FAMILIES) == names
  assert {FAMILIES[name].make.__name__ for name in names} == {'llama', 'gpt'}
  for given in ('bert', None, [], 3):
    with pytest.raises(UsageError, match=r'model_type=.*; reduction knows llama, .*, gpt2, opt'):
      family(dict(model_type=given))


def test_texts_and_tokens_that_do_not_fit_are_refused_before_the_model_runs():
  module = gpt(**settings(CONFIGS['opt']))
  with pytest.raises(UsageError, match='13 tokens, but the model has 12 places'):
    module.apply({}, np.ones((1, 13), np.int32))
  with pytest.raises(DataError, match=r'token 50 at \(0, 1\) is none of 0..49'):
    module.apply({}, np.array([[3, 50]]))


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(width=30), 'heads=4 must divide width=30'),
    (dict(layers=0), 'layers=0 must be a whole number'),
    (dict(activation='silu'), "activation='silu' must be one of gelu, relu"),
    (dict(epsilon=0.0), 'epsilon=0.0'),
  ],
)
def test_settings_outside_their_ranges_are_refused(change, message):
  known = dict(layers=1, width=32, heads=4, inner=8, vocabulary=50, positions=16)
  with pytest.raises(UsageError, match=message):
    gpt(**dict(known, **change))
