"""GGUF files: written by the package gguf and read back, mutated, refused."""

import json
import pathlib
import struct

import numpy as np
import pytest

from reduction import tokenizer as words
from reduction.errors import DataError, MissingInput, UsageError, UserError
from reduction.formats import gguf, gguf_tokenizer, llama_cpp
from reduction.models.llama_files import settings, weights
from tests import decoders

writing = pytest.importorskip('gguf', reason='needs the package gguf: pip install -e .[llm]')

LAYERS, WIDTH, INNER, HEADS, KV_HEADS, VOCABULARY = 2, 64, 96, 4, 2, 300
TEXTS = 'ab 12', ' a  b\n\n3.14', 'ünï 漢 <|end|>', '', "it's a\tb"
MERGES = ['Ġ a', 'a b', 'Ġa b', 'i t', 'Ġ Ġ', '1 2']


def alphabet():
  """The characters that stand for bytes."""
  from tokenizers import pre_tokenizers

  return sorted(pre_tokenizers.ByteLevel.alphabet())


def tokens():
  made = [*alphabet(), *(merge.replace(' ', '') for merge in MERGES)]
  return [*made, *(f'<|{i}|>' for i in range(VOCABULARY - 1 - len(made))), '<|end|>']


def tensors(architecture, tied):
  """Random weights by GGUF's names, as Hugging Face has them."""
  random = np.random.default_rng(0)
  size = WIDTH // HEADS
  made = {'token_embd.weight': (VOCABULARY, WIDTH), 'output_norm.weight': (WIDTH,)}
  if not tied:
    made['output.weight'] = (VOCABULARY, WIDTH)
  for i in range(LAYERS):
    at, shared = f'blk.{i}', KV_HEADS * size
    made |= {f'{at}.{name}.weight': (WIDTH,) for name in ('attn_norm', 'ffn_norm')}
    made |= {f'{at}.{name}.weight': (WIDTH, WIDTH) for name in ('attn_q', 'attn_output')}
    made |= {f'{at}.{name}.weight': (shared, WIDTH) for name in ('attn_k', 'attn_v')}
    made |= {f'{at}.{name}.weight': (INNER, WIDTH) for name in ('ffn_gate', 'ffn_up')}
    made[f'{at}.ffn_down.weight'] = (WIDTH, INNER)
    if architecture == 'qwen2':
      units = dict(q=WIDTH, k=shared, v=shared)
      made |= {f'{at}.attn_{name}.bias': (count,) for name, count in units.items()}
    if architecture == 'qwen3':
      made |= {f'{at}.attn_{name}_norm.weight': (size,) for name in 'qk'}
  return {name: random.standard_normal(shape, np.float32) for name, shape in made.items()}


