"""BERT encoders (Devlin et al. 2019), and the names that their weights have in Hugging Face files.

Tokens are int32 [n, length], 0 where a sentence has ended. What a loss may want to look at is sown
in 'intermediates', with zeros where there is no token: 'embeddings/states' and 'layer0/states'
[n, length, width], 'layer0/first' [n, width] of the first token, 'layer0/attention/scores'
[n, heads, length, length] before the softmax.
"""

import re
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from reduction.errors import require

# encoder.layer.0.attention.self.query.weight: layer, module and kind of a weight
NAME = re.compile(r'(?:bert\.)?(?:encoder\.layer\.(\d+)\.)?(.*?)(?:\.([^.]*))?')
UNSEEN = -1e9  # the score of a key that is no token
POOLINGS = ('mean', 'first')
NORMAL = nn.initializers.normal(0.02)


class Embeddings(nn.Module):
  """The sum of what each token, its position and the first segment stand for, normalized."""

  vocabulary: int
  positions: int
  width: int
  dropout: float

  @nn.compact
  def __call__(self, tokens: jax.Array, train: bool = False) -> jax.Array:
    length = tokens.shape[1]
    require(length <= self.positions, f'{length} tokens, but the model has {self.positions} places')
    embed = lambda count, name: nn.Embed(count, self.width, embedding_init=NORMAL, name=name)
    x = embed(self.vocabulary, 'words')(tokens)
    x += embed(self.positions, 'positions')(jnp.arange(length))
    x = _norm('norm')(x + embed(2, 'types')(jnp.zeros((1, 1), jnp.int32)))
    return _seen(self, nn.Dropout(self.dropout, deterministic=not train)(x), tokens)


class Attention(nn.Module):
  """Each position looks at all tokens of its sentence."""

  heads: int

  @nn.compact
  def __call__(self, x: jax.Array, tokens: jax.Array) -> jax.Array:
    n, length, width = x.shape
    size = width // self.heads
    split = lambda name: _dense(width, name)(x).reshape(n, length, self.heads, size)
    query, key, value = map(split, ('query', 'key', 'value'))
    scores = jnp.einsum('nqhd,nkhd->nhqk', query, key) * size**-0.5
    scores = jnp.where((tokens > 0)[:, None, None, :], scores, UNSEEN)
    self.sow('intermediates', 'scores', scores)
    read = jnp.einsum('nhqk,nkhd->nqhd', nn.softmax(scores), value)
    return _dense(width, 'output')(read.reshape(n, length, width))


class Layer(nn.Module):
  """Attention, then two linear layers around an exact GELU; each is added to its input."""

  heads: int
  inner: int
  dropout: float

  @nn.compact
  def __call__(self, x: jax.Array, tokens: jax.Array, train: bool = False) -> jax.Array:
    drop = nn.Dropout(self.dropout, deterministic=not train)
    attended = Attention(self.heads, name='attention')(x, tokens)
    x = _norm('attention_norm')(x + drop(attended))
    inner = nn.gelu(_dense(self.inner, 'inner')(x), approximate=False)
    x = _norm('norm')(x + drop(_dense(x.shape[-1], 'outer')(inner)))
    return _seen(self, x, tokens)


def encoded(module: nn.Module, tokens: jax.Array, train: bool) -> jax.Array:
  """What the last layer gives, [n, length, width], inside a module that has the sizes of `Bert`."""
  x = Embeddings(
    module.vocabulary, module.positions, module.width, module.dropout, name='embeddings'
  )(tokens, train)
  for i in range(module.layers):
    x = Layer(module.heads, module.inner, module.dropout, name=f'layer{i}')(x, tokens, train)
  return x


class Bert(nn.Module):
  """An encoder of 'layer0', 'layer1'..., whose sentence vector the linear layer 'out' classifies.

  pooling: 'mean' over the tokens, or 'first', BERT's own: tanh of the layer 'pooler' on the first
  token. classes: 0 returns the sentence vector.
  """

  layers: int
  width: int
  heads: int
  inner: int
  vocabulary: int
  positions: int
  classes: int
  dropout: float
  pooling: str

  @nn.compact
  def __call__(self, tokens: jax.Array, train: bool = False) -> jax.Array:
    """Logits [n, classes] of tokens int32 [n, length]."""
    x = encoded(self, tokens, train)
    if self.pooling == 'mean':
      seen = (tokens > 0)[..., None]
      x = jnp.where(seen, x, 0.0).sum(1) / jnp.maximum(seen.sum(1), 1)
    else:
      x = jnp.tanh(_dense(self.width, 'pooler')(x[:, 0]))
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return _dense(self.classes, 'out')(x) if self.classes else x


