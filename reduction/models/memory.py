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
from reduction.kernels import attention
from reduction.models.decoder import attended
from reduction.models.served import alike, bare

STORED = 'float32', 'bfloat16', 'float16', 'int8'
PLACE = 'place'  # of the first token to come


def empty(module: nn.Module, n: int, places: int, stored: str = 'float32') -> dict:
  """The memory of a decoder for n texts of up to so many tokens, rounded up to whole blocks.

  Of each layer's attention: key and value [n, places, kv_heads * size], floats, or int8 with a
  scale for each token and head, scales [2, n, kv_heads, places]: accelerators keep arrays in tiles,
  which long last axes fill. stored: how they are kept; 'int8' takes a quarter of the bytes of
  'float32'. Raises UsageError for another.
  """
  require(stored in STORED, f'{stored=} must be one of {", ".join(STORED)}')
  heads, size = module.remembered
  places = -(-places // attention.BLOCK) * attention.BLOCK

  def remembered():
    zeros = lambda: jnp.zeros((n, places, heads * size), stored)
    scales = jnp.zeros((2, n, heads, places), jnp.float32)
    kept = dict(scales=scales) if stored == 'int8' else {}
    return dict(key=zeros(), value=zeros(), **kept, **{PLACE: jnp.int32(0)})

  layers = {f'layer{i}': dict(attention=remembered()) for i in range(module.layers)}
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
      scales.append(scale.swapaxes(1, 2))
    _put(module, name, new.reshape(*new.shape[:2], -1), start, 1)
  if scales:
    _put(module, 'scales', jnp.stack(scales), start, 3)
  stored = [module.get_variable('memory', name) for name in ('key', 'value', 'scales')]
  return attention.read(query, *stored, start).astype(value.dtype)


def _put(module, name, new, start, axis):
  old = module.get_variable('memory', name)
  update = jax.lax.dynamic_update_slice_in_dim
  module.put_variable('memory', name, update(old, new.astype(old.dtype), start, axis))


def _integers(x):
  """(x in int8, the scale of each token and head): the largest of a head is 127."""
  scale = jnp.maximum(abs(x).max(-1).astype(jnp.float32), 1e-30) / 127
  return jnp.round(x / scale[..., None]).astype(jnp.int8), scale


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
