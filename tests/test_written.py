"""Nets written for other programs: every format of every family is read back to the bit."""

import json
import os
import pathlib

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from reduction import language, opened, tree, written
from reduction.errors import DataError, UsageError
from reduction.formats import quantization
from reduction.formats.quantization import FORMATS, Packing
from reduction.models.served import Served
from reduction.net import Net
from reduction.qtensor import Scheme, dequantize, is_packed
from reduction.quantize.rtn import quantize
from reduction.run import Run
from reduction.written import Format
from tests import decoders

# wide enough for each format: GPTQ takes rows and columns in multiples of 32, GGUF rows
SIZES = dict(decoders.CONFIG, hidden_size=64, head_dim=32, num_attention_heads=2,
             num_key_value_heads=1, intermediate_size=96)  # fmt: skip
OPT = dict(
  model_type='opt', num_hidden_layers=2, hidden_size=64, num_attention_heads=4, ffn_dim=96,
  vocab_size=50, max_position_embeddings=32,
)  # fmt: skip
GPT2 = dict(
  model_type='gpt2', n_layer=2, n_embd=64, n_head=4, n_inner=96, vocab_size=50, n_positions=32
)
CONFIGS = {family: dict(SIZES, model_type=family) for family in ('qwen2', 'qwen3', 'gemma')}
CONFIGS |= dict(llama=dict(SIZES, tie_word_embeddings=False), opt=OPT, gpt2=GPT2)
SCHEME = Scheme(4, 32)
EXACT = 'float32'


@pytest.fixture(scope='module')
def models(tmp_path_factory):
  """models(family) -> `Opened`, of random weights."""
  root, made = tmp_path_factory.mktemp('models'), {}

  def of(family):
    if family not in made:
      made[family] = opened.language_model(decoders.model(root / family, CONFIGS[family]))
    return made[family]

  return of


def packed(net, scheme=SCHEME):
  """The net with the kernels of its blocks rounded to the nearest."""
  pack = lambda path, w: (
    quantize(np.asarray(w), scheme, dtype=np.float16)
    if path.startswith('layer') and path.endswith('kernel')
    else w
  )
  return Net(Served(net.module), tree.map_named(pack, net.params))


def write(place, net, found, *form, **change):
  place.mkdir()
  config, form = found.config | change, Format(*form)
  written.write(place, net, config, found.files(), form)
  schemes = {leaf.scheme for leaf in jax.tree.leaves(net.params, is_leaf=is_packed)
             if is_packed(leaf)}  # fmt: skip
  written.fits(config, form, *schemes, files=found.files())  # what was written is not refused
  return place


def numbers(net):
  """(path, array) of all parts of the net, in memory."""
  return [(path, np.asarray(w)) for path, w in tree.named(net.params)]


def as_read(found):
  """The tensors of a folder, zeros where OPT has places for padding, which nothing reads."""
  tensors = load_file(found.path / 'model.safetensors')
  for name in tensors:
    if name.endswith('embed_positions.weight'):
      tensors[name][:2] = 0
  return tensors


def assert_same(net, other):
  for (path, mine), (theirs, w) in zip(numbers(net), numbers(other), strict=True):
    assert path == theirs and mine.dtype == w.dtype and np.array_equal(mine, w), path
  assert net.module == other.module


@pytest.mark.parametrize('form', FORMATS)
@pytest.mark.parametrize('family', [name for name in CONFIGS if name != 'gpt2'])
def test_packed_layers_are_read_back_to_the_bit(tmp_path, models, family, form):
  found = models(family)
  net = packed(found.net)
  again = opened.language_model(write(tmp_path / 'out', net, found, form, EXACT))
  assert_same(again.net, net)
  text = 'the film was not bad'
  assert again.encode(text) == found.encode(text)
  config = json.loads((tmp_path / 'out' / 'config.json').read_text())
  assert config['architectures'][0].endswith(('ForCausalLM', 'LMHeadModel'))
  assert config['torch_dtype'] == EXACT
  names = load_file(tmp_path / 'out' / 'model.safetensors')
  linears = [path for path, w in tree.named(net.params, is_packed) if is_packed(w)]
  assert len(linears) == sum(name.endswith(('qweight', 'weight_packed')) for name in names)
  assert len(before := as_read(found)) == len(set(before) & set(names)) + len(linears)
  assert all(np.allclose(before[n], w, atol=1e-7) for n, w in names.items() if n in before)


