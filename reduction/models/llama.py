"""Llama (Touvron et al. 2023) and its relatives: decoders of text.

Mistral is the same net, Qwen2 has biases on queries, keys and values, Qwen3 normalizes the queries
and keys of each head, Gemma has another activation and scaled embeddings. `llama_files` reads them.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from reduction.errors import require
from reduction.models.decoder import MOST, NORMAL, choice, dense, number, taken, whole
from reduction.models.embed import Embed
from reduction.models.memory import place, recalled

ACTIVATIONS = dict(silu=nn.silu, gelu=lambda x: nn.gelu(x, approximate=True))


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
    split = lambda heads, name: dense(heads * self.size, name, self.bias)(x).reshape(
      n, length, heads, self.size
    )
    query, key = split(self.heads, 'query'), split(self.kv_heads, 'key')
    value = split(self.kv_heads, 'value')
    if self.head_norm:
      query = _norm(self.epsilon, 'query_norm')(query)
      key = _norm(self.epsilon, 'key_norm')(key)
    turns = frequencies(self.size, self.theta, self.scaling)
    turned = lambda x: rotated(x, turns, place(self))
    return dense(width, 'output')(recalled(self, turned(query), turned(key), value))


class Mlp(nn.Module):
  """Two linear layers, one of them gated by an activation, and one back."""

  inner: int
  activation: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    gate = ACTIVATIONS[self.activation](dense(self.inner, 'gate')(x))
    return dense(x.shape[-1], 'down')(gate * dense(self.inner, 'up')(x))


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

  `llama` says what its settings mean, `decoder.parts` how to run it block by block.
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
    self.embed = Embed(self.vocabulary, self.width, NORMAL)
    for i in range(self.layers):
      setattr(self, f'layer{i}', self.layer)
    self.norm = _norm(self.epsilon)
    if not self.tied:
      self.out = dense(self.vocabulary)

  @property
  def remembered(self) -> tuple[int, int]:
    """(heads, units) of the keys of a token in one layer."""
    return self.kv_heads, self.size

  @property
  def layer(self) -> Layer:
    """One of its blocks, without weights."""
    return Layer(
      self.heads, self.kv_heads, self.size, self.inner, self.theta, self.scaling, self.epsilon,
      self.bias, self.head_norm, self.activation,
    )  # fmt: skip

  def __call__(self, tokens: jax.Array, train: bool = False) -> jax.Array:
    """Logits [n, length, vocabulary], float32, of tokens int32 [n, length].

    Raises UsageError for more tokens than positions, DataError for tokens of another vocabulary
    where they are an array of NumPy; `decoder.checked` finds these in time where they go to a
    jitted function.
    """
    del train  # it leaves nothing out
    x = self.embedded(tokens)
    for i in range(self.layers):
      x = getattr(self, f'layer{i}')(x)
    return self.logits(x)

  def embedded(self, tokens):
    """What goes into the first layer."""
    x = self.embed(taken(tokens, self))
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
  choice('activation', activation, ACTIVATIONS)
  if scaling is not None:
    scaling = Scaling(*scaling)
    for name, most in dict(factor=1e6, low=1e6, high=1e6, positions=MOST['positions'] + 1).items():
      number(f'scaling {name}', getattr(scaling, name), 0, most)
    require(scaling.low < scaling.high, f'{scaling} needs a low below its high')
  return Llama(
    layers, width, heads, kv_heads, size, inner, vocabulary, positions, float(theta), scaling,
    float(epsilon), bias, head_norm, activation, scaled, tied,
  )  # fmt: skip


def frequencies(size: int, theta: float, scaling: Scaling | None = None) -> np.ndarray:
  """Radians that each of the size / 2 pairs of a head turns from one token to the next, float32."""
  turns = theta ** -(np.arange(0, size, 2) / size)
  if scaling is not None:
    often = scaling.positions * turns / (2 * math.pi)  # turns in so many tokens
    kept = np.clip((often - scaling.low) / (scaling.high - scaling.low), 0, 1)
    turns = turns * (kept + (1 - kept) / scaling.factor)
  return turns.astype(np.float32)


def rotated(x: jax.Array, turns, start=0) -> jax.Array:
  """x [n, length, heads, size], units i and i + size / 2 turned together by position * turns[i].

  start: the first position. The pairs are Hugging Face's; other files have 2 i and 2 i + 1 together
  (Su et al. 2021).
  """
  positions = start + jnp.arange(x.shape[1], dtype=jnp.float32)
  angle = positions[:, None, None] * turns
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  one, other = jnp.split(x.astype(jnp.float32), 2, -1)
  turned = jnp.concatenate([one * cos - other * sin, other * cos + one * sin], -1)
  return turned.astype(x.dtype)


def _norm(epsilon, name=None):
  return nn.RMSNorm(epsilon, name=name)
