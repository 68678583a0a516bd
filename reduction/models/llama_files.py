"""The Llama family in Hugging Face's files: its sizes in config.json, the names of its weights.

`formats.gguf` and `formats.llama2c` give both in the same names. Gemma's files hold the scales of
norms less one; here every norm multiplies by its 'scale', so that whoever folds something into a
norm need not know the family.
"""

from collections.abc import Mapping

import numpy as np

from reduction.errors import require
from reduction.models.decoder import MOST, number, whole
from reduction.models.decoder_files import Place, Weights, computed, kind, name_in_file, tied
from reduction.models.llama import Scaling, llama

BY = 'models.llama'
# model_type of a config.json -> what it adds to Llama, or leaves out of the file
FAMILIES = dict(
  llama={}, mistral={}, qwen2=dict(bias=True), qwen3=dict(head_norm=True, size=128),
  gemma=dict(activation='gelu', scaled=True, tied=True, size=256),
)  # fmt: skip
NAMES = dict(
  layers='num_hidden_layers', width='hidden_size', heads='num_attention_heads',
  kv_heads='num_key_value_heads', size='head_dim', inner='intermediate_size',
  vocabulary='vocab_size', positions='max_position_embeddings',
)  # fmt: skip
# Gemma was trained with the approximation by tanh, also where its file says 'gelu'
THEIRS = dict(silu=('silu', 'swish'), gelu=('gelu_pytorch_tanh', 'gelu'))
MODULES = {
  'embed': 'model.embed_tokens', 'layer': 'model.layers', 'attention_norm': 'input_layernorm',
  'attention/query': 'self_attn.q_proj', 'attention/key': 'self_attn.k_proj',
  'attention/value': 'self_attn.v_proj', 'attention/query_norm': 'self_attn.q_norm',
  'attention/key_norm': 'self_attn.k_norm', 'attention/output': 'self_attn.o_proj',
  'mlp_norm': 'post_attention_layernorm', 'mlp/gate': 'mlp.gate_proj', 'mlp/up': 'mlp.up_proj',
  'mlp/down': 'mlp.down_proj', 'norm': 'model.norm', 'out': 'lm_head',
}  # fmt: skip
UNUSED = ('rotary_emb.inv_freq',)  # the rotation as numbers, in old files


def settings(config: dict) -> dict:
  """The sizes that a Hugging Face config.json gives, by `llama`'s names.

  positions is the sliding window where there is one: shorter texts lie within it.
  Raises UsageError for what these nets do not compute, and for sizes that cannot be.
  """
  family = FAMILIES[kind(config, FAMILIES, BY)]
  found = dict(dict(activation='silu', bias=False, head_norm=False, scaled=False, tied=False,
                    size=None), **family)  # fmt: skip
  allowed = dict(
    attention_bias=(False, found['bias']), mlp_bias=(False,), partial_rotary_factor=(1,),
    quantization_config=(None,), hidden_act=THEIRS[found['activation']],
    hidden_activation=(None, *THEIRS[found['activation']]),
  )  # fmt: skip
  computed(config, allowed, BY)
  for ours, theirs in NAMES.items():
    optional = ours in ('kv_heads', 'size') and config.get(theirs) is None
    if not optional:
      found[ours] = whole(f'config: {theirs}', config.get(theirs), MOST[ours])
  found.setdefault('kv_heads', found['heads'])
  if found['size'] is None:
    found['size'] = found['width'] // found['heads']
    fits = found['size'] * found['heads'] == found['width']
    require(fits, 'config: num_attention_heads does not divide hidden_size; give head_dim')
  found['positions'] = _window(config, found['positions'])
  found['epsilon'] = number('config: rms_norm_eps', config.get('rms_norm_eps', 1e-6), 0, 1)
  found['theta'], found['scaling'] = _rotation(config)
  found['tied'] = tied(config, found['tied'])
  llama(**found)  # raises where sizes do not fit each other
  return found