def bert(
  *, layers: int, width: int, heads: int, inner: int, vocabulary: int, positions: int,
  classes: int = 2, dropout: float = 0.1, pooling: str = 'mean',
) -> Bert:  # fmt: skip
  """BERT of these sizes; inner: units between the two linear layers; positions: the longest text.

  dropout: the share of units left out after embeddings, attention and inner layers; attention
  itself drops nothing.
  """
  sizes = dict(layers=layers, width=width, heads=heads, inner=inner, vocabulary=vocabulary)
  for name, value in dict(sizes, positions=positions).items():
    require(value > 0, f'{name}={value} must be above 0')
  require(classes >= 0, f'{classes=} must not be negative')
  require(width % heads == 0, f'{heads=} must divide {width=}')
  require(0 <= dropout < 1, f'{dropout=} must lie in [0, 1)')
  require(pooling in POOLINGS, f'{pooling=} must be one of {", ".join(POOLINGS)}')
  return Bert(
    layers, width, heads, inner, vocabulary, positions, classes, float(dropout), pooling
  )


def settings(config: dict) -> dict:
  """The sizes that a Hugging Face config.json gives, by `bert`'s names.

  Raises UsageError for what this BERT does not compute: other positions, activations, epsilons.
  """
  for key, known in dict(
    position_embedding_type='absolute', hidden_act='gelu', layer_norm_eps=1e-12, type_vocab_size=2
  ).items():
    given = config.get(key, known)
    require(given == known, f'config.json has {key}={given!r}; models.bert computes {known!r} only')
  names = dict(
    layers='num_hidden_layers', width='hidden_size', heads='num_attention_heads',
    inner='intermediate_size', vocabulary='vocab_size', positions='max_position_embeddings',
  )  # fmt: skip
  for theirs in names.values():
    given = config.get(theirs)
    whole = isinstance(given, int) and not isinstance(given, bool)
    require(whole, f'config.json has {theirs}={given!r}, not a number of units')
  return {ours: config[theirs] for ours, theirs in names.items()}


OURS = {
  'embeddings.word_embeddings': 'embeddings/words',
  'embeddings.position_embeddings': 'embeddings/positions',
  'embeddings.token_type_embeddings': 'embeddings/types',
  'embeddings.LayerNorm': 'embeddings/norm',
  'attention.self.query': 'attention/query',
  'attention.self.key': 'attention/key',
  'attention.self.value': 'attention/value',
  'attention.output.dense': 'attention/output',
  'attention.output.LayerNorm': 'attention_norm',
  'intermediate.dense': 'inner',
  'output.dense': 'outer',
  'output.LayerNorm': 'norm',
  'pooler.dense': 'pooler',
  'classifier': 'out',
}
KINDS = dict(LayerNorm='scale', embeddings='embedding')  # of a 'weight', by its module


def weights(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The weights of a Hugging Face file by path, 'layer0/inner/kernel', as float32 [in, out].

  What is no weight of an encoder or a classifier (positions as numbers, word prediction) is left.
  """
  found = {}
  for name in tensors:
    layer, module, kind = NAME.fullmatch(name).groups()
    if module in OURS and kind in ('weight', 'bias'):
      w = np.asarray(tensors[name], np.float32)
      if kind == 'weight':
        kind = next((ours for end, ours in KINDS.items() if module.endswith(end)), 'kernel')
      place = OURS[module] if layer is None else f'layer{layer}/{OURS[module]}'
      found[f'{place}/{kind}'] = w.T if kind == 'kernel' else w
  return found


def _dense(width, name):
  return nn.Dense(width, kernel_init=NORMAL, name=name)


def _norm(name):
  return nn.LayerNorm(epsilon=1e-12, name=name)


def _seen(module, x, tokens):
  """x, after what losses may look at was sown."""
  states = jnp.where((tokens > 0)[..., None], x, 0.0)
  module.sow('intermediates', 'states', states)
  module.sow('intermediates', 'first', x[:, 0])
  return x