@pytest.mark.parametrize('family', CONFIGS)
def test_unpacked_folders_are_the_files_they_came_from(tmp_path, models, family):
  found = models(family)
  place = write(tmp_path / 'out', found.net, found, 'float32')
  before, after = as_read(found), load_file(place / 'model.safetensors')
  assert set(before) == set(after)
  # Gemma's norms are 1 + w - 1
  assert all(np.allclose(before[name], after[name], atol=1e-7) for name in before)


def test_losses_of_a_folder_read_back_are_those_of_the_net(tmp_path, models):
  found, tokens = models('llama'), np.arange(24).reshape(2, 12) % 50
  net = packed(found.net)
  half = opened.language_model(write(tmp_path / 'out', net, found, 'compressed-tensors', 'float16'))
  ours, theirs = (language.perplexity(n, tokens, Run())['perplexity'] for n in (net, half.net))
  assert np.allclose(ours, theirs, rtol=2e-3)
  assert (tmp_path / 'out' / 'tokenizer.json').exists()


def test_codes_go_from_one_format_to_another(tmp_path, models):
  found = models('qwen2')
  net, source = packed(found.net), found
  for i, form in enumerate([*FORMATS, 'awq-gemm']):
    source = opened.language_model(write(tmp_path / f'{i}', net, source, form, EXACT))
    assert_same(source.net, net)


def test_what_was_symmetric_has_zero_points_of_8_in_awq(tmp_path, models):
  net = packed(models('llama').net, Scheme(4, 32, symmetric=True))
  again = opened.language_model(write(tmp_path / 'a', net, models('llama'), 'awq-gemm', EXACT)).net
  leaves = [[x for _, x in tree.named(n.params, is_packed) if is_packed(x)] for n in (net, again)]
  for mine, theirs in zip(*leaves, strict=True):
    mine, theirs = (tree.map(np.asarray, x) for x in (mine, theirs))
    assert (theirs.zero == 8).all() and np.array_equal(dequantize(mine), dequantize(theirs))


def test_what_is_pruned_is_written_as_0(tmp_path, models):
  found = models('qwen3')
  masks = tree.map(lambda w: np.arange(w.size).reshape(w.shape) % 2 == 0, found.net.params)
  net = found.net.replace(params=tree.map(np.asarray, found.net.params), masks=masks)
  again = opened.language_model(write(tmp_path / 'out', net, found, 'float32'))
  for (path, w), mask in zip(numbers(again.net), tree.leaves(masks)):
    assert not w[~mask].any() and w[mask].any(), path


def test_rows_in_act_order_are_read_as_floats(tmp_path, models):
  found = models('llama')
  place = write(tmp_path / 'out', packed(found.net), found, 'gptq_v2', EXACT)
  file = load_file(place / 'model.safetensors')
  name = 'model.layers.1.mlp.up_proj'
  order = np.random.default_rng(0).permutation(64)
  file[f'{name}.g_idx'] = file[f'{name}.g_idx'][order]
  packing = Packing('gptq_v2', 4, 32, False)
  layer = quantization.unpack(packing, {
    last: file[f'{name}.{last}'] for last in ('qweight', 'qzeros', 'scales', 'g_idx')
  })  # fmt: skip
  save_file(file, place / 'model.safetensors')
  params = opened.language_model(place).net.params
  wanted = (layer.codes - layer.zero[layer.index].astype(np.float32)) * layer.scale[layer.index]
  assert np.array_equal(params['layer1']['mlp']['up']['kernel'][0], wanted)
  assert is_packed(params['layer1']['mlp']['down']['kernel'])