def _window(config: dict, positions: int) -> int:
  """The longest text whose tokens all see each other."""
  kinds, window = config.get('layer_types'), config.get('sliding_window')
  kinds = ['sliding_attention'] if kinds is None else kinds
  known = ('full_attention', 'sliding_attention')
  listed = isinstance(kinds, list) and all(one in known for one in kinds)
  require(listed, f'config: layer_types={kinds!r:.60} must be of {", ".join(known)}')
  used = config.get('use_sliding_window') is not False and known[1] in kinds
  if window is None or not used:
    return positions
  return min(positions, whole('config: sliding_window', window, MOST['positions']))


def _rotation(config: dict) -> tuple[float, Scaling | None]:
  """(theta, scaling); newer files have both in rope_parameters."""
  given = config.get('rope_parameters')
  if given is None:
    scaling = config.get('rope_scaling')
    given = {} if scaling is None else scaling
  require(isinstance(given, dict), f'config: the rotation {given!r:.60} is no object')
  theta = given.get('rope_theta', config.get('rope_theta', 10_000.0))
  theta = number('config: rope_theta', theta, 1, 1e12)
  rope = given.get('rope_type', given.get('type', 'default'))
  if rope == 'default':
    return theta, None
  require(
    rope == 'llama3', f'config has rope_type={rope!r:.60}; {BY} computes default and llama3 only'
  )
  theirs = dict(factor='factor', low='low_freq_factor', high='high_freq_factor')
  numbers = {k: number(f'config: {n}', given.get(n), 0, 1e6) for k, n in theirs.items()}
  name = 'original_max_position_embeddings'
  places = whole(f'config: {name}', given.get(name), MOST['positions'])
  return theta, Scaling(**numbers, positions=places)


def weights(tensors: Mapping[str, np.ndarray], config: dict, *, dtype=np.float32) -> Weights:
  """The weights of a Hugging Face file by path, 'layer0/mlp/up/kernel' [in, out], as dtype.

  Nothing is read yet. Raises DataError, in one line, where some are missing or of another model.
  """
  where, of = places(config), f'a {config["model_type"]}'
  return Weights(tensors, where, of=of, prefix='model.', unused=UNUSED, dtype=dtype)


def places(config: dict) -> dict[str, Place]:
  """Where each weight is in a file of such a config.json, by path."""
  sizes, family = settings(config), config['model_type']
  return {path: _place(path, shape, family) for path, shape in shapes(sizes).items()}


def shapes(sizes: dict) -> dict[str, tuple[int, ...]]:
  """The shape of each weight by path, in a net of these `settings`."""
  width, inner, head_norm, bias = (sizes[k] for k in ('width', 'inner', 'head_norm', 'bias'))
  size, heads = sizes['size'], sizes['heads'] * sizes['size']
  shared = sizes['kv_heads'] * sizes['size']
  layer = {'attention_norm/scale': (width,), 'mlp_norm/scale': (width,)}
  for name, units in dict(query=heads, key=shared, value=shared).items():
    layer[f'attention/{name}/kernel'] = (width, units)
    if bias:
      layer[f'attention/{name}/bias'] = (units,)
  if head_norm:
    layer |= {'attention/query_norm/scale': (size,), 'attention/key_norm/scale': (size,)}
  layer |= {'attention/output/kernel': (heads, width), 'mlp/down/kernel': (inner, width)}
  layer |= {'mlp/gate/kernel': (width, inner), 'mlp/up/kernel': (width, inner)}
  found = {'embed/embedding': (sizes['vocabulary'], width), 'norm/scale': (width,)}
  if not sizes['tied']:
    found['out/kernel'] = (width, sizes['vocabulary'])
  for i in range(sizes['layers']):
    found |= {f'layer{i}/{path}': shape for path, shape in layer.items()}
  return found


def _place(path: str, shape: tuple[int, ...], family: str) -> Place:
  """Where a weight of this shape is in a file."""
  if path.endswith('/kernel'):
    return Place(_theirs(path), shape[::-1], np.transpose, np.transpose)
  if path.endswith('/scale') and family == 'gemma':
    whole, less = (lambda w, by=by: w.astype(np.float32) + by for by in (1, -1))
    return Place(_theirs(path), shape, whole, less)
  return Place(_theirs(path), shape)


def _theirs(path: str) -> str:
  """'layer3/mlp/up/kernel' -> 'model.layers.3.mlp.up_proj.weight'."""
  return name_in_file(path, MODULES)
