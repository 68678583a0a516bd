"""GPT-2 (Radford et al. 2019) and OPT (Zhang et al. 2022): decoders whose positions are learned.

GPT-2 has GELU between its linear layers, OPT has ReLU. `gpt_files` reads both.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from reduction.errors import require
from reduction.models.decoder import MOST, NORMAL, choice, dense, number, taken, whole
from reduction.models.embed import Embed
from reduction.models.memory import place, recalled

ACTIVATIONS = dict(gelu=lambda x: nn.gelu(x, approximate=True), relu=nn.relu)


class Attention(nn.Module):
  """Each position looks at itself and what came before."""

  heads: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    n, length, width = x.shape
    split = lambda name: dense(width, name, True)(x).reshape(n, length, self.heads, -1)
    return dense(width, 'output', True)(recalled(self, *map(split, ('query', 'key', 'value'))))


class Mlp(nn.Module):
  """Two linear layers around an activation."""

  inner: int
  activation: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    inner = ACTIVATIONS[self.activation](dense(self.inner, 'inner', True)(x))
    return dense(x.shape[-1], 'outer', True)(inner)


class Layer(nn.Module):
  """A block: attention, then the linear layers; each reads a norm of x and is added to it.

  x: [n, length, width].
  """

  heads: int
  inner: int
  activation: str
  epsilon: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x += Attention(self.heads, name='attention')(_norm(self.epsilon, 'attention_norm')(x))
    return x + Mlp(self.inner, self.activation, name='mlp')(_norm(self.epsilon, 'mlp_norm')(x))


class Gpt(nn.Module):
  """A decoder of 'embed', 'positions', 'layer0', 'layer1'..., 'norm' and the linear layer 'out'.

  `gpt` says what its settings mean, `decoder.parts` how to run it block by block.
  """

  layers: int
  width: int
  heads: int
  inner: int
  vocabulary: int
  positions: int
  activation: str
  epsilon: float
  tied: bool

  def setup(self):
    self.embed = Embed(self.vocabulary, self.width, NORMAL)
    self.places = nn.Embed(self.positions, self.width, embedding_init=NORMAL, name='positions')
    for i in range(self.layers):
      setattr(self, f'layer{i}', self.layer)
    self.norm = _norm(self.epsilon)
    if not self.tied:
      self.out = dense(self.vocabulary)

  @property
  def remembered(self) -> tuple[int, int]:
    """(heads, units) of the keys of a token in one layer."""
    return self.heads, self.width // self.heads

  @property
  def layer(self) -> Layer:
    """One of its blocks, without weights."""
    return Layer(self.heads, self.inner, self.activation, self.epsilon)

  def __call__(self, tokens: jax.Array, train: bool = False) -> jax.Array:
    """Logits [n, length, vocabulary], float32, of tokens int32 [n, length].

    Raises UsageError for more tokens than positions, DataError for tokens of another vocabulary
    where they are an array of NumPy (see `decoder.checked`).
    """
    del train  # it leaves nothing out
    x = self.embedded(tokens)
    for i in range(self.layers):
      x = getattr(self, f'layer{i}')(x)
    return self.logits(x)

  def embedded(self, tokens):
    """What goes into the first layer."""
    positions = place(self) + jnp.arange(tokens.shape[1])
    # tokens that only fill up a batch may lie beyond the last place
    positions = jnp.minimum(positions, self.positions - 1)
    return self.embed(taken(tokens, self)) + self.places(positions)

  def logits(self, x):
    """What comes out, from what the last layer gave."""
    x = self.norm(x)
    return (self.embed.attend(x) if self.tied else self.out(x)).astype(jnp.float32)


def gpt(
  *, layers: int, width: int, heads: int, inner: int, vocabulary: int, positions: int,
  activation: str = 'gelu', epsilon: float = 1e-5, tied: bool = True,
) -> Gpt:  # fmt: skip
  """A net of GPT-2's kind.

  inner: units between the two linear layers. positions: the longest text. activation: 'gelu' by
  tanh (GPT-2) or 'relu' (OPT). epsilon: of the norms. tied: the embeddings are also the last layer.
  Raises UsageError for values outside their ranges.
  """
  sizes = dict(layers=layers, width=width, heads=heads, inner=inner, vocabulary=vocabulary)
  for name, value in dict(sizes, positions=positions).items():
    whole(name, value, MOST[name])
  require(width % heads == 0, f'{heads=} must divide {width=}')
  choice('activation', activation, ACTIVATIONS)
  number('epsilon', epsilon, 0, 1)
  return Gpt(
    layers, width, heads, inner, vocabulary, positions, activation, float(epsilon), tied
  )  # fmt: skip


def _norm(epsilon, name=None):
  # the fast variance, a difference of squares, loses a small one beside a large mean
  return nn.LayerNorm(epsilon, use_fast_variance=False, name=name)
