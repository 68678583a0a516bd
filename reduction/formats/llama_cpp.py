"""What llama.cpp wants to know of a model of the Llama family: metadata, names, a vocabulary.

`formats.gguf` reads most of it back. The vocabulary comes out of a tokenizer.json: a byte-level BPE
whose way to cut texts llama.cpp has a name for, or a BPE that falls back to bytes (SentencePiece's
kind), which llama.cpp unites by scores.

github.com/ggml-org/llama.cpp, gguf-py/gguf/constants.py and convert_hf_to_gguf.py.
"""

import numpy as np

from reduction.errors import DataError, require
from reduction.formats.gguf import LAYER, OUTSIDE
from reduction.formats.gguf_tokenizer import BYTE, CONTROL, CUTS, NORMAL, UNKNOWN, UNUSED, USER
from reduction.formats.tensors import pairs

# model_type of a config.json -> architecture; queries and keys of 'llama' have their rows in pairs
ARCHITECTURES = dict(llama='llama', mistral='llama', qwen2='qwen2', qwen3='qwen3')
FILE_TYPES = dict(f32=0, f16=1, q4_0=2, q4_1=3, q8_0=7)


def metadata(sizes: dict, config: dict, kind: str) -> dict:
  """The fields of a model, but for its vocabulary.

  sizes: by `llama`'s names; config: as config.json has it; kind: of FILE_TYPES, of most weights.
  Raises UsageError for another architecture, and for the scaled rotation of Llama 3.
  """
  given = config['model_type']
  known = given in ARCHITECTURES
  require(known, f'GGUF files are written of {", ".join(ARCHITECTURES)}, not of {given}')
  require(sizes['scaling'] is None, 'the scaled rotation of Llama 3 is not written to GGUF files')
  arch, size = ARCHITECTURES[given], sizes['size']
  fields = {
    'block_count': sizes['layers'], 'context_length': config['max_position_embeddings'],
    'embedding_length': sizes['width'], 'feed_forward_length': sizes['inner'],
    'attention.head_count': sizes['heads'], 'attention.head_count_kv': sizes['kv_heads'],
    'attention.key_length': size, 'attention.value_length': size, 'rope.dimension_count': size,
    'attention.layer_norm_rms_epsilon': sizes['epsilon'], 'rope.freq_base': sizes['theta'],
    'vocab_size': sizes['vocabulary'],
  }  # fmt: skip
  if sizes['positions'] < config['max_position_embeddings']:
    fields['attention.sliding_window'] = sizes['positions']
  return {
    'general.architecture': arch, 'general.file_type': FILE_TYPES[kind],
    'general.quantization_version': 2, **{f'{arch}.{name}': x for name, x in fields.items()},
  }  # fmt: skip


def name(theirs: str) -> str:
  """'model.layers.3.mlp.up_proj.weight' -> 'blk.3.ffn_up.weight'."""
  outside = {theirs: ours for ours, theirs in OUTSIDE.items()}
  if theirs in outside:
    return outside[theirs]
  number, _, rest = theirs.removeprefix('model.layers.').partition('.')
  module, _, last = rest.rpartition('.')
  return f'blk.{number}.{dict(zip(LAYER.values(), LAYER))[module]}.{last}'


def turned(theirs: str, w: np.ndarray, sizes: dict, config: dict) -> np.ndarray:
  """Rows [out, ...] of a weight as llama.cpp has them: of queries and keys of a llama in pairs."""
  if ARCHITECTURES[config['model_type']] != 'llama':
    return w
  heads = {'q_proj': sizes['heads'], 'k_proj': sizes['kv_heads']}.get(theirs.split('.')[-2])
  return pairs(w, heads) if heads else w