def paired(w, heads):
  """Rows as llama.cpp's converter of Hugging Face's Llamas turns them."""
  return w.reshape(heads, 2, len(w) // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def write(path, architecture='llama', tied=True, kind='F32', **change):
  """A small model in a file; change: fields without the architecture, None leaves one out."""
  writer = writing.GGUFWriter(path, architecture)
  fields = {
    'block_count': LAYERS, 'context_length': 128, 'embedding_length': WIDTH,
    'feed_forward_length': INNER, 'attention.head_count': HEADS,
    'attention.head_count_kv': KV_HEADS, 'attention.layer_norm_rms_epsilon': 0.5,
    'rope.freq_base': 1000.0,
  } | change  # fmt: skip
  for name, value in fields.items():
    add = dict(str='add_string', int='add_uint32', float='add_float32').get(type(value).__name__)
    if add:
      getattr(writer, add)(f'{architecture}.{name}', value)
  writer.add_tokenizer_model('gpt2')
  writer.add_tokenizer_pre('smollm')
  writer.add_token_list(tokens())
  writer.add_token_types([1] * (VOCABULARY - 1) + [3])
  writer.add_token_merges(MERGES)
  writer.add_eos_token_id(VOCABULARY - 1)
  writer.add_add_bos_token(False)
  kinds = writing.GGMLQuantizationType
  written = tensors(architecture, tied)
  for name, w in written.items():
    if architecture == 'llama' and ('attn_q' in name or 'attn_k' in name):
      w = paired(w, HEADS if 'attn_q' in name else KV_HEADS)
    how = kinds[kind] if w.ndim == 2 else kinds.F32
    writer.add_tensor(name, writing.quantize(w, how), raw_dtype=how)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return written


@pytest.fixture(scope='module')
def small(tmp_path_factory):
  """A sound file."""
  path = tmp_path_factory.mktemp('gguf') / 'small.gguf'
  write(path)
  return path


@pytest.mark.parametrize(
  'architecture, tied, kind',
  [
    ('llama', True, 'F32'), ('llama', False, 'Q8_0'), ('llama', True, 'Q4_1'),
    ('llama', True, 'F16'), ('llama', True, 'BF16'), ('qwen2', False, 'F32'),
    ('qwen3', True, 'Q4_0'),
  ],
)  # fmt: skip
def test_what_was_written_is_read(tmp_path, architecture, tied, kind):
  written = write(tmp_path / 'm.gguf', architecture, tied, kind)
  file = gguf.read(tmp_path / 'm.gguf')
  config = gguf.config(file)
  found = weights(gguf.tensors(file), config)
  assert settings(config) == dict(
    layers=LAYERS, width=WIDTH, heads=HEADS, kv_heads=KV_HEADS, size=16, inner=INNER,
    vocabulary=VOCABULARY, positions=128, theta=1000.0, epsilon=0.5, tied=tied, scaling=None,
    bias=architecture == 'qwen2', head_norm=architecture == 'qwen3', activation='silu',
    scaled=False,
  )  # fmt: skip
  assert config['eos_token_id'] == VOCABULARY - 1
  assert len(dict(found)) == len(written)
  how = writing.GGMLQuantizationType[kind]
  packed = lambda w: writing.dequantize(writing.quantize(w, how), how) if w.ndim == 2 else w
  names = {
    'embed/embedding': 'token_embd.weight', 'norm/scale': 'output_norm.weight',
    'layer1/attention/query/kernel': 'blk.1.attn_q.weight',
    'layer1/attention/key/kernel': 'blk.1.attn_k.weight',
    'layer0/attention/output/kernel': 'blk.0.attn_output.weight',
    'layer1/mlp/down/kernel': 'blk.1.ffn_down.weight',
    'layer1/mlp_norm/scale': 'blk.1.ffn_norm.weight',
  }  # fmt: skip
  names |= {} if tied else {'out/kernel': 'output.weight'}
  if architecture == 'qwen2':
    names['layer1/attention/key/bias'] = 'blk.1.attn_k.bias'
  if architecture == 'qwen3':
    names['layer1/attention/key_norm/scale'] = 'blk.1.attn_k_norm.weight'
  for ours, theirs in names.items():
    w = packed(written[theirs])
    assert np.array_equal(found[ours], w.T if ours.endswith('kernel') else w), ours


def test_texts_become_tokens_and_texts_again(small):
  encode, decode = gguf.tokenizer(gguf.read(small))
  number = {token: i for i, token in enumerate(tokens())}
  of = lambda *words: [number[word] for word in words]
  assert encode(' ab ab12') == of('Ġab', 'Ġab', '1', '2')  # digits never unite
  assert encode('it<|end|>a') == of('it', '<|end|>', 'a')
  assert all(decode(encode(text)) == text for text in TEXTS)
  for token in -1, VOCABULARY:
    with pytest.raises(DataError, match=f'token {token} is none of 0..{VOCABULARY - 1}'):
      decode([token])


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(architecture='gemma'), "is of 'gemma', not llama, qwen2, qwen3"),
    ({'rope.dimension_count': 8}, 'rotations of other sizes than 16'),
    ({'attention.value_length': 8}, 'values and rotations of other sizes than 16'),
    ({'block_count': None}, 'has no field llama.block_count'),
    ({'attention.head_count': 0}, 'num_attention_heads=0 is no number of units'),
    ({'attention.head_count': 3}, 'blk.0.attn_q.weight has 64 rows, which 3 heads do not share'),
    ({'attention.head_count': 'four'}, "num_attention_heads='four' is no number of units"),
    ({'rope.scaling.type': 'yarn'}, "rope_type='yarn'"),
    ({'rope.scaling.factor': 4.0}, "rope_type='linear'"),
    ({'embedding_length': 32}, 'needs numbers'),
    ({'block_count': 3}, "missing weights of a llama: 'model.layers.2"),
    ({'block_count': 1}, "unexpected weights of a llama: 'model.layers.1"),
    ({'context_length': 'long'}, "max_position_embeddings='long' must be a whole number"),
  ],
)
def test_models_that_are_not_computed_are_one_line(tmp_path, change, message):
  write(tmp_path / 'm.gguf', **change)
  with pytest.raises(UserError) as raised:
    file = gguf.read(tmp_path / 'm.gguf')
    dict(weights(gguf.tensors(file), gguf.config(file)))
  assert message in str(raised.value) and '\n' not in str(raised.value)


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(pre='tekken'), "tokenizer ('gpt2', 'tekken') is none of llama and, of gpt2, qwen2, "),
    (dict(model='bert'), "tokenizer ('bert', 'smollm') is none of"),
    (dict(model='llama'), 'has no field tokenizer.ggml.scores'),
    (dict(model='llama', scores=[0.5]), 'scores is no list of a number for each token'),
    (dict(add_bos_token=True), 'has no field tokenizer.ggml.bos_token_id'),
    (dict(add_bos_token=True, bos_token_id=10**6), 'bos_token_id=1000000 is no token'),
    (dict(merges=['a b c']), 'a merge not of two tokens'),
    (dict(merges=['Ġ never\n']), "merges do not fit the tokens ('"),
    (dict(tokens=['a', 'a']), 'has a token twice'),
    (dict(tokens=7), 'tokens is no list of strings'),
    (dict(merges=[1, 2]), 'merges is no list of strings'),
    (dict(token_type=3), 'token_type is no list of a kind for each token'),
    (dict(token_type=[3]), 'token_type is no list of a kind for each token'),
  ],
)
def test_other_tokenizers_are_one_line(small, change, message):
  file = gguf.read(small)
  file.fields.update({f'tokenizer.ggml.{name}': value for name, value in change.items()})
  with pytest.raises((UsageError, DataError)) as raised:
    gguf.tokenizer(file)
  assert message in str(raised.value) and '\n' not in str(raised.value)


