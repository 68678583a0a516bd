"""Tiny language models of any family, and texts of the words of one, in their folders."""

import json

import numpy as np
from safetensors.numpy import save_file

from reduction import opened
from reduction.data import passages
from reduction.models.language import family
from tests.sentences import tokenizer

CONFIG = dict(
  model_type='llama', num_hidden_layers=2, hidden_size=32, num_attention_heads=4,
  num_key_value_heads=2, intermediate_size=48, vocab_size=50, max_position_embeddings=64,
  rms_norm_eps=1e-5, tie_word_embeddings=True,
)  # fmt: skip
WORDS = ['a', 'the', 'film', 'plot', 'was', 'is', 'and', 'very', 'not', 'good', 'bad']


def write(root):
  """Fills a data directory: tiny/, a model folder of random weights, and text.txt."""
  model(root / 'tiny', CONFIG)
  words = np.random.default_rng(0).choice(WORDS, 2_000)
  (root / 'text.txt').write_text(' '.join(words))


def model(folder, config, words=None):
  """A model folder of random weights. words: a `tokenizers.Tokenizer`; by default of 50 words."""
  folder.mkdir()
  (folder / 'config.json').write_text(json.dumps(config))
  tensors, random = {}, np.random.default_rng(0)
  for path, place in family(config).places(config).items():
    w = random.standard_normal(place.shape, np.float32)
    if len(w.shape) == 1:
      w = w / 4 + (path.endswith('scale') and config['model_type'] != 'gemma')
    elif path.endswith('kernel'):
      w *= place.shape[-1 if place.linear else 0] ** -0.5
    tensors[place.name] = w
  save_file(tensors, folder / 'model.safetensors')
  (folder / 'tokenizer.json').write_text((words or tokenizer()).to_str())
  return folder


def bytes_and_words(regex=None):
  """A `tokenizers.Tokenizer` of 300 tokens: bytes, a few unions of them, special ones.

  regex: how it cuts texts first; by default as SmolLM does, each digit for itself.
  """
  import tokenizers
  from tokenizers import decoders, models, pre_tokenizers, processors

  merges = [('\u0120', 'a'), ('a', 'b'), ('\u0120a', 'b'), ('i', 't'), ('1', '2'), ('\u0120', '1')]
  words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *map(''.join, merges)]
  special = [f'<|{i}|>' for i in range(300 - len(words))]
  number = {word: i for i, word in enumerate([*words, *special])}
  made = tokenizers.Tokenizer(models.BPE(vocab=number, merges=merges))
  first = pre_tokenizers.Digits(individual_digits=True)
  if regex:
    first = pre_tokenizers.Split(tokenizers.Regex(regex), 'isolated')
  bytelevel = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not regex)
  made.pre_tokenizer = pre_tokenizers.Sequence([first, bytelevel])
  made.decoder, made.post_processor = decoders.ByteLevel(), processors.ByteLevel()
  made.add_special_tokens(special)
  return made


def model_and_text(root, **change):
  """(the model in a data directory as it is opened, a few passages of its text)."""
  model = opened.language_model('tiny', root)
  how = dict(calibration='text.txt', test='text.txt', examples=8, length=16, test_passages=6)
  vocabulary = model.net.module.vocabulary
  how = dict(how, encode=model.encode, vocabulary=vocabulary, data_dir=root)
  return model, passages(**how | change)
