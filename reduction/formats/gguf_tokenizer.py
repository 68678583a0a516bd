"""The tokenizer of a GGUF file: a byte-level BPE, or one by scores that falls back to bytes."""

import functools
from collections.abc import Callable

from reduction import tokenizer as words
from reduction.errors import DataError, require
from reduction.formats.gguf_header import File, field

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # kinds of tokens
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|"
_WORDS += r'\s*[\r\n]+|\s+(?!\S)|\s+'
# llama.cpp's name for how a byte-level BPE cuts texts first -> its expression; None: that of GPT-2
CUTS = {'qwen2': _WORDS % '', 'llama-bpe': _WORDS % '{1,3}', 'gpt-2': None, 'smollm': None}


def made(file: File):
  """The `tokenizers.Tokenizer`; it puts the token that begins a text before it where the file says.

  Raises UsageError for other kinds of tokenizers, MissingInput without the package tokenizers,
  DataError where tokens and merges do not fit.
  """
  given = functools.partial(_given, file)
  model, pre = given('model', None), given('pre', 'default')
  known = model == 'llama' or (model == 'gpt2' and pre in CUTS)
  require(
    known, f'{file.path}: tokenizer {(model, pre)!r:.99} is none of llama and, of gpt2, '
    f'{", ".join(CUTS)}, which are built'
  )  # fmt: skip
  tokens, kinds = _texts(file, 'tokens'), given('token_type', [])
  if len(set(tokens)) != len(tokens):
    raise DataError(f'{file.path} has a token twice')
  if not isinstance(kinds, list) or len(kinds) not in (0, len(tokens)):
    raise DataError(f'{file.path}: tokenizer.ggml.token_type is no list of a kind for each token')
  found = _by_scores(file, tokens, kinds) if model == 'llama' else _by_merges(file, tokens, pre)
  special = [token for token, kind in zip(tokens, kinds) if kind in (CONTROL, USER)]
  found.add_special_tokens(special)
  if given('add_bos_token', model == 'llama' or pre == 'llama-bpe'):
    number = given('bos_token_id')
    if type(number) is not int or not 0 <= number < len(tokens):
      raise DataError(f'{file.path}: tokenizer.ggml.bos_token_id={number!r:.60} is no token')
    words.begins(found, tokens[number], number)
  return found


def _by_merges(file: File, tokens: list[str], pre: str):
  """A byte-level BPE that cuts texts as `pre` says."""
  tokenizers = words.package()
  from tokenizers import decoders, models, pre_tokenizers

  pairs = [tuple(merge.split(' ')) for merge in _texts(file, 'merges')]
  if not all(len(pair) == 2 for pair in pairs):
    raise DataError(f'{file.path} has a merge not of two tokens')
  vocabulary = {token: i for i, token in enumerate(tokens)}
  try:  # llama.cpp takes words of Llama 3 whole where they are tokens
    model = models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=pre == 'llama-bpe')
    found = tokenizers.Tokenizer(model)
  except Exception as error:  # the package raises nothing narrower
    raise DataError(f'{file.path}: merges do not fit the tokens ({str(error)!r:.99})') from error
  steps = []
  if pre == 'smollm':
    steps = [pre_tokenizers.Digits(individual_digits=True)]
  if CUTS[pre]:
    steps = [pre_tokenizers.Split(tokenizers.Regex(CUTS[pre]), 'isolated')]
  bytelevel = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not CUTS[pre])
  found.pre_tokenizer = pre_tokenizers.Sequence([*steps, bytelevel])
  found.decoder = decoders.ByteLevel()
  return found


def _by_scores(file: File, tokens: list[str], kinds: list[int]):
  """SentencePiece's kind, see `tokenizer.by_scores`."""
  scores = _given(file, 'scores')
  if not isinstance(scores, list) or len(scores) != len(tokens):
    raise DataError(f'{file.path}: tokenizer.ggml.scores is no list of a number for each token')
  normal = [i for i, kind in enumerate(kinds or [NORMAL] * len(tokens)) if kind in (NORMAL, USER)]
  unknown = next((i for i, kind in enumerate(kinds) if kind == UNKNOWN), 0)
  prefix = _given(file, 'add_space_prefix', True)
  return words.by_scores(tokens, scores, normal, tokens[unknown], prefix=bool(prefix))


def tokenizer(file: File) -> tuple[Callable[[str], list[int]], Callable[[list[int]], str]]:
  """(encode, decode) of what `made` gives; nothing is put before a text.

  Special tokens are found in the text too, '<|im_start|>': take them out of what others wrote.
  Control characters that it has no token for are left out, as llama.cpp does.
  Raises as `made`, and DataError for tokens that it does not have.
  """
  found = made(file)
  size = found.get_vocab_size()

  def encode(text: str) -> list[int]:
    return found.encode(text, add_special_tokens=False).ids

  def decode(numbers: list[int]) -> str:
    for number in numbers:
      if not 0 <= number < size:
        raise DataError(f'token {number} is none of 0..{size - 1} in {file.path}')
    return found.decode(list(map(int, numbers)), skip_special_tokens=False)

  return encode, decode


def _given(file: File, name: str, *default):
  return field(file, f'tokenizer.ggml.{name}', *default)


def _texts(file: File, name: str) -> list[str]:
  found = _given(file, name)
  if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
    raise DataError(f'{file.path}: tokenizer.ggml.{name} is no list of strings')
  return found
