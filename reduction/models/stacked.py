"""The packed blocks of a Llama in one, so that a CPU takes a token through all of them at once.

Where a token meets its blocks one operation after another, half of its time goes to calls and to
operations of a few hundred numbers. Here the weights of all blocks lie in four arrays, one block's
beside the next's, and one native call does what is between the table of words and the last norm.
Prompts go through the module's own blocks, which read their part of the arrays.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from reduction import tree
from reduction.kernels import decoder_cpu
from reduction.kernels.int4_cpu import CpuWeight
from reduction.models import memory
from reduction.models.llama import Llama, frequencies
from reduction.models.merged import Part, is_kept
from reduction.models.served import Served, bare

BLOCKS = 'layers'  # in params, in place of 'layer0', 'layer1'...
LINEARS = {  # of a block, `merged`
  'together': 'attention/query/kernel',
  'output': 'attention/output/kernel',
  'gates': 'mlp/gate/kernel',
  'down': 'mlp/down/kernel',
}
VECTORS = {  # of a block, which it may lack but for the first
  'norms': ('attention_norm/scale', 'mlp_norm/scale'),
  'biases': ('attention/query/bias', 'attention/key/bias', 'attention/value/bias'),
  'head_norms': ('attention/query_norm/scale', 'attention/key_norm/scale'),
}


class Blocks(struct.PyTreeNode):
  """All blocks: of VECTORS, float32 [layers, those of a block one after another], of 0 where there
  are none; of LINEARS, each the columns of the first block, then of the next.
  """

  norms: jax.Array
  biases: jax.Array
  head_norms: jax.Array
  together: CpuWeight
  output: CpuWeight
  gates: CpuWeight
  down: CpuWeight
  parts: dict[str, Part]  # the linears that have no kernel of their own, alike in each

  @property
  def layers(self) -> int:
    """How many blocks."""
    return len(self.norms)


def fits(module, params: dict, stored: str) -> bool:
  """Whether the blocks are such: a Llama with SiLU between its gates, all linears in the order of
  the CPU's kernel and alike in every block, a memory of `decoder_cpu.STORED`.
  """
  whole = bare(module)
  if not (isinstance(module, Served) and isinstance(whole, Llama) and module.activations == 'none'):
    return False
  if whole.activation != 'silu':
    return False
  layers = [_leaves(params[f'layer{i}']) for i in range(whole.layers)]
  columns = _columns(whole)
  kinds = [{_kind(one[name], columns[field]) for one in layers} for field, name in LINEARS.items()]
  rounded = {kind and kind[-1] for kind in set().union(*kinds)}
  alike = all(len(kind) == 1 for kind in kinds) and len(rounded) == 1 and None not in rounded
  return alike and stored in decoder_cpu.STORED


def _columns(of: Llama) -> dict:
  together = (of.heads + 2 * of.kv_heads) * of.size
  return dict(together=together, output=of.width, gates=2 * of.inner, down=of.width)


def _leaves(layer) -> dict:
  return dict(tree.named(layer, is_kept))


def _kind(w, columns):
  """What weights side by side have in common; None for one of another order, of part tiles, or of
  other columns.
  """
  whole = isinstance(w, CpuWeight) and not w.fill and w.shape[1] == columns
  return (w.scheme, w.rows, str(w.scale.dtype), w.eight) if whole else None


def stacked(module, params: dict) -> dict:
  """params that `fits` with 'layers', `Blocks`, in place of each block. Takes the blocks out of
  the given dict as it goes, so that they are not kept twice.
  """
  layers = [_leaves(params.pop(f'layer{i}')) for i in range(bare(module).layers)]
  made = dict(parts={path: w for path, w in layers[0].items() if isinstance(w, Part)})
  for field, names in VECTORS.items():
    parts = [[one.pop(name) for name in names if name in one] for one in layers]
    whole = [jnp.concatenate(part) if part else jnp.zeros(0) for part in parts]
    made[field] = jnp.stack(whole).astype(jnp.float32)
  for field, name in LINEARS.items():
    parts = [one.pop(name) for one in layers]
    made[field] = jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)
  return params | {BLOCKS: Blocks(**made)}


def remembered(kept: dict) -> dict:
  """An empty memory with the layers in one: key [layers, n, places, kv_heads * size].

  kept: one of `memory.empty`; its shapes are enough, so that it need never be made.
  """
  layers = [kept[f'layer{i}'] for i in range(len(kept) - 1)]
  return jax.tree.map(lambda *like: jnp.zeros((len(like), *like[0].shape), like[0].dtype), *layers)


def token(module, blocks: Blocks, kept: dict, x, place) -> tuple:
  """(x, the memory) after all blocks. x: [1, 1, width] of the token at this place."""
  of = bare(module)
  linears, vectors = ([getattr(blocks, name) for name in kind] for kind in (LINEARS, VECTORS))
  y, attention = decoder_cpu.token(
    x.astype(jnp.float32), linears, vectors, kept['attention'], place, heads=of.heads,
    turns=frequencies(of.size, of.theta, of.scaling), epsilon=of.epsilon,
  )  # fmt: skip
  return y.astype(x.dtype), kept | dict(attention=attention)


def layer(module, blocks: Blocks, kept: dict, x, place, i) -> tuple:
  """(x, the memory) after block i, as the module computes it. x: [1, length, width]."""
  _, block, _ = memory.parts(module)
  mine = jax.tree.map(lambda part: lax.dynamic_index_in_dim(part, i, keepdims=False), kept)
  x, new = block(unstacked(module, blocks, i), mine, x, place)
  put = lambda whole, part: lax.dynamic_update_index_in_dim(whole, part, i, 0)
  return x, jax.tree.map(put, kept, jax.tree.map(jnp.asarray, new))


def unstacked(module, blocks: Blocks, i) -> dict:
  """The params of block i."""
  of = bare(module)
  shared = of.kv_heads * of.size
  ends = dict(biases=(of.heads * of.size, of.heads * of.size + shared))
  found = {}
  for field, names in VECTORS.items():
    own = getattr(blocks, field)[i]
    found |= dict(zip(names, jnp.split(own, ends.get(field, len(names))))) if own.size else {}
  for field, name in LINEARS.items():
    w = getattr(blocks, field)
    count = len(w.data) // blocks.layers
    cut = lambda part, n=count: lax.dynamic_slice_in_dim(part, i * n, n)
    found[name] = jax.tree.map(cut, w)
  return tree.nest(found | blocks.parts)
