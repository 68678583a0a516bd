"""Llama (Touvron et al. 2023) and its relatives: decoders of text.

Mistral is the same net, Qwen2 has biases on queries, keys and values, Qwen3 normalizes the queries
and keys of each head, Gemma has another activation and scaled embeddings. `llama_files` reads them.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from reduction.errors import DataError, require

UNSEEN = -1e9  # the score of a key that comes later
NORMAL = nn.initializers.normal(0.02)
ACTIVATIONS = dict(silu=nn.silu, gelu=lambda x: nn.gelu(x, approximate=True))
MOST = dict(
  layers=1024, width=2**17, heads=1024, kv_heads=1024, size=2**12, inner=2**20,
  vocabulary=2**22, positions=2**27,
)  # fmt: skip


class Scaling(NamedTuple):
  """Llama 3's slower rotation, for texts longer than the first training had (Dubey et al. 2024).

  Pairs that turn less than `low` times in `positions` tokens turn `factor` times slower, those that
  turn more than `high` times as before, and between them it goes over linearly.
  """

  factor: float
  low: float
  high: float
  positions: int


class Attention(nn.Module):
  """Each position looks at itself and what came before, heads // kv_heads heads at each key."""

  heads: int
  kv_heads: int
  size: int
  theta: float
  scaling: Scaling | None
  epsilon: float
  bias: bool
  head_norm: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    n, length, width = x.shape
    split = lambda heads, name: _dense(heads * self.size, name, self.bias)(x).reshape(
      n, length, heads, self.size
    )
    query, key = split(self.heads, 'query'), split(self.kv_heads, 'key')
    value = split(self.kv_heads, 'value')
    if self.head_norm:
      query = _norm(self.epsilon, 'query_norm')(query)
      key = _norm(self.epsilon, 'key_norm')(key)
    turns = frequencies(self.size, self.theta, self.scaling)
    query, key = rotated(query, turns), rotated(key, turns)
    query = query.reshape(n, length, self.kv_heads, -1, self.size)
    scores = jnp.einsum('nqgrd,nkgd->ngrqk', query, key, preferred_element_type=jnp.float32)
    earlier = jnp.tri(length, dtype=bool)
    scores = jnp.where(earlier, scores * self.size**-0.5, UNSEEN)
    read = jnp.einsum('ngrqk,nkgd->nqgrd', nn.softmax(scores).astype(value.dtype), value)
    return _dense(width, 'output')(read.reshape(n, length, -1))


class Mlp(nn.Module):
  """Two linear layers, one of them gated by an activation, and one back."""

  inner: int
  activation: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    gate = ACTIVATIONS[self.activation](_dense(self.inner, 'gate')(x))
    return _dense(x.shape[-1], 'down')(gate * _dense(self.inner, 'up')(x))


class Layer(nn.Module):
  """A block: attention, then the gated layers; each reads a norm of x and is added to it.

  x: [n, length, width], positions 0 to length - 1.
  """

  heads: int
  kv_heads: int
  size: int
  inner: int
  theta: float
  scaling: Scaling | None
  epsilon: float
  bias: bool
  head_norm: bool
  activation: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    attention = Attention(
      self.heads, self.kv_heads, self.size, self.theta, self.scaling, self.epsilon, self.bias,
      self.head_norm, name='attention',
    )  # fmt: skip
    x += attention(_norm(self.epsilon, 'attention_norm')(x))
    return x + Mlp(self.inner, self.activation, name='mlp')(_norm(self.epsilon, 'mlp_norm')(x))


class Llama(nn.Module):
  """A decoder of 'embed', 'layer0', 'layer1'..., 'norm' and the linear layer 'out'.

  `llama` says what its settings mean, `parts` how to run it block by block.
  """

  layers: int
  width: int
  heads: int
  kv_heads: int
  size: int
  inner: int
  vocabulary: int
  positions: int
  theta: float
  scaling: Scaling | None
  epsilon: float
  bias: bool
  head_norm: bool
  activation: str
  scaled: bool
  tied: bool

  def setup(self):
    self.embed = nn.Embed(self.vocabulary, self.width, embedding_init=NORMAL)
    for i in range(self.layers):
      setattr(self, f'layer{i}', _layer(self))
    self.norm = _norm(self.epsilon)
    if not self.tied:
      self.out = _dense(self.vocabulary)

  def __call__(self, tokens: jax.Array, train: bool = False) -> jax.Array:
    """Logits [n, length, vocabulary], float32, of tokens int32 [n, length].

    Raises UsageError for more tokens than positions, DataError for tokens of another vocabulary
    where they are an array of NumPy; `checked` finds these in time where they go to a jitted
    function.
    """
    del train  # it leaves nothing out
    x = self.embedded(tokens)
    for i in range(self.layers):
      x = getattr(self, f'layer{i}')(x)
    return self.logits(x)

  def embedded(self, tokens):
    """What goes into the first layer."""
    length = tokens.shape[1]
    require(length <= self.positions, f'{length} tokens, but the model has {self.positions} places')
    if isinstance(tokens, np.ndarray):
      tokens = checked(tokens, self.vocabulary)
    x = self.embed(tokens)
    return x * jnp.asarray(math.sqrt(self.width), x.dtype) if self.scaled else x

  def logits(self, x):
    """What comes out, from what the last layer gave."""
    x = self.norm(x)
    return (self.embed.attend(x) if self.tied else self.out(x)).astype(jnp.float32)