@pytest.mark.parametrize(
  'family, scheme, form, message',
  [
    ('llama', None, ('awq-gem',), "format='awq-gem' is unknown. Did you mean 'awq-gem"),
    ('llama', None, ('gptq', 'float8'), "dtype='float8' must be one of float16"),
    ('llama', None, ('gptq', 'q8_0'), "dtype='q8_0' must be one of float16"),
    ('llama', None, ('q4_0', 'bfloat16'), "GGUF files are not written in dtype='bfloat16'"),
    ('llama', None, ('gptq', 'float16', 0), 'shard=0 must be above 0'),
    ('llama', None, ('gptq',), 'gptq is for packed nets; put a stage such as awq before it'),
    ('gpt2', SCHEME, ('gptq_v2',), 'attn.c_attn has no layout in gptq_v2: it is no linear layer'),
    ('llama', Scheme(3, 32), ('awq-gemm',), 'awq packs 4 bits, not 3'),
    ('llama', Scheme(4, 'tensor'), ('gptq',), "group='tensor' is in none of these formats"),
    ('llama', Scheme(4, 64), ('awq-gemm',), r'mlp.down_proj: group=64 does not divide the 96 rows'),
    ('qwen3', SCHEME, ('q4_0',), 'q4_0 does not hold 4 bits with zero points; q4_1 does'),
    ('qwen3', Scheme(3, 32), ('q4_1',), 'q4_1 does not hold 3 bits with zero points; f16 does'),
    ('gemma', None, ('q8_0',), 'GGUF files are written of llama, mistral, qwen2, qwen3, not of g'),
    ('qwen3', None, ('q8_0',), "a tokenizer of kind 'WordLevel' is not written to GGUF files; BPE"),
  ],
)  # fmt: skip
def test_what_a_format_does_not_hold_is_refused_in_one_line(
  tmp_path, models, family, scheme, form, message
):
  net = packed(models(family).net, scheme) if scheme else models(family).net
  with pytest.raises(UsageError, match=message) as raised:
    write(tmp_path / 'out', net, models(family), *form)
  assert '\n' not in str(raised.value)
  if 'is for packed nets' not in message:  # which a net may still become
    with pytest.raises(UsageError, match=message):  # known before anything is packed
      written.fits(models(family).config, Format(*form), scheme, files=models(family).files())


def test_nets_of_another_shape_and_numbers_that_do_not_fit_are_refused(tmp_path, models):
  found = models('llama')
  with pytest.raises(UsageError, match='no longer the llama that its config'):
    write(tmp_path / 'a', found.net, found, 'float32', num_hidden_layers=3)
  net = Net(Served(found.net.module, 'token'), found.net.params)
  with pytest.raises(UsageError, match='inputs in 8 bits are in none of these formats'):
    write(tmp_path / 'b', net, found, 'float32')
  with pytest.raises(UsageError, match='inputs in 8 bits are in none of these formats'):
    written.fits(found.config, Format('float32'), SCHEME, 'token')
  large = found.net.replace(params=found.net.params | dict(norm=dict(scale=np.full((1, 64), 1e5))))
  with pytest.raises(UsageError, match=r'model.norm.weight has numbers up to 1e.05, too '):
    write(tmp_path / 'c', large, found, 'float16')


def test_damaged_layers_are_one_line(tmp_path, models):
  found = models('llama')
  place = write(tmp_path / 'out', packed(found.net), found, 'awq-gemm')
  file = load_file(place / 'model.safetensors')
  scales = file.pop('model.layers.0.mlp.up_proj.scales')
  save_file(file, place / 'model.safetensors')
  net = opened.language_model(place).net
  with pytest.raises(DataError, match=r'model.layers.0.mlp.up_proj: .*scales') as raised:
    jax.tree.map(np.asarray, net.params['layer0']['mlp']['up'])
  assert '\n' not in str(raised.value)
  wide = {f'model.layers.0.mlp.up_proj.{last}': np.concatenate([w, w], 1) for last, w in dict(
    scales=scales, qweight=file['model.layers.0.mlp.up_proj.qweight'],
    qzeros=file['model.layers.0.mlp.up_proj.qzeros']).items()}  # fmt: skip
  save_file(file | wide, place / 'model.safetensors')
  net = opened.language_model(place).net
  with pytest.raises(DataError, match=r'up_proj packs \[64, 192\] weights; config needs \[64, 9'):
    jax.tree.map(np.asarray, net.params['layer0']['mlp']['up'])


def worded(place, **change):
  """A Llama whose tokenizer fits into a GGUF file."""
  return opened.language_model(decoders.model(
    place, dict(SIZES, vocab_size=300, bos_token_id=295, eos_token_id=[296, 297]) | change,
    decoders.bytes_and_words(),
  ))  # fmt: skip


