"""What attention remembers of earlier tokens: their keys and values, so that none is seen twice.

A decoder that is applied to {'params': ..., 'memory': ...}, mutable='memory', takes its tokens as
those that follow what it remembers. The arrays have the size of the longest text from the
beginning, so that one program serves every token; only the part that is filled is read.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from reduction import tree
from reduction.errors import require
from reduction.models.decoder import UNSEEN, attended
from reduction.models.served import alike, bare

BLOCK = 128  # places that are read at once
STORED = 'float32', 'bfloat16', 'float16', 'int8'
PLACE = 'place'  # of the first token to come


def empty(module: nn.Module, n: int, places: int, stored: str = 'float32') -> dict:
  """The memory of a decoder for n texts of up to so many tokens, rounded up to whole blocks.

  Of each layer's attention: key and value [n, places, kv_heads, size], floats, or int8 with a scale
  for each token and head, scales [2, n, places, kv_heads]. stored: how they are kept; 'int8' takes
  a quarter of the bytes of 'float32'. Raises UsageError for another.
  """
  require(stored in STORED, f'{stored=} must be one of {", ".join(STORED)}')
  heads, size = module.remembered
  places = -(-places // BLOCK) * BLOCK

  def attention():
    zeros = lambda: jnp.zeros((n, places, heads, size), stored)
    scales = jnp.zeros((2, n, places, heads), jnp.float32)
    kept = dict(scales=scales) if stored == 'int8' else {}
    return dict(key=zeros(), value=zeros(), **kept, **{PLACE: jnp.int32(0)})

  layers = {f'layer{i}': dict(attention=attention()) for i in range(module.layers)}
  return {**layers, PLACE: jnp.int32(0)}


def places(memory: dict) -> int:
  """How many tokens fit."""
  return memory['layer0']['attention']['key'].shape[1]


def at(memory: dict, place) -> dict:
  """The memory with the next token at this place: what was there and after it is forgotten."""
  named = tree.named(memory)
  moved = {path: place if path.rpartition('/')[2] == PLACE else x for path, x in named}
  return tree.nest(moved)


def place(module: nn.Module):
  """The place of the first token that a module is given."""
  return module.get_variable('memory', PLACE, 0)


def recalled(module: nn.Module, query, key, value) -> jax.Array:
  """`attended` to these tokens and to what the module, an attention, remembers, which they join.

  query: [n, length, heads, size], key and value: [n, length, kv_heads, size].
  """
  if not module.has_variable('memory', PLACE):
    return attended(query, key, value)
  start, scales = place(module), []
  for name, new in dict(key=key, value=value).items():
    if module.has_variable('memory', 'scales'):
      new, scale = _integers(new)
      scales.append(scale)
    _put(module, name, new, start, 1)
  if scales:
    _put(module, 'scales', jnp.stack(scales), start, 2)
  stored = [module.get_variable('memory', name) for name in ('key', 'value', 'scales')]
  return _read(query, *stored, start).astype(value.dtype)


def _put(module, name, new, start, axis):
  old = module.get_variable('memory', name)
  update = jax.lax.dynamic_update_slice_in_dim
  module.put_variable('memory', name, update(old, new.astype(old.dtype), start, axis))


def _integers(x):
  """(x in int8, the scale of each token and head): the largest of a head is 127."""
  scale = jnp.maximum(abs(x).max(-1).astype(jnp.float32), 1e-30) / 127
  return jnp.round(x / scale[..., None]).astype(jnp.int8), scale


def _read(query, key, value, scales, start):
  """Attention to the filled part, block after block, with a running softmax (Dao et al. 2022)."""
  n, length, heads, size = query.shape
  kv_heads = key.shape[2]
  query = query.reshape(n, length, kv_heads, -1, size).astype(jnp.float32) * size**-0.5
  own = start + jnp.arange(length)

  def block(b, state):
    top, total, sums = state
    cut = lambda x, axis: jax.lax.dynamic_slice_in_dim(x, b * BLOCK, BLOCK, axis)
    by = None if scales is None else cut(scales, 2).transpose(0, 1, 3, 2)[:, :, :, None, None]
    scores = jnp.einsum('nqgrd,nkgd->ngrqk', query, cut(key, 1).astype(jnp.float32))
    scores = scores if by is None else scores * by[0]
    later = b * BLOCK + jnp.arange(BLOCK) > own[:, None]
    scores = jnp.where(later, UNSEEN, scores)
    new = jnp.maximum(top, scores.max(-1))
    weights, before = jnp.exp(scores - new[..., None]), jnp.exp(top - new)
    total = total * before + weights.sum(-1)
    weights = weights if by is None else weights * by[1]
    seen = jnp.einsum('ngrqk,nkgd->ngrqd', weights, cut(value, 1).astype(jnp.float32))
    return new, total, sums * before[..., None] + seen

  shape = n, kv_heads, heads // kv_heads, length
  first = jnp.full(shape, UNSEEN), jnp.zeros(shape), jnp.zeros((*shape, size))
  _, total, sums = jax.lax.fori_loop(0, (start + length - 1) // BLOCK + 1, block, first)
  read = (sums / total[..., None]).transpose(0, 3, 1, 2, 4)
  return read.reshape(n, length, -1)


def parts(module) -> tuple:
  """(embed, layer, head): a decoder with a memory, one block after another; packed ones too.

    x = embed(params, tokens, place)  # [n, length, width]
    for i in range(module.layers):
      x, memory[f'layer{i}'] = layer(params[f'layer{i}'], memory[f'layer{i}'], x, place)
    logits = head(params, x)  # [n, length, vocabulary]

  place: of the first token. embed and head read of params what `models.decoder.parts` says.
  """
  whole = bare(module)
  first, last = ('embed', 'positions'), ('norm', 'embed' if whole.tied else 'out')
  some = lambda params, names: {name: params[name] for name in names if name in params}
  block = alike(whole.layer, module)

  def embed(params, tokens, place):
    variables = {'params': some(params, first), 'memory': {PLACE: place}}
    return module.apply(variables, tokens, method=type(whole).embedded)

  def layer(params, memory, x, place):
    variables = {'params': params, 'memory': at(memory, place)}
    x, changed = block.apply(variables, x, mutable='memory')
    return x, changed['memory']

  def head(params, x):
    return module.apply({'params': some(params, last)}, x, method=type(whole).logits)

  return embed, layer, head