def llama(
  *, layers: int, width: int, heads: int, inner: int, vocabulary: int, positions: int,
  kv_heads: int | None = None, size: int | None = None, theta: float = 10_000.0,
  scaling: tuple | None = None, epsilon: float = 1e-6, bias: bool = False,
  head_norm: bool = False, activation: str = 'silu', scaled: bool = False, tied: bool = False,
) -> Llama:  # fmt: skip
  """A net of the Llama family.

  inner: units of the gated layers. positions: the longest text. kv_heads: heads of keys and values,
  as many as heads if None. size: units of a head, width // heads if None. theta: the rotation's
  base. scaling: numbers of a `Scaling`. epsilon: of the norms. bias: on queries, keys and values.
  head_norm: queries and keys are normalized. activation: 'silu' or 'gelu' by tanh. scaled:
  embeddings are multiplied by sqrt(width). tied: the embeddings are also the last layer.
  Raises UsageError for values outside their ranges.
  """
  kv_heads = heads if kv_heads is None else kv_heads
  sizes = dict(layers=layers, width=width, heads=heads, inner=inner, vocabulary=vocabulary)
  for name, value in dict(sizes, positions=positions, kv_heads=kv_heads).items():
    whole(name, value, MOST[name])
  require(size is not None or width % heads == 0, f'{heads=} must divide {width=}, or give size')
  size = width // heads if size is None else size
  whole('size', size, MOST['size'])
  require(size % 2 == 0, f'{size=} must be even: a head is turned by pairs')
  require(heads % kv_heads == 0, f'{kv_heads=} must divide {heads=}')
  number('theta', theta, 1, 1e12)
  number('epsilon', epsilon, 0, 1)
  require(activation in ACTIVATIONS, f'{activation=} must be one of {", ".join(ACTIVATIONS)}')
  if scaling is not None:
    scaling = Scaling(*scaling)
    for name, most in dict(factor=1e6, low=1e6, high=1e6, positions=MOST['positions'] + 1).items():
      number(f'scaling {name}', getattr(scaling, name), 0, most)
    require(scaling.low < scaling.high, f'{scaling} needs a low below its high')
  return Llama(
    layers, width, heads, kv_heads, size, inner, vocabulary, positions, float(theta), scaling,
    float(epsilon), bias, head_norm, activation, scaled, tied,
  )  # fmt: skip


def parts(module: Llama) -> tuple[Callable, Layer, Callable]:
  """(embed, layer, head): a model one block after another, as `module` computes it.

    x = embed(params, tokens)  # [n, length, width]
    for i in range(module.layers):
      x = layer.apply({'params': params[f'layer{i}']}, x)
    logits = head(params, x)  # [n, length, vocabulary]

  embed reads 'embed' of params alone, head 'norm' and 'out' ('embed' where tied).
  """
  part = lambda method: lambda params, x: module.apply({'params': params}, x, method=method)
  return part(Llama.embedded), _layer(module), part(Llama.logits)


def checked(tokens, vocabulary: int) -> np.ndarray:
  """tokens as int32. Raises DataError where one is not in 0..vocabulary - 1: JAX would take another
  row or NaN without a word.
  """
  tokens = np.asarray(tokens)
  if tokens.dtype.kind not in 'iu':
    raise DataError(f'tokens are whole numbers, not {tokens.dtype}')
  wrong = (tokens < 0) | (tokens >= vocabulary)
  if wrong.any():
    at = tuple(map(int, np.argwhere(wrong)[0]))
    rule = f'none of 0..{vocabulary - 1}; is the tokenizer of another model?'
    raise DataError(f'token {tokens[at]} at {at} is {rule}')
  return tokens.astype(np.int32)


def frequencies(size: int, theta: float, scaling: Scaling | None = None) -> np.ndarray:
  """Radians that each of the size / 2 pairs of a head turns from one token to the next, float32."""
  turns = theta ** -(np.arange(0, size, 2) / size)
  if scaling is not None:
    often = scaling.positions * turns / (2 * math.pi)  # turns in so many tokens
    kept = np.clip((often - scaling.low) / (scaling.high - scaling.low), 0, 1)
    turns = turns * (kept + (1 - kept) / scaling.factor)
  return turns.astype(np.float32)


def rotated(x: jax.Array, turns) -> jax.Array:
  """x [n, length, heads, size], units i and i + size / 2 turned together by position * turns[i].

  The pairs are Hugging Face's; other files have 2 i and 2 i + 1 together (Su et al. 2021).
  """
  angle = jnp.arange(x.shape[1], dtype=jnp.float32)[:, None, None] * turns
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  one, other = jnp.split(x.astype(jnp.float32), 2, -1)
  turned = jnp.concatenate([one * cos - other * sin, other * cos + one * sin], -1)
  return turned.astype(x.dtype)


def whole(name, value, most) -> int:
  """value, a whole number from 1 to most."""
  good = type(value) is int and 1 <= value <= most
  require(good, f'{name}={value!r:.60} must be a whole number from 1 to {most:,}')
  return value


def number(name, value, low, high) -> float:
  """value, a number between low and high."""
  good = type(value) in (int, float) and low < value < high
  require(good, f'{name}={value!r:.60} must be a number above {low} and below {high:,}')
  return float(value)


def _layer(module) -> Layer:
  return Layer(
    module.heads, module.kv_heads, module.size, module.inner, module.theta, module.scaling,
    module.epsilon, module.bias, module.head_norm, module.activation,
  )  # fmt: skip


def _dense(units, name=None, bias=False):
  return nn.Dense(units, use_bias=bias, kernel_init=NORMAL, name=name)


def _norm(epsilon, name=None):
  return nn.RMSNorm(epsilon, name=name)
