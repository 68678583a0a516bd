"""What decoders of text share: attention to what came before, tokens, running block by block.

A decoder is a module of 'embed', 'layer0', 'layer1'..., 'norm' and, unless `tied`, 'out', with the
methods `embedded` and `logits` and the property `layer`: `Llama` and `Gpt` are such.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from reduction.errors import DataError, require
from reduction.kernels.accelerator import UNSEEN

CACHED = 2**20  # scores at once
NORMAL = nn.initializers.normal(0.02)
MOST = dict(
  layers=1024, width=2**17, heads=1024, kv_heads=1024, size=2**12, inner=2**20,
  vocabulary=2**22, positions=2**27,
)  # fmt: skip


def parts(module: nn.Module) -> tuple[Callable, nn.Module, Callable]:
  """(embed, layer, head): a decoder one block after another, as `module` computes it.

    x = embed(params, tokens)  # [n, length, width]
    for i in range(module.layers):
      x = layer.apply({'params': params[f'layer{i}']}, x)
    logits = head(params, x)  # [n, length, vocabulary]

  embed reads 'embed' and, of a Gpt, 'positions' of params; head 'norm' and 'out' ('embed' where
  tied).
  """
  part = lambda method: lambda params, x: module.apply({'params': params}, x, method=method)
  return part(type(module).embedded), module.layer, part(type(module).logits)


def attended(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
  """What each position reads of itself and of what came before: [n, length, heads * size].

  query: [n, length, heads, size]; key, value: [n, length, kv_heads, size], each read by
  heads // kv_heads neighboring query heads.
  """
  n, length, heads, size = query.shape
  query = query.reshape(n, length, key.shape[2], -1, size)
  earlier = jnp.tri(length, dtype=bool)

  def weights(scores):
    return nn.softmax(jnp.where(earlier, scores * size**-0.5, UNSEEN)).astype(value.dtype)

  if jax.default_backend() != 'cpu' or n * heads * length**2 < CACHED:
    scores = jnp.einsum('nqgrd,nkgd->ngrqk', query, key, preferred_element_type=jnp.float32)
    return jnp.einsum('ngrqk,nkgd->nqgrd', weights(scores), value).reshape(n, length, -1)

  def alone(one):  # the scores of one key head stay in the cache: four times as fast
    query, key, value = one  # [heads // kv_heads * length, size], [length, size] twice
    scores = jnp.matmul(query, key.T, preferred_element_type=jnp.float32)
    return weights(scores.reshape(-1, length, length)).reshape(-1, length) @ value

  flat = lambda x, axes: x.transpose(axes).reshape(n * key.shape[2], -1, size)
  parts = flat(query, (0, 2, 3, 1, 4)), *(flat(x, (0, 2, 1, 3)) for x in (key, value))
  read = jax.lax.map(alone, parts).reshape(n, heads, length, size)
  return read.transpose(0, 2, 1, 3).reshape(n, length, -1)


def dense(units: int, name: str | None = None, bias: bool = False) -> nn.Dense:
  """A linear layer, of small weights at first."""
  return nn.Dense(units, use_bias=bias, kernel_init=NORMAL, name=name)


def taken(tokens, module: nn.Module):
  """tokens [n, length] as a decoder takes them.

  Raises UsageError for more than it has positions, DataError as `checked` where they are an array
  of NumPy: others may be traced.
  """
  length, positions = tokens.shape[1], module.positions
  require(length <= positions, f'{length} tokens, but the model has {positions} places')
  return checked(tokens, module.vocabulary) if isinstance(tokens, np.ndarray) else tokens


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


def whole(name: str, value, most: int) -> int:
  """value, a whole number from 1 to most."""
  good = type(value) is int and 1 <= value <= most
  require(good, f'{name}={value!r:.60} must be a whole number from 1 to {most:,}')
  return value


def number(name: str, value, low: float, high: float) -> float:
  """value, a number between low and high."""
  good = type(value) in (int, float) and low < value < high
  require(good, f'{name}={value!r:.60} must be a number above {low} and below {high:,}')
  return float(value)


def choice(name: str, value, known) -> str:
  """value, one of known."""
  good = isinstance(value, str) and value in known
  require(good, f'{name}={value!r:.60} must be one of {", ".join(known)}')
  return value
