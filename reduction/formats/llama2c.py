"""Models of llama2.c (A. Karpathy, 2023): one file of float32, and its tokenizer in another.

`config` and `tensors` speak the language of Hugging Face's files, so what reads those
(`models.llama_files`) reads these. The first export is meant, "version 0": seven int32 and weights.
"""

import heapq
import itertools
import math
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from reduction import tokenizer as words
from reduction.errors import DataError, MissingInput
from reduction.formats.tensors import Tensors, halves

HEADER = struct.Struct('<7i')
NAMES = (
  'hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads',
  'num_key_value_heads', 'vocab_size', 'max_position_embeddings',
)  # fmt: skip
BEGIN, END = 1, 2  # <s> and </s>
MOST = 64 * 2**20  # bytes of a tokenizer: that of Llama 2, with 32,000 tokens, has 434 kB
TOKEN = struct.Struct('<fi')


def config(path: Path) -> dict:
  """What a config.json would say of the model. Raises MissingInput, or DataError for other files.

  A vocabulary below 0 is llama2.c's mark of a last layer of its own.
  """
  if not path.is_file():
    raise MissingInput(f'{path} is not there')
  with path.open('rb') as file:
    header = file.read(HEADER.size)
  if len(header) < HEADER.size:
    raise DataError(f'{path} has {len(header)} bytes; a llama2.c model begins with seven int32')
  found = dict(zip(NAMES, HEADER.unpack(header)))
  tied = found['vocab_size'] > 0
  found['vocab_size'] = abs(found['vocab_size'])
  width, heads = found['hidden_size'], found['num_attention_heads']
  if min(found.values()) < 1 or width % heads or width // heads % 2:
    raise DataError(f'{path} is no llama2.c model of version 0: it begins with {found}')
  size = path.stat().st_size
  expected = HEADER.size + 4 * sum(math.prod(shape) for shape in _shapes(found, tied).values())
  if size != expected:
    raise DataError(f'{path} has {size:,} bytes, but its header stands for {expected:,}')
  return dict(
    found, model_type='llama', rms_norm_eps=1e-5, rope_theta=10_000.0, tie_word_embeddings=tied,
    bos_token_id=BEGIN, eos_token_id=END,
  )  # fmt: skip


def tensors(path: Path) -> Tensors:
  """The weights by Hugging Face's names, [out, in], read when asked for. Raises as `config`."""
  found = config(path)
  heads = dict(q=found['num_attention_heads'], k=found['num_key_value_heads'])
  readers, offset = {}, HEADER.size
  for name, shape in _shapes(found, found['tie_word_embeddings']).items():
    if '{}' not in name:
      readers[name] = _reader(path, offset, shape)
    else:  # all layers of one kind follow each other
      one, turned = shape[1:], heads.get(name.partition('self_attn.')[2].partition('_')[0])
      for i in range(shape[0]):
        place = offset + 4 * i * math.prod(one)
        readers[name.format(i)] = _reader(path, place, one, turned)
    offset += 4 * math.prod(shape)
  del readers['angles']
  return Tensors(path, readers)


