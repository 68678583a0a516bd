"""llama2.c's files: written by its own rules and read back, the published one, refusals."""

import itertools
import json
import math
import os
import pathlib
import struct

import jax
import numpy as np
import pytest

from reduction import tree
from reduction.errors import DataError, MissingInput
from reduction.formats import llama2c
from reduction.models.llama import llama
from reduction.models.llama_files import settings, weights

# width, inner, layers, heads, kv_heads, vocabulary, positions
SIZES = 16, 20, 2, 4, 2, 11, 8
PUBLISHED = pathlib.Path(os.environ.get('REDUCTION_DATA') or '.') / 'stories260k'
WORDS = 'a', 'b', 'c', ' ', 'ab', 'bc', ' a', 'abc', 'é', 'aa', 'cc', ' ab', 'aaa'


def model(path, tied=True):
  """Random weights as llama2.c exports them; returns the arrays in the file's order."""
  d, inner, layers, heads, kv_heads, vocabulary, positions = SIZES
  size, random = d // heads, np.random.default_rng(0)
  shapes = dict(
    embed=(vocabulary, d), att=(layers, d), wq=(layers, d, d), wk=(layers, kv_heads * size, d),
    wv=(layers, kv_heads * size, d), wo=(layers, d, d), ffn=(layers, d), w1=(layers, inner, d),
    w2=(layers, d, inner), w3=(layers, inner, d), final=(d,), real=(positions, size // 2),
    imaginary=(positions, size // 2),
  )  # fmt: skip
  if not tied:
    shapes['last'] = (vocabulary, d)
  arrays = {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()}
  header = [*SIZES[:5], vocabulary if tied else -vocabulary, positions]
  path.write_bytes(struct.pack('<7i', *header) + b''.join(w.tobytes() for w in arrays.values()))
  return arrays


def vocabulary(path, words=WORDS, alike=2):
  """A tokenizer's file: <unk>, <s>, </s>, the bytes, then words, later ones with lower scores.

  alike: so many have one score.
  """
  pieces = [b'<unk>', b'\n<s>\n', b'\n</s>\n', *(b'<0x%02X>' % i for i in range(256))]
  scores = [0.0] * len(pieces) + [-float(i // alike) for i in range(len(words))]
  pieces += [word.encode() for word in words]
  path.write_bytes(struct.pack('<i', max(map(len, pieces))) + b''.join(
    struct.pack('<fi', score, len(piece)) + piece for piece, score in zip(pieces, scores)
  ))  # fmt: skip
  return pieces, scores


def slowly(text, pieces, scores):
  """Tokens by llama2.c's own loop: the best pair of all, again and again."""
  tokens = []
  for character in ' ' + text:
    piece = character.encode()
    tokens += [pieces.index(piece)] if piece in pieces else [byte + 3 for byte in piece]
  while True:
    pairs = [pieces[a] + pieces[b] for a, b in itertools.pairwise(tokens)]
    known = [(scores[pieces.index(p)], -i) for i, p in enumerate(pairs) if p in pieces]
    if not known:
      return [1, *tokens]
    i = -max(known)[1]
    tokens[i : i + 2] = [pieces.index(pairs[i])]


@pytest.mark.parametrize('tied', [True, False])
def test_every_weight_is_read_from_its_place(tmp_path, tied):
  w = model(tmp_path / 'm.bin', tied)
  config, found = llama2c.config(tmp_path / 'm.bin'), llama2c.tensors(tmp_path / 'm.bin')
  assert config['tie_word_embeddings'] == tied and config['vocab_size'] == 11
  names = dict(
    att='input_layernorm', ffn='post_attention_layernorm', wv='self_attn.v_proj',
    wo='self_attn.o_proj', w1='mlp.gate_proj', w2='mlp.down_proj', w3='mlp.up_proj',
  )  # fmt: skip
  for i in range(2):
    for ours, theirs in names.items():
      assert np.array_equal(found[f'model.layers.{i}.{theirs}.weight'], w[ours][i])
  outside = {'model.embed_tokens': 'embed', 'model.norm': 'final'} | (
    {} if tied else {'lm_head': 'last'}
  )
  assert all(np.array_equal(found[f'{theirs}.weight'], w[n]) for theirs, n in outside.items())
  # a head of four rows: neighbors 0, 1 and 2, 3 are turned together; in halves they are 0, 2
  for name, heads in dict(q=4, k=2).items():
    order = [4 * h + i for h in range(heads) for i in (0, 2, 1, 3)]
    got = found[f'model.layers.1.self_attn.{name}_proj.weight']
    assert np.array_equal(got, w[f'w{name}'][1][order])
  assert len(weights(found, config)) == len(found) == 20 + (not tied)


@pytest.mark.parametrize(
  'change, message',
  [
    (lambda b: b[:-1], 'bytes, but its header stands for'),
    (lambda b: b + b'more', 'bytes, but its header stands for'),
    (lambda b: b[:20], 'begins with seven int32'),
    (lambda b: b'', 'has 0 bytes'),
    (lambda b: b'GGUF' + b[4:], 'is no llama2.c model'),
    (lambda b: struct.pack('<7i', *[2**31 - 1] * 7) + b[28:], 'is no llama2.c model'),
    (lambda b: struct.pack('<7i', *[2**30] * 3, 2**20, *[2**30] * 3) + b[28:], 'stands for'),
    (lambda b: struct.pack('<7i', 16, 20, -2, *SIZES[3:]) + b[28:], "'num_hidden_layers': -2"),
    (lambda b: struct.pack('<7i', 16, 20, 2, 3, 2, 11, 8) + b[28:], 'is no llama2.c model'),
    (lambda b: struct.pack('<7i', 16, 20, 2, 0, 2, 11, 8) + b[28:], 'is no llama2.c model'),
  ],
)
def test_malformed_models_are_one_line(tmp_path, change, message):
  path = tmp_path / 'm.bin'
  model(path)
  path.write_bytes(change(path.read_bytes()))
  with pytest.raises(DataError, match=message) as raised:
    llama2c.tensors(path)
  assert str(path) in str(raised.value) and '\n' not in str(raised.value)


def test_numbers_that_are_none_and_files_that_are_not_there(tmp_path):
  path = tmp_path / 'm.bin'
  model(path)
  path.write_bytes(path.read_bytes()[:28] + struct.pack('<f', math.nan) + path.read_bytes()[32:])
  with pytest.raises(DataError, match=r'embed_tokens.weight holds NaN'):
    llama2c.tensors(path)['model.embed_tokens.weight']
  for read in llama2c.tensors, llama2c.tokenizer:
    with pytest.raises(MissingInput, match='is not there'):
      read(tmp_path / 'none.bin')


def test_texts_are_united_as_llama2c_does(tmp_path):
  pieces, scores = vocabulary(tmp_path / 'tok.bin')
  encode, decode = llama2c.tokenizer(tmp_path / 'tok.bin')
  assert encode('') == [1] and decode([1]) == ''
  random = np.random.default_rng(0)
  for length in [*range(12), *[40] * 20]:
    text = ''.join(random.choice(list('aaabbc  é\nß漢'), length))
    tokens = encode(text)
    assert decode(tokens) == text
    assert tokens == (slowly(text, pieces, scores) if text else [1])
  assert decode([259, 260]) == 'ab' and decode([1, 262, 259]) == 'a' and decode([262]) == ' '
  assert decode([3 + 0xC3]) == '\N{REPLACEMENT CHARACTER}'  # half a character
  for token in -1, len(pieces):
    with pytest.raises(DataError, match=f'token {token} is none of 0..{len(pieces) - 1}'):
      decode([token])


def test_a_tokenizer_for_other_programs_gives_the_same_tokens(tmp_path):
  vocabulary(tmp_path / 'tok.bin', alike=1)
  encode, decode = llama2c.tokenizer(tmp_path / 'tok.bin')
  made = llama2c.made(tmp_path / 'tok.bin')
  random = np.random.default_rng(0)
  for length in [*range(12), *[40] * 20]:
    text = ''.join(random.choice(list('aaabbc  \u00e9\n\u00df\u6f22'), length))
    tokens = made.encode(text).ids
    assert tokens == encode(text) and made.decode(tokens) == decode(tokens) == text
  model(tmp_path / 'm.bin')
  files = llama2c.files(tmp_path / 'm.bin', tmp_path / 'tok.bin')
  assert json.loads(files['generation_config.json']) == dict(bos_token_id=1, eos_token_id=2)
  told = json.loads(files['tokenizer_config.json'])
  assert (told['bos_token'], told['eos_token'], told['model_max_length']) == ('<s>', '</s>', 8)


def test_long_texts_do_not_take_forever(tmp_path):
  vocabulary(tmp_path / 'tok.bin')
  encode, decode = llama2c.tokenizer(tmp_path / 'tok.bin')
  text = 'a ab abc ' * 5000
  assert decode(encode(text)) == text


@pytest.mark.parametrize(
  'change, message',
  [
    (lambda b: b[:-1], 'token 271 has score'),
    (lambda b: b[:-6], 'ends within token 271'),
    (lambda b: b'', 'holds 0 tokens'),
    (lambda b: b[:40], 'token 2 has score'),
    (lambda b: b[:8] + struct.pack('<i', -5) + b[12:], 'token 0 has score 0.0 and -5 bytes'),
    (lambda b: b[:8] + struct.pack('<i', 2**31 - 1) + b[12:], 'and 2147483647 bytes'),
    (lambda b: b[:4] + struct.pack('<f', math.nan) + b[8:], 'token 0 has score nan'),
    (lambda b: b.replace(b'<0x41>', b'<0x4x>'), 'has no token for byte 65'),
  ],
)
def test_malformed_tokenizers_are_one_line(tmp_path, change, message):
  path = tmp_path / 'tok.bin'
  vocabulary(path)
  path.write_bytes(change(path.read_bytes()))
  with pytest.raises(DataError, match=message) as raised:
    llama2c.tokenizer(path)
  assert str(path) in str(raised.value) and '\n' not in str(raised.value)


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason='needs the folder stories260k in REDUCTION_DATA')
def test_the_published_model_tells_its_story():
  config = llama2c.config(PUBLISHED / 'stories260K.bin')
  module = llama(**settings(config))
  params = tree.nest(dict(weights(llama2c.tensors(PUBLISHED / 'stories260K.bin'), config)))
  assert tree.size(params) == 260_032
  encode, decode = llama2c.tokenizer(PUBLISHED / 'tok512.bin')
  run = jax.jit(lambda tokens: module.apply({'params': params}, tokens))
  tokens, told = np.zeros((1, 64), np.int32), encode('Once upon a time')
  expected = (
    'Once upon a time, there was a little girl named Lily. She loved to play outside in the park. '
    'One day, she saw a big, red ball.'
  )
  while len(decode(told)) < len(expected) and len(told) < 64:
    tokens[0, : len(told)] = told
    told.append(int(run(tokens)[0, len(told) - 1].argmax()))
  assert decode(told) == expected
