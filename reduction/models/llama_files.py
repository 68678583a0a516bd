"""The Llama family in Hugging Face's files: its sizes in config.json, the names of its weights.

`formats.gguf` and `formats.llama2c` give both in the same names. Gemma's files hold the scales of
norms less one; here every norm multiplies by its 'scale', so that whoever folds something into a
norm need not know the family.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from reduction.errors import DataError, require
from reduction.models.llama import MOST, Scaling, llama, number, whole

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
LAYER = {
  'attention_norm/scale': 'input_layernorm.weight',
  'attention/query/kernel': 'self_attn.q_proj.weight',
  'attention/query/bias': 'self_attn.q_proj.bias',
  'attention/key/kernel': 'self_attn.k_proj.weight',
  'attention/key/bias': 'self_attn.k_proj.bias',
  'attention/value/kernel': 'self_attn.v_proj.weight',
  'attention/value/bias': 'self_attn.v_proj.bias',
  'attention/query_norm/scale': 'self_attn.q_norm.weight',
  'attention/key_norm/scale': 'self_attn.k_norm.weight',
  'attention/output/kernel': 'self_attn.o_proj.weight',
  'mlp_norm/scale': 'post_attention_layernorm.weight',
  'mlp/gate/kernel': 'mlp.gate_proj.weight',
  'mlp/up/kernel': 'mlp.up_proj.weight',
  'mlp/down/kernel': 'mlp.down_proj.weight',
}
OUTSIDE = {
  'embed/embedding': 'model.embed_tokens.weight',
  'norm/scale': 'model.norm.weight',
  'out/kernel': 'lm_head.weight',
}
UNUSED = 'rotary_emb.inv_freq'  # the rotation as numbers, in old files


def settings(config: dict) -> dict:
  """The sizes that a Hugging Face config.json gives, by `llama`'s names.

  positions is the sliding window where there is one: shorter texts lie within it.
  Raises UsageError for what these nets do not compute, and for sizes that cannot be.
  """
  kind = config.get('model_type')
  known = isinstance(kind, str) and kind in FAMILIES
  require(known, f'config has model_type={kind!r:.60}; models.llama knows {", ".join(FAMILIES)}')
  found = dict(dict(activation='silu', bias=False, head_norm=False, scaled=False, tied=False,
                    size=None), **FAMILIES[kind])  # fmt: skip
  allowed = dict(
    attention_bias=(False, found['bias']), mlp_bias=(False,), partial_rotary_factor=(1,),
    quantization_config=(None,), hidden_act=THEIRS[found['activation']],
    hidden_activation=(None, *THEIRS[found['activation']]),
  )  # fmt: skip
  for key, values in allowed.items():
    given = config.get(key, values[0])
    require(
      given in values,
      f'config has {key}={given!r:.60}; models.llama computes {values[0]!r} only',
    )
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
  found['tied'] = config.get('tie_word_embeddings', found['tied'])
  require(isinstance(found['tied'], bool), 'config: tie_word_embeddings is true or false')
  llama(**found)  # raises where sizes do not fit each other
  return found


def _window(config: dict, positions: int) -> int:
  """The longest text whose tokens all see each other."""
  kinds, window = config.get('layer_types'), config.get('sliding_window')
  kinds = ['sliding_attention'] if kinds is None else kinds
  known = ('full_attention', 'sliding_attention')
  listed = isinstance(kinds, list) and all(kind in known for kind in kinds)
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
  kind = given.get('rope_type', given.get('type', 'default'))
  if kind == 'default':
    return theta, None
  require(
    kind == 'llama3',
    f'config has rope_type={kind!r:.60}; models.llama computes default and llama3 only',
  )
  theirs = dict(factor='factor', low='low_freq_factor', high='high_freq_factor')
  numbers = {k: number(f'config: {n}', given.get(n), 0, 1e6) for k, n in theirs.items()}
  name = 'original_max_position_embeddings'
  places = whole(f'config: {name}', given.get(name), MOST['positions'])
  return theta, Scaling(**numbers, positions=places)


def weights(tensors: Mapping[str, np.ndarray], config: dict, *, dtype=np.float32) -> 'Weights':
  """The weights of a Hugging Face file by path, 'layer0/mlp/up/kernel' [in, out], as dtype.

  Nothing is read yet. Raises DataError, in one line, where some are missing or of another model.
  """
  return Weights(tensors, config, dtype)


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


class Weights(Mapping):
  """Weights by path, each read when asked for. Raises DataError where one has another shape."""

  def __init__(self, tensors: Mapping[str, np.ndarray], config: dict, dtype):
    sizes = settings(config)
    self._tensors, self._dtype, self._shapes = tensors, dtype, shapes(sizes)
    self._less_one = config['model_type'] == 'gemma'
    self._names = {path: _theirs(path) for path in self._shapes}
    known = {*self._names.values(), OUTSIDE['out/kernel']}  # some files of tied nets repeat it
    there = set(tensors)  # `in` would read each of them
    lacking = [theirs for theirs in self._names.values() if theirs not in there]
    more = sorted(name for name in there - known if not name.endswith(UNUSED))
    for kind, names in dict(missing=lacking, unexpected=more).items():
      first = ', '.join(f'{name!r:.99}' for name in names[:3])
      rest = f' and {len(names) - 3} more' if len(names) > 3 else ''
      if names:
        raise DataError(f'{kind} weights of a {config["model_type"]}: {first}{rest}')

  def __getitem__(self, path: str) -> np.ndarray:
    theirs, shape = self._names[path], self._shapes[path]
    w = np.asarray(self._tensors[theirs])
    in_file = shape[::-1] if path.endswith('/kernel') else shape
    if w.shape != in_file or w.dtype.kind not in 'fV':  # V: bfloat16
      needed = f'config needs numbers {list(in_file)}'
      raise DataError(f'{theirs} is {w.dtype} {list(w.shape)}; {needed}')
    if path.endswith('/kernel'):
      w = w.T
    if self._less_one and path.endswith('/scale'):
      w = w.astype(np.float32) + 1
    return w.astype(self._dtype, copy=False)

  def __contains__(self, path) -> bool:
    return path in self._names

  def __iter__(self) -> Iterator[str]:
    return iter(self._names)

  def __len__(self) -> int:
    return len(self._names)


def _theirs(path: str) -> str:
  """'layer3/mlp/up/kernel' -> 'model.layers.3.mlp.up_proj.weight'."""
  if path in OUTSIDE:
    return OUTSIDE[path]
  layer, rest = path.removeprefix('layer').split('/', 1)
  return f'model.layers.{layer}.{LAYER[rest]}'
