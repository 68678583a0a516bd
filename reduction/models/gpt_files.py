"""GPT-2 and OPT in Hugging Face's files: their sizes in config.json, the names of their weights.

GPT-2's linear layers are [in, out] in its files, queries, keys and values in one. OPT's first two
positions are for padding, which is not computed here.
"""

from collections.abc import Mapping

import numpy as np

from reduction.models.decoder import MOST, number, whole
from reduction.models.decoder_files import Place, Weights, computed, kind, name_in_file, tied
from reduction.models.gpt import gpt

BY = 'models.gpt'
# model_type of a config.json -> what the file does not say
FAMILIES = dict(gpt2=dict(activation='gelu'), opt=dict(activation='relu', epsilon=1e-5))
READ = 'query', 'key', 'value'  # in the order of GPT-2's columns
PADDING = 2  # OPT's positions before the first
COMPUTED = dict(
  gpt2=dict(
    activation_function=('gelu_new', 'gelu_pytorch_tanh'), scale_attn_weights=(True,),
    scale_attn_by_inverse_layer_idx=(False,), reorder_and_upcast_attn=(False,),
    add_cross_attention=(False,), quantization_config=(None,),
  ),
  opt=dict(
    activation_function=('relu',), do_layer_norm_before=(True,), enable_bias=(True,),
    layer_norm_elementwise_affine=(True,), _remove_final_layer_norm=(False,),
    quantization_config=(None,),
  ),
)  # fmt: skip
NAMES = dict(
  gpt2=dict(
    layers='n_layer', width='n_embd', heads='n_head', inner='n_inner', vocabulary='vocab_size',
    positions='n_positions',
  ),
  opt=dict(
    layers='num_hidden_layers', width='hidden_size', heads='num_attention_heads', inner='ffn_dim',
    vocabulary='vocab_size', positions='max_position_embeddings',
  ),
)  # fmt: skip
MODULES = dict(
  gpt2={
    'embed': 'transformer.wte', 'positions': 'transformer.wpe', 'layer': 'transformer.h',
    'attention_norm': 'ln_1', **dict.fromkeys((f'attention/{n}' for n in READ), 'attn.c_attn'),
    'attention/output': 'attn.c_proj', 'mlp_norm': 'ln_2', 'mlp/inner': 'mlp.c_fc',
    'mlp/outer': 'mlp.c_proj', 'norm': 'transformer.ln_f', 'out': 'lm_head',
  },
  opt={
    'embed': 'model.decoder.embed_tokens', 'positions': 'model.decoder.embed_positions',
    'layer': 'model.decoder.layers', 'attention_norm': 'self_attn_layer_norm',
    'attention/query': 'self_attn.q_proj', 'attention/key': 'self_attn.k_proj',
    'attention/value': 'self_attn.v_proj', 'attention/output': 'self_attn.out_proj',
    'mlp_norm': 'final_layer_norm', 'mlp/inner': 'fc1', 'mlp/outer': 'fc2',
    'norm': 'model.decoder.final_layer_norm', 'out': 'lm_head',
  },
)  # fmt: skip
PREFIX = dict(gpt2='transformer.', opt='model.')
# what comes later as masks, and a number
UNUSED = dict(gpt2=('.attn.bias', '.attn.masked_bias'), opt=('decoder.version',))


def settings(config: dict) -> dict:
  """The sizes that a Hugging Face config.json gives, by `gpt`'s names.

  Raises UsageError for what these nets do not compute, and for sizes that cannot be.
  """
  family = kind(config, FAMILIES, BY)
  computed(config, COMPUTED[family], BY)
  found = dict(FAMILIES[family], tied=tied(config, True))
  for ours, theirs in NAMES[family].items():
    if theirs == 'n_inner' and config.get(theirs) is None:
      found[ours] = 4 * found['width']
    else:
      found[ours] = whole(f'config: {theirs}', config.get(theirs), MOST[ours])
  if family == 'opt':
    computed(config, dict(word_embed_proj_dim=(found['width'], None)), BY)
  else:
    name = 'layer_norm_epsilon'
    found['epsilon'] = number(f'config: {name}', config.get(name, 1e-5), 0, 1)
  gpt(**found)  # raises where sizes do not fit each other
  return found


def weights(tensors: Mapping[str, np.ndarray], config: dict, *, dtype=np.float32) -> Weights:
  """The weights of a Hugging Face file by path, 'layer0/mlp/inner/kernel' [in, out], as dtype.

  Nothing is read yet. Raises DataError, in one line, where some are missing or of another model.
  """
  where, family = places(config), config['model_type']
  return Weights(
    tensors, where, of=dict(gpt2='a gpt2', opt='an opt')[family], prefix=PREFIX[family],
    unused=UNUSED[family], dtype=dtype,
  )  # fmt: skip


def places(config: dict) -> dict[str, Place]:
  """Where each weight is in a file of such a config.json, by path."""
  sizes, family = settings(config), config['model_type']
  return {path: _place(path, shape, family) for path, shape in shapes(sizes).items()}


def shapes(sizes: dict) -> dict[str, tuple[int, ...]]:
  """The shape of each weight by path, in a net of these `settings`."""
  width, inner, vocabulary = (sizes[k] for k in ('width', 'inner', 'vocabulary'))
  norm = lambda name: {f'{name}/scale': (width,), f'{name}/bias': (width,)}
  linear = lambda name, rows, units: {f'{name}/kernel': (rows, units), f'{name}/bias': (units,)}
  layer = norm('attention_norm') | norm('mlp_norm')
  for name in (*READ, 'output'):
    layer |= linear(f'attention/{name}', width, width)
  layer |= linear('mlp/inner', width, inner) | linear('mlp/outer', inner, width)
  found = {'embed/embedding': (vocabulary, width), **norm('norm')}
  found['positions/embedding'] = (sizes['positions'], width)
  if not sizes['tied']:
    found['out/kernel'] = (width, vocabulary)
  for i in range(sizes['layers']):
    found |= {f'layer{i}/{path}': shape for path, shape in layer.items()}
  return found


def _place(path: str, shape: tuple[int, ...], family: str) -> Place:
  """Where a weight of this shape is in a file."""
  name, (*_, module, last) = name_in_file(path, MODULES[family]), path.split('/')
  if family == 'opt' and module == 'positions':
    padded = lambda w: np.pad(w, [(PADDING, 0), (0, 0)])
    return Place(name, (shape[0] + PADDING, shape[1]), lambda w: w[PADDING:], padded)
  if last == 'kernel' and (family == 'opt' or module == 'out'):
    return Place(name, shape[::-1], np.transpose, np.transpose)
  if family == 'gpt2' and module in READ:
    *rows, units = shape
    first = READ.index(module) * units
    # a copy, or each would keep all three
    return Place(name, (*rows, 3 * units), lambda w: w[..., first : first + units].copy())
  return Place(name, shape)