def vocabulary(tokenizer: dict, config: dict, count: int, template: str | None = None) -> dict:
  """The fields of a tokenizer.

  tokenizer: the content of a tokenizer.json; count: rows of the embeddings. template: for chats.
  Raises UsageError for a tokenizer that llama.cpp has no name for, DataError for one that does not
  fit the embeddings.
  """
  model = tokenizer.get('model') or {}
  require(
    model.get('type') == 'BPE',
    f'a tokenizer of kind {model.get("type")!r:.60} is not written to GGUF files; BPE is',
  )
  added = {token['id']: token for token in tokenizer.get('added_tokens', [])}
  words = {number: token for token, number in model['vocab'].items()}
  words |= {number: token['content'] for number, token in added.items()}
  if max(words) >= count:
    raise DataError(f'the tokenizer has token {max(words)}, the embeddings only {count} rows')
  tokens = [words.get(i, f'[PAD{i}]') for i in range(count)]
  kinds = [NORMAL if i in words else UNUSED for i in range(count)]
  for number, token in added.items():
    kinds[number] = CONTROL if token.get('special') else USER
  merges = [pair if isinstance(pair, str) else ' '.join(pair) for pair in model['merges']]
  fields = dict(tokens=tokens, token_type=kinds, add_bos_token=_begins(tokenizer, config))
  if model.get('byte_fallback'):
    fields |= _by_scores(tokenizer, fields, merges)
  else:
    fields |= dict(model='gpt2', pre=_cut(tokenizer), merges=merges)
  for name in 'bos', 'eos':
    found = config.get(f'{name}_token_id')
    found = found[0] if isinstance(found, list) and found else found
    fields |= {} if found is None else {f'{name}_token_id': found}
  named = {f'tokenizer.ggml.{name}': value for name, value in fields.items()}
  return named | ({} if template is None else {'tokenizer.chat_template': template})


def _begins(tokenizer: dict, config: dict) -> bool:
  """Whether a text is begun with the token for it."""
  steps = tokenizer.get('post_processor') or {}
  for step in [steps, *steps.get('processors', [])]:
    first = (step.get('single') or [{}])[0].get('SpecialToken', {}).get('id')
    ids = step.get('special_tokens', {}).get(first, {}).get('ids', [])
    if ids and ids[0] == config.get('bos_token_id'):
      return True
  return False


def _by_scores(tokenizer, fields, merges) -> dict:
  """The fields of SentencePiece's kind: what unites first scores most."""
  tokens, kinds = fields['tokens'], list(fields['token_type'])
  number = {token: i for i, token in enumerate(tokens)}
  scores = [-float(len(merges))] * len(tokens)
  for rank, merge in reversed(list(enumerate(merges))):  # the first that makes a token counts
    scores[number[merge.replace(' ', '')]] = -float(rank)
  for token in (f'<0x{byte:02X}>' for byte in range(256)):
    if token not in number:
      raise DataError(f'the tokenizer falls back to bytes and has no {token}')
    kinds[number[token]] = BYTE
  kinds[number.get(tokenizer['model'].get('unk_token'), 0)] = UNKNOWN
  steps = tokenizer.get('normalizer') or {}
  before = any(step.get('type') == 'Prepend' for step in [steps, *steps.get('normalizers', [])])
  return dict(model='llama', scores=scores, token_type=kinds, add_space_prefix=before)


def _cut(tokenizer) -> str:
  """llama.cpp's name for how a byte-level BPE cuts texts first. Raises UsageError."""
  steps = tokenizer.get('pre_tokenizer') or {}
  steps, found = steps.get('pretokenizers', [steps]), None
  kinds = [step.get('type') for step in steps]
  if kinds == ['ByteLevel'] and steps[0]['use_regex']:
    found = 'gpt-2'
  if kinds == ['Digits', 'ByteLevel'] and steps[0]['individual_digits'] and steps[1]['use_regex']:
    found = 'smollm'
  if kinds == ['Split', 'ByteLevel'] and not steps[1]['use_regex']:
    named = {cut: name for name, cut in CUTS.items() if cut}
    found = named.get(steps[0]['pattern'].get('Regex'))
  require(
    found, 'the tokenizer cuts texts in a way that has no name here for GGUF files; write a folder '
    'in float16 and convert that with llama.cpp'
  )  # fmt: skip
  return found
