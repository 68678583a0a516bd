"""BERT against a plain NumPy one that reads the file itself, made up or published."""

import math
import os
import pathlib

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from reduction import tree
from reduction.errors import UsageError
from reduction.formats import huggingface
from reduction.models.bert import bert, settings, weights
from reduction.net import Net, apply
from tests.sentences import CONFIG
from tests.sentences import model as write

TOKENS = np.array([[7, 3, 49, 8, 1, 0, 0, 0], [7, 8, 0, 0, 0, 0, 0, 0], [7, 1, 2, 3, 4, 5, 6, 8]])


def oracle(file, tokens, heads, layers):
  """(hidden states [n, length, width], pooled [n, width]) by the paper, one sentence at a time."""
  w = {name.removeprefix('bert.'): value.astype(np.float64) for name, value in file.items()}
  linear = lambda x, name: x @ w[f'{name}.weight'].T + w[f'{name}.bias']
  erf = np.vectorize(math.erf)

  def norm(x, name):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
    return x * w[f'{name}.weight'] + w[f'{name}.bias']

  hidden, pooled = [], []
  for ids in tokens:
    ids = ids[ids > 0]  # a sentence alone: no padding at all
    x = w['embeddings.word_embeddings.weight'][ids]
    x = x + w['embeddings.position_embeddings.weight'][: len(ids)]
    x = norm(x + w['embeddings.token_type_embeddings.weight'][0], 'embeddings.LayerNorm')
    for i in range(layers):
      at, parts = f'encoder.layer.{i}', []
      q, k, v = (linear(x, f'{at}.attention.self.{n}') for n in ('query', 'key', 'value'))
      size = x.shape[1] // heads
      for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        scores = np.exp(q[:, part] @ k[:, part].T / math.sqrt(size))
        parts.append(scores / scores.sum(1, keepdims=True) @ v[:, part])
      attended = linear(np.concatenate(parts, 1), f'{at}.attention.output.dense')
      x = norm(x + attended, f'{at}.attention.output.LayerNorm')
      inner = linear(x, f'{at}.intermediate.dense')
      inner = inner * 0.5 * (1 + erf(inner / math.sqrt(2)))
      x = norm(x + linear(inner, f'{at}.output.dense'), f'{at}.output.LayerNorm')
    hidden.append(x)
    pooled.append(np.tanh(linear(x[0], 'pooler.dense')))
  return hidden, pooled


def ours(folder, tokens, **how):
  """(module, params) with the weights of a model folder."""
  module = bert(**settings(huggingface.config(folder)), **how)
  found = weights(huggingface.tensors(folder))
  shapes = jax.eval_shape(module.init, jax.random.key(0), tokens)['params']
  params = tree.map_named(lambda path, w: found[path].reshape(w.shape), shapes)
  return module, params


def test_it_computes_what_the_paper_says(tmp_path):
  folder = write(tmp_path)
  file = load_file(folder / 'model.safetensors')
  hidden, pooled = oracle(file, TOKENS, heads=3, layers=2)
  means = np.stack([x.mean(0) for x in hidden])
  for pooling, vectors in dict(mean=means, first=np.stack(pooled)).items():
    module, params = ours(folder, TOKENS, classes=4, pooling=pooling)
    logits = vectors @ file['classifier.weight'].T + file['classifier.bias']
    np.testing.assert_allclose(apply(module, params, {}, TOKENS), logits, rtol=0, atol=2e-5)
    # more padding changes nothing
    longer = np.pad(TOKENS, ((0, 0), (0, 5)))
    np.testing.assert_allclose(apply(module, params, {}, longer), logits, rtol=0, atol=2e-5)


def test_what_losses_may_look_at_is_sown(tmp_path):
  from reduction.distill.matching import capture

  module, params = ours(write(tmp_path), TOKENS, classes=0)
  _, seen = capture(module, params, {}, TOKENS)
  hidden, _ = oracle(load_file(tmp_path / 'model.safetensors'), TOKENS, heads=3, layers=2)
  np.testing.assert_allclose(seen['layer1/states'][0, :5], hidden[0], rtol=0, atol=2e-5)
  assert not seen['layer1/states'][0, 5:].any()
  np.testing.assert_allclose(seen['layer1/first'][1], hidden[1][0], rtol=0, atol=2e-5)
  scores = seen['layer0/attention/scores']
  assert scores.shape == (3, 3, 8, 8) and (scores[0, :, :, 5:] < -1e8).all()
  assert seen['embeddings/states'].shape == (3, 8, 24)


def test_dropout_is_for_training_alone(tmp_path):
  module, params = ours(write(tmp_path), TOKENS, classes=4)
  net = Net(module, params)
  out = [net(TOKENS, train=True, rngs={'dropout': jax.random.key(k)})[0] for k in (0, 1)]
  assert not np.array_equal(*out) and np.array_equal(net(TOKENS), net(TOKENS))


def test_longer_texts_than_it_has_places_for_are_refused():
  module = bert(layers=1, width=8, heads=2, inner=8, vocabulary=50, positions=16)
  with pytest.raises(UsageError, match='17 tokens, but the model has 16 places'):
    module.init(jax.random.key(0), np.ones((1, 17), np.int32))


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(hidden_act='relu'), "hidden_act='relu'; models.bert computes 'gelu' only"),
    (dict(position_embedding_type='relative_key'), 'position_embedding_type'),
    (dict(hidden_size='24'), "hidden_size='24', not a number of units"),
    (dict(num_hidden_layers=True), 'num_hidden_layers=True'),
  ],
)
def test_other_kinds_of_bert_are_refused(change, message):
  with pytest.raises(UsageError, match=message.replace('.', r'\.')):
    settings(dict(CONFIG, **change))


@pytest.mark.skipif(
  not os.environ.get('REDUCTION_DATA')
  or not (pathlib.Path(os.environ['REDUCTION_DATA']) / 'all-MiniLM-L6-v2').is_dir(),
  reason='needs the folder all-MiniLM-L6-v2 in REDUCTION_DATA',
)
def test_published_weights_give_the_same_vectors():
  folder = pathlib.Path(os.environ['REDUCTION_DATA']) / 'all-MiniLM-L6-v2'
  tokens = np.array([[101, 7592, 2088, 102, 0, 0], [101, 2023, 2003, 1037, 3231, 102]])
  module, params = ours(folder, tokens, classes=0)
  hidden, _ = oracle(load_file(folder / 'model.safetensors'), tokens, heads=12, layers=6)
  means = np.stack([x.mean(0) for x in hidden])
  np.testing.assert_allclose(apply(module, params, {}, tokens), means, rtol=0, atol=2e-5)