def by_scores():
  """A tokenizer of SentencePiece's kind, whose texts begin with <s>."""
  bytes_ = [f'<0x{byte:02X}>' for byte in range(256)]
  unions = {'\u2581a': -1.0, 'ab': -2.0, '\u2581ab': -3.0, 'it': -4.0, '12': -5.0, '\u25811': -6.0}
  texts = ['<unk>', '<s>', '</s>', *bytes_, *'\u2581abit12', *unions]
  scores = [*[0.0] * (3 + 256), *[-9.0] * 7, *unions.values()]
  normal = list(range(3 + 256, len(texts)))
  found = words.by_scores(texts, scores, normal, '<unk>', prefix=True)
  found.add_special_tokens(['<unk>', '<s>', '</s>'])
  words.begins(found, '<s>', 1)
  return found, dict(bos_token_id=1, eos_token_id=2)


def of_bytes(cut):
  """A byte-level tokenizer that cuts texts as llama.cpp's `cut` does."""
  from tokenizers import pre_tokenizers

  found = decoders.bytes_and_words(gguf_tokenizer.CUTS[cut])
  if cut == 'gpt-2':
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  if cut == 'llama-bpe':
    words.begins(found, '<|3|>', found.token_to_id('<|3|>'))
  return found, dict(bos_token_id=found.token_to_id('<|3|>'), eos_token_id=296)


@pytest.mark.parametrize('kind', [*gguf_tokenizer.CUTS, 'by scores'])
def test_tokenizers_of_every_kind_come_back(kind):
  made, config = by_scores() if kind == 'by scores' else of_bytes(kind)
  fields = llama_cpp.vocabulary(json.loads(made.to_str()), config, made.get_vocab_size())
  file = gguf.File(pathlib.Path('m.gguf'), fields, {})
  again, (encode, decode) = gguf.made(file), gguf.tokenizer(file)
  begun = kind in ('by scores', 'llama-bpe')
  texts = 'a bit of it', ' ab ab 12', " ab's 1212 it\n\n a  b", 'ünï 漢 12 34', "it'd  \tab end"
  for text in texts:
    whole = made.encode(text).ids
    assert again.encode(text).ids == whole and (whole[0] == config['bos_token_id']) == begun
    tokens = made.encode(text, add_special_tokens=False).ids
    assert encode(text) == tokens and decode(tokens) == text


