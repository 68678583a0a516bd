"""A recommender of titled items: what a user clicked on against what is offered (PLM-NR).

Tokens int32 [n, (history + candidates) * length], title after title, 0 where one has ended: first
the titles that a user clicked on, the rest of them empty, then those offered. The model of Wu et
al. 2022, section 'News recommendation', and of their code.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from reduction.errors import require
from reduction.models.bert import encoded


class Pool(nn.Module):
  """Additive attention: the mean of x [..., k, width] by softmax(w2 tanh(W1 x + b1) + b2)."""

  hidden: int

  @nn.compact
  def __call__(self, x: jax.Array, seen: jax.Array) -> jax.Array:
    """[..., width]; seen: bool [..., k], of which nothing else counts. Of nothing, 0."""
    scores = nn.Dense(1, name='query')(jnp.tanh(nn.Dense(self.hidden, name='key')(x)))[..., 0]
    # as exp(score) / (sum + 1e-8) of the authors, without its overflow
    weights = nn.softmax(jnp.where(seen, scores, -1e9))
    return jnp.einsum('...k,...kd->...d', jnp.where(seen, weights, 0.0), x)


class Titles(nn.Module):
  """A vector [n, out] of each title, tokens int32 [n, length]."""

  layers: int
  width: int
  heads: int
  inner: int
  vocabulary: int
  positions: int
  out: int
  hidden: int
  dropout: float

  @nn.compact
  def __call__(self, tokens: jax.Array, train: bool = False) -> jax.Array:
    x = encoded(self, tokens, train)
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return nn.Dense(self.out, name='reduce')(Pool(self.hidden, name='pool')(x, tokens > 0))


class Recommender(nn.Module):
  """Scores of what is offered: the user's vector, pooled over clicks, times each title's."""

  titles: Titles
  history: int
  classes: int  # titles offered in training; in tests there may be more
  length: int
  vocabulary: int

  @nn.compact
  def __call__(self, tokens: jax.Array, train: bool = False) -> jax.Array:
    """Logits [n, offered] of tokens int32 [n, (history + offered) * length]."""
    n, (count, rest) = len(tokens), divmod(tokens.shape[1], self.length)
    wanted = self.history + self.classes
    fits = not rest and (count == wanted or (count > wanted and not train))
    require(fits, f'{tokens.shape[1]} tokens are not {wanted} titles of {self.length}')
    titles = tokens.reshape(n * count, self.length)
    vectors = self.titles(titles, train).reshape(n, count, -1)
    clicked = (tokens.reshape(n, count, self.length)[:, : self.history] > 0).any(-1)
    user = Pool(self.titles.hidden, name='user')(vectors[:, : self.history], clicked)
    return jnp.einsum('nd,ncd->nc', user, vectors[:, self.history :])


def recommender(
  *, layers: int, width: int, heads: int, inner: int, vocabulary: int, history: int = 50,
  candidates: int = 5, length: int = 24, out: int = 64, hidden: int = 200, dropout: float = 0.2,
) -> Recommender:  # fmt: skip
  """PLM-NR; the defaults are the authors': 50 clicks, 1 + 4 titles of 24 tokens, vectors of 64."""
  sizes = dict(
    layers=layers, width=width, heads=heads, inner=inner, vocabulary=vocabulary, history=history,
    candidates=candidates, length=length, out=out, hidden=hidden,
  )  # fmt: skip
  for name, value in sizes.items():
    require(value > 0, f'{name}={value} must be above 0')
  require(width % heads == 0, f'{heads=} must divide {width=}')
  require(0 <= dropout < 1, f'{dropout=} must lie in [0, 1)')
  titles = Titles(layers, width, heads, inner, vocabulary, length, out, hidden, float(dropout))
  return Recommender(titles, history, candidates, length, vocabulary)