@pytest.mark.parametrize(
  'family, scheme, form',
  [
    ('llama', None, 'f32'), ('mistral', None, 'q8_0'), ('qwen2', Scheme(4, 32), 'q4_1'),
    ('llama', Scheme(4, 32, symmetric=True), 'q4_0'), ('qwen3', Scheme(8, 32, True), 'q8_0'),
    ('llama', Scheme(3, 32), 'f32'),
  ],
)  # fmt: skip
def test_gguf_files_hold_the_same_numbers(tmp_path, family, scheme, form):
  found = worded(tmp_path / 'in', model_type=family)
  (found.path / 'tokenizer_config.json').write_text('{"chat_template": "{{ messages }}"}')
  net = packed(found.net, scheme) if scheme else found.net
  again = opened.language_model(write(tmp_path / 'out', net, found, form, EXACT))
  for (path, mine), w in zip(tree.named(net.params, is_packed), tree.leaves(again.net.params)):
    mine, w = (np.asarray(dequantize(tree.map(np.asarray, mine)) if is_packed(mine) else mine), w)
    # offsets of Q4_1 are float16; Q8_0 of floats has 127 steps
    step = dict(q4_1=2.0**-11, q8_0=0.0 if scheme else 1 / 127)
    most = abs(mine).max() * step.get(form, 0.0) if path.endswith('kernel') else 0.0
    np.testing.assert_allclose(np.asarray(w), mine, rtol=0, atol=most, err_msg=path)
  assert again.net.module == found.net.module
  assert again.config['eos_token_id'] == 296 and again.config['bos_token_id'] == 295
  text = ' ab it12 \u00e9\n<|3|>'
  assert again.encode(text) == found.encode(text) and again.decode(again.encode(text)) == text
  # and back into a folder, with what a tokenizer needs
  back = opened.language_model(write(tmp_path / 'back', again.net, again, 'float32'))
  assert back.encode(text) == found.encode(text)
  told = json.loads((tmp_path / 'back' / 'tokenizer_config.json').read_text())
  assert told['chat_template'] == '{{ messages }}' and told['bos_token'] == again.decode([295])
  assert_same(back.net, again.net)


def test_words_are_in_blocks_of_8_bits_beside_blocks_of_4(tmp_path):
  found = worded(tmp_path / 'in')
  again = opened.language_model(write(tmp_path / 'out', found.net, found, 'q4_0', 'q8_0'))
  for (path, mine), w in zip(tree.named(found.net.params), tree.leaves(again.net.params)):
    steps = 8 if path.startswith('layer') else 127
    mine = np.asarray(mine)
    most = abs(mine).max() / steps if mine[0].ndim > 1 else 0.0
    np.testing.assert_allclose(np.asarray(w), mine, rtol=0, atol=most, err_msg=path)
  size = lambda form, *dtype: sum(
    file.stat().st_size
    for file in write(tmp_path / '-'.join((form, *dtype)), found.net, found, form, *dtype).iterdir()
  )
  assert size('q4_0', 'q8_0') < size('q4_0', 'float16') < size('f16')


def test_a_model_of_sentencepieces_kind_comes_back_from_gguf(tmp_path):
  if not (os.environ.get('REDUCTION_DATA') and stories().is_file()):
    pytest.skip('needs the folder stories260k in REDUCTION_DATA')
  found = opened.language_model(stories())
  again = opened.language_model(write(tmp_path / 'out', found.net, found, 'f32'))
  assert again.net.module == found.net.module
  for text in 'Once upon a time, there was a cat.', 'ünï 12\n  it':
    tokens = again.encode(text)  # llama2.c's own begin with token 1
    assert [1, *tokens] == found.encode(text) and again.decode(tokens) == text
  assert_same(again.net, found.net)


def stories():
  return pathlib.Path(os.environ['REDUCTION_DATA']) / 'stories260k' / 'stories260K.bin'


def test_groups_that_are_not_whole_blocks_are_refused_with_the_layer(tmp_path):
  found = worded(tmp_path / 'in')
  message = 'layers.0.self_attn.q_proj.weight: blocks are of 32 rows, which groups of 16'
  with pytest.raises(UsageError, match=message):
    write(tmp_path / 'out', packed(found.net, Scheme(4, 16)), found, 'q4_1')


def test_a_tokenizer_that_cuts_texts_otherwise_is_refused(tmp_path):
  words = decoders.bytes_and_words(r'\s+')
  config = dict(SIZES, vocab_size=300)
  found = opened.language_model(decoders.model(tmp_path / 'in', config, words))
  with pytest.raises(UsageError, match='cuts texts in a way that has no name here for GGUF files'):
    write(tmp_path / 'out', found.net, found, 'q8_0')
  short = dict(config, vocab_size=299)
  found = opened.language_model(decoders.model(tmp_path / 'short', short, words))
  with pytest.raises(DataError, match='has token 299, the embeddings only 299 rows'):
    write(tmp_path / 'more', found.net, found, 'q8_0')