def header(*fields, weights=(), version=3):
  """A header of (name, type, value's bytes) and of weights as (name, shape, kind, offset)."""
  text = lambda s: struct.pack('<Q', len(s)) + s.encode()
  content = b'GGUF' + struct.pack('<IQQ', version, len(weights), len(fields))
  for name, kind, value in fields:
    content += text(name) + struct.pack('<I', kind) + value
  for name, shape, kind, offset in weights:
    content += text(name) + struct.pack(f'<I{len(shape)}Q', len(shape), *shape)
    content += struct.pack('<IQ', kind, offset)
  return content


HUGE = struct.pack('<Q', 2**60)


@pytest.mark.parametrize(
  'content, message',
  [
    (b'', 'ends within its header'),
    (b'GGUF', 'ends within its header'),
    (b'GGML' + bytes(60), 'is no GGUF of version 2 or 3'),
    (header(version=1), 'is no GGUF of version 2 or 3'),
    (header(version=3 << 24), 'is no GGUF of version 2 or 3'),
    (b'GGUF' + struct.pack('<IQQ', 3, 0, 2**60), 'ends within its header'),
    (b'GGUF' + struct.pack('<IQQ', 3, 2**60, 0), 'ends within its header'),
    (header(('a', 8, HUGE)), 'ends within its header'),
    (header(('a', 9, struct.pack('<I', 4) + HUGE)), 'ends within its header'),
    (header(('a', 9, struct.pack('<I', 8) + HUGE)), 'ends within its header'),
    (header(('a', 9, struct.pack('<I', 9) + HUGE)), 'a field of type 9 is not read'),
    (header(('a', 13, b'')), 'a field of type 13 is not read'),
    (header(('a', 0, b'1'), ('a', 0, b'1')), "has 'a' twice"),
    (header(('a', 8, struct.pack('<Q', 2) + b'\xff\xff')), 'is not UTF-8'),
    (header(('general.alignment', 4, bytes(4))), 'general.alignment=0 must be a multiple of 8'),
    (header(('general.alignment', 8, bytes(8))), "general.alignment='' must be"),
    (header(weights=[('a', (8, 8), 0, 0)]), "ends before 'a' does"),
    (header(weights=[('a', (2**62, 4), 0, 0)]), "ends before 'a' does"),
    (header(weights=[('a', (8,), 0, 2**63)]), "ends before 'a' does"),
    (header(weights=[('a', (8,), 0, 0)] * 2), "has 'a' twice"),
    (header(weights=[('a', (0, 8), 0, 0)]), "'a' has shape [8, 0]"),
    (header(weights=[('a', (1,) * 5, 0, 0)]), "'a' has shape"),
    (header(weights=[('a', (), 0, 0)]), "'a' has shape []"),
    (header(weights=[('a', (33,), 8, 0)]), 'rows of 33, not in blocks of 32'),
    (header(weights=[('a', (32,), 99, 0)]), 'of unknown kind 99'),
  ],
)
def test_malformed_files_are_one_line(tmp_path, content, message):
  path = tmp_path / 'm.gguf'
  path.write_bytes(content)
  with pytest.raises(DataError) as raised:
    gguf.read(path)
  assert message in str(raised.value) and '\n' not in str(raised.value)


def test_mutated_files_are_read_or_refused(tmp_path, small):
  whole, path, random = bytearray(small.read_bytes()), tmp_path / 'm.gguf', np.random.default_rng(0)
  refused, end = 0, len(whole) - sum(w.nbytes for w in tensors('llama', True).values())
  for i in range(300):
    content = whole.copy()
    if i % 3:  # bytes of the header, half of them outside the vocabulary
      for at in random.integers(0, (end, 700)[i % 2], 1 + i % 4):
        content[at] = random.choice([0, 1, 8, 9, 127, 255])
    else:
      content = content[: random.integers(0, len(whole))]
    path.write_bytes(content)
    try:
      file = gguf.read(path)
      dict(weights(gguf.tensors(file), gguf.config(file)))
      gguf.tokenizer(file)
    except UserError as error:
      refused += 1
      assert '\n' not in str(error)
  assert 150 < refused < 300


def test_what_is_missing_is_named(tmp_path, small, monkeypatch):
  with pytest.raises(MissingInput, match='is not there'):
    gguf.read(tmp_path / 'none.gguf')
  monkeypatch.setitem(__import__('sys').modules, 'gguf', None)
  with pytest.raises(MissingInput, match=r'pip install -e .\[llm\]'):
    gguf.read(small)
