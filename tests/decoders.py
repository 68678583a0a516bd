"""A tiny Llama with a tokenizer, and texts of its words, in their folders."""

import json

import numpy as np
from safetensors.numpy import save_file

from reduction.models.decoder_files import name_in_file
from reduction.models.llama_files import MODULES, settings, shapes
from tests.sentences import tokenizer

CONFIG = dict(
  model_type='llama', num_hidden_layers=2, hidden_size=32, num_attention_heads=4,
  num_key_value_heads=2, intermediate_size=48, vocab_size=50, max_position_embeddings=64,
  rms_norm_eps=1e-5, tie_word_embeddings=True,
)  # fmt: skip
WORDS = ['a', 'the', 'film', 'plot', 'was', 'is', 'and', 'very', 'not', 'good', 'bad']


def write(root):
  """Fills a data directory: tiny/, a model folder of random weights, and text.txt."""
  folder, random = root / 'tiny', np.random.default_rng(0)
  folder.mkdir()
  (folder / 'config.json').write_text(json.dumps(CONFIG))
  tensors = {}
  for path, shape in shapes(settings(CONFIG)).items():
    w = random.standard_normal(shape, np.float32)
    if len(shape) == 1:
      w = 1 + w / 4
    elif path.endswith('kernel'):
      w = np.ascontiguousarray(w.T) * shape[0] ** -0.5
    tensors[name_in_file(path, MODULES)] = w
  save_file(tensors, folder / 'model.safetensors')
  (folder / 'tokenizer.json').write_text(tokenizer().to_str())
  (root / 'text.txt').write_text(' '.join(random.choice(WORDS, 2_000)))