def _shapes(found: dict, tied: bool) -> dict[str, tuple[int, ...]]:
  """What the file holds, in its order; with '{}' for all layers together."""
  width, inner, layers, heads, kv_heads, vocabulary, positions = (found[name] for name in NAMES)
  size = width // heads
  at = 'model.layers.{}.'
  shapes = {
    'model.embed_tokens.weight': (vocabulary, width),
    f'{at}input_layernorm.weight': (layers, width),
    f'{at}self_attn.q_proj.weight': (layers, heads * size, width),
    f'{at}self_attn.k_proj.weight': (layers, kv_heads * size, width),
    f'{at}self_attn.v_proj.weight': (layers, kv_heads * size, width),
    f'{at}self_attn.o_proj.weight': (layers, width, heads * size),
    f'{at}post_attention_layernorm.weight': (layers, width),
    f'{at}mlp.gate_proj.weight': (layers, inner, width),
    f'{at}mlp.down_proj.weight': (layers, width, inner),
    f'{at}mlp.up_proj.weight': (layers, inner, width),
    'model.norm.weight': (width,),
    'angles': (2, positions, size // 2),  # cosines and sines, which nothing reads anymore
  }
  return shapes if tied else {**shapes, 'lm_head.weight': (vocabulary, width)}


def _reader(path, offset, shape, turned=None) -> Callable[[], np.ndarray]:
  """Reads one weight; turned: heads of queries or keys, whose rows are in pairs."""

  def read():
    w = np.fromfile(path, '<f4', math.prod(shape), offset=offset).reshape(shape)
    return halves(w, turned) if turned else w

  return read


def tokenizer(path: Path) -> tuple[Callable[[str], list[int]], Callable[[list[int]], str]]:
  """(encode, decode) of a tokenizer's file, as llama2.c computes them.

  encode(text) begins with token 1 and, in a text, with a space; characters that are no token become
  their bytes. Then the neighbors whose union has the best score unite, the first of them where two
  are equal, until none can. decode(tokens) leaves token 1 out, and a space that follows it.
  Raises MissingInput, or DataError for a malformed file and for tokens that it does not have.
  """
  pieces, scores = _vocabulary(path)
  number = {piece: token for token, piece in reversed(list(enumerate(pieces)))}
  of_byte = [number.get(b'<0x%02X>' % byte) for byte in range(256)]
  if None in of_byte:
    raise DataError(f'{path} has no token for byte {of_byte.index(None)}')
  bytes_of = {token: bytes([byte]) for byte, token in enumerate(of_byte)}

  def encode(text: str) -> list[int]:
    tokens = []
    for character in ' ' + text if text else '':
      piece = character.encode()
      tokens += [number[piece]] if piece in number else [of_byte[byte] for byte in piece]
    return [BEGIN, *_united(tokens, pieces, scores, number)]

  def decode(tokens: list[int]) -> str:
    found = b''
    for before, token in itertools.pairwise([None, *map(int, tokens)]):
      if not 0 <= token < len(pieces):
        raise DataError(f'token {token} is none of 0..{len(pieces) - 1} in {path}')
      if token != BEGIN:
        piece = bytes_of.get(token, pieces[token])
        found += piece.removeprefix(b' ') if before == BEGIN else piece
    return found.decode('utf-8', 'replace')

  return encode, decode


def made(path: Path):
  """The same as a `tokenizers.Tokenizer`, which puts token 1 before a text.

  Of two unions with one score it takes the one listed first, not the first of the text: that is
  where its tokens may differ. Raises as `tokenizer`, and MissingInput without the package.
  """
  words.package()
  pieces, scores = _vocabulary(path)
  special = ['<unk>', '<s>', '</s>']
  try:
    texts = special + [str(piece, 'utf-8').replace(' ', words.SPACE) for piece in pieces[3:]]
  except UnicodeDecodeError as error:
    raise DataError(f'{path} has a token that is not UTF-8') from error
  normal = list(range(len(special), len(texts)))
  found = words.by_scores(texts, scores, normal, special[0], prefix=True)
  words.begins(found, special[BEGIN], BEGIN)
  found.add_special_tokens(special)
  return found


def files(path: Path, tokens: Path) -> dict[str, str]:
  """What goes with the weights in a model folder: see `tokenizer.files`."""
  return words.files(made(tokens), config(path))


def _vocabulary(path: Path) -> tuple[list[bytes], list[float]]:
  """(what each token stands for, its score)."""
  if not path.is_file():
    raise MissingInput(f'{path} is not there')
  if path.stat().st_size > MOST:
    raise DataError(f'{path} has {path.stat().st_size:,} bytes; {MOST:,} is the most')
  content, pieces, scores = path.read_bytes(), [], []
  longest = int.from_bytes(content[:4], 'little', signed=True)
  at = 4
  while at < len(content):
    if len(content) - at < TOKEN.size:
      raise DataError(f'{path} ends within token {len(pieces)}; fetch it again')
    score, length = TOKEN.unpack_from(content, at)
    at += TOKEN.size
    if not (0 <= length <= longest and at + length <= len(content) and math.isfinite(score)):
      raise DataError(f'{path}: token {len(pieces)} has score {score} and {length} bytes')
    pieces.append(content[at : at + length])
    scores.append(score)
    at += length
  if len(pieces) <= END:
    raise DataError(f'{path} holds {len(pieces)} tokens; it is no tokenizer of llama2.c')
  return pieces, scores


def _united(tokens, pieces, scores, number) -> list[int]:
  """tokens after all unions, best score first, in O(n log n)."""
  tokens = list(tokens)
  after = [*range(1, len(tokens)), None] if tokens else []
  before = [None, *range(len(tokens) - 1)]
  heap = []

  def offer(i, j):
    """The union of the tokens at i and j, if there is one."""
    if i is not None and j is not None:
      union = number.get(pieces[tokens[i]] + pieces[tokens[j]])
      if union is not None:
        heapq.heappush(heap, (-scores[union], i, j, tokens[i], tokens[j], union))

  for i in range(len(tokens) - 1):
    offer(i, i + 1)
  while heap:
    _, i, j, left, right, union = heapq.heappop(heap)
    if (tokens[i], tokens[j]) != (left, right):
      continue  # one of them has united with another
    tokens[i], tokens[j], after[i] = union, None, after[j]
    if after[j] is not None:
      before[after[j]] = i
    offer(before[i], i)
    offer(i, after[i])
  return [token for token in tokens if token is not None]
