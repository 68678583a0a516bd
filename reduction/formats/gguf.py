"""GGUF, llama.cpp's files: settings, weights and tokenizer in one.

`config` and `tensors` speak the language of Hugging Face's files, so what reads those
(`models.llama_files`) reads these.
"""

import math
import re
from collections.abc import Callable

import numpy as np

from reduction import tokenizer as words
from reduction.errors import DataError, require
from reduction.formats.gguf_header import File, Packed, package
from reduction.formats.gguf_header import field as _field
from reduction.formats.gguf_header import read as read
from reduction.formats.gguf_tokenizer import made
from reduction.formats.gguf_tokenizer import tokenizer as tokenizer
from reduction.formats.tensors import Tensors, halves

PAIRED = ('llama',)  # queries and keys have neighbors turned together, unlike Hugging Face's
ARCHITECTURES = (*PAIRED, 'qwen2', 'qwen3')
BLOCK = re.compile(r'blk\.(\d+)\.(\w+)\.(weight|bias)')
OUTSIDE = {
  'token_embd.weight': 'model.embed_tokens.weight',
  'output_norm.weight': 'model.norm.weight',
  'output.weight': 'lm_head.weight',
}
LAYER = dict(
  attn_norm='input_layernorm', attn_q='self_attn.q_proj', attn_k='self_attn.k_proj',
  attn_v='self_attn.v_proj', attn_output='self_attn.o_proj', attn_q_norm='self_attn.q_norm',
  attn_k_norm='self_attn.k_norm', ffn_norm='post_attention_layernorm', ffn_gate='mlp.gate_proj',
  ffn_up='mlp.up_proj', ffn_down='mlp.down_proj',
)  # fmt: skip


def config(file: File) -> dict:
  """What a config.json would say of the model.

  Raises UsageError for another architecture and for a rotation that only llama.cpp computes,
  DataError where a field is missing.
  """
  fields, path = file.fields, file.path
  kind = fields.get('general.architecture')
  require(kind in ARCHITECTURES, f'{path} is of {kind!r:.60}, not {", ".join(ARCHITECTURES)}')
  scaled = 'it takes the scaled rotation of Llama 3 from a config.json only'
  require('rope_freqs.weight' not in file.packed, f'{path} has rope_freqs.weight; {scaled}')
  require(fields.get('split.count', 1) == 1, f'{path} is one of several parts; merge them first')
  given = lambda name, *default: _field(file, f'{kind}.{name}', *default)
  heads, width = given('attention.head_count'), given('embedding_length')
  found = dict(
    model_type=kind, hidden_size=width, num_hidden_layers=given('block_count'),
    num_attention_heads=heads, num_key_value_heads=given('attention.head_count_kv', heads),
    intermediate_size=given('feed_forward_length'),
    max_position_embeddings=given('context_length'), vocab_size=_table(file)[0],
    rms_norm_eps=given('attention.layer_norm_rms_epsilon'),
    rope_theta=given('rope.freq_base', 10_000.0), tie_word_embeddings='output.weight' not in
    file.packed, sliding_window=given('attention.sliding_window', None),
  )  # fmt: skip
  for name in 'num_attention_heads', 'num_key_value_heads', 'hidden_size':
    if type(found[name]) is not int or found[name] < 1:
      raise DataError(f'{path}: {name}={found[name]!r:.60} is no number of units')
  size = found['head_dim'] = given('attention.key_length', width // heads)
  same = given('attention.value_length', size) == given('rope.dimension_count', size) == size
  require(same, f'{path}: keys, values and rotations of other sizes than {size} are not computed')
  scaling = given('rope.scaling.type', 'linear' if given('rope.scaling.factor', 0) else 'none')
  found['rope_scaling'] = None if scaling == 'none' else dict(rope_type=scaling)
  for name in 'bos', 'eos':
    found[f'{name}_token_id'] = _field(file, f'tokenizer.ggml.{name}_token_id', None)
  return found


def tensors(file: File) -> Tensors:
  """The weights by Hugging Face's names, float32 [out, in], read and unpacked when asked for.

  Other names stay as they are. Raises as `config`, and DataError where a kind cannot be unpacked.
  """
  found, readers = config(file), {}
  paired = found['model_type'] in PAIRED
  heads = dict(attn_q=found['num_attention_heads'], attn_k=found['num_key_value_heads'])
  for name, packed in file.packed.items():
    block = BLOCK.fullmatch(name)
    layer, part, kind = block.groups() if block else (None, None, None)
    theirs = f'model.layers.{layer}.{LAYER[part]}.{kind}' if part in LAYER else name
    turned = heads.get(part) if paired else None
    readers[OUTSIDE.get(name, theirs)] = _reader(file.path, name, packed, turned)
  return Tensors(file.path, readers)


def _reader(path, name, packed: Packed, turned) -> Callable[[], np.ndarray]:
  """Unpacks one weight; turned: heads of queries or keys, whose rows are in pairs."""
  gguf = package()
  if turned and packed.shape[0] % (2 * turned):
    raise DataError(f'{path}: {name} has {packed.shape[0]} rows, which {turned} heads do not share')

  def read():
    data = np.fromfile(path, np.uint8, packed.size, offset=packed.offset)
    try:
      with np.errstate(all='ignore'):  # who asks looks for NaN
        kind = gguf.GGMLQuantizationType(packed.kind)
        rows = math.prod(packed.shape[:-1])
        w = gguf.dequantize(data.reshape(rows, -1), kind).reshape(packed.shape)
    except NotImplementedError as error:
      raise DataError(
        f'{path}: {name} is of kind {kind.name}, which gguf does not unpack'
      ) from error
    return halves(w, turned) if turned else w

  return read


def files(file: File) -> dict[str, str]:
  """What goes with the weights in a model folder: see `tokenizer.files`."""
  return words.files(made(file), config(file), file.fields.get('tokenizer.chat_template'))


def _table(file: File) -> tuple[int, ...]:
  """The shape of the embeddings."""
  if 'token_embd.weight' not in file.packed:
    raise DataError(f'{file.path} has no token_embd.weight')
  return file.packed['token_embd.weight'].shape
