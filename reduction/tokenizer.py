"""tokenizer.json of a model folder, and the files beside it."""

import json
from collections.abc import Callable
from pathlib import Path

from reduction.errors import DataError, MissingInput

SPACE = '\u2581'  # how SentencePiece writes a space
FILES = (
  'tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json',
  'generation_config.json', 'chat_template.jinja', 'tokenizer.model', 'vocab.json', 'merges.txt',
)  # fmt: skip


def package():
  """The package tokenizers. Raises MissingInput without it."""
  try:
    import tokenizers
  except ModuleNotFoundError as error:
    raise MissingInput('texts need the package tokenizers: pip install -e .[llm]') from error
  return tokenizers


def load(path: Path):
  """The `tokenizers.Tokenizer` of a file. Raises MissingInput where it or the package lacks,
  DataError where it is damaged.
  """
  tokenizers = package()
  if not path.is_file():
    raise MissingInput(f'{path} is not there: name a model folder that has it')
  try:
    return tokenizers.Tokenizer.from_file(str(path))
  except Exception as error:  # the package raises nothing narrower
    raise DataError(f'{path} is no tokenizer ({error}); fetch it again') from error


def coder(path: Path) -> tuple[Callable, Callable]:
  """(encode: text -> tokens without special ones, decode: tokens -> text) of a file."""
  tokenizer = load(path)
  encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
  return encode, lambda tokens: tokenizer.decode(list(tokens), skip_special_tokens=False)


def beside(folder: Path) -> dict[str, Path]:
  """The files of a model folder that go with its weights, by name."""
  return {name: folder / name for name in FILES if (folder / name).is_file()}


def files(made, config: dict, template: str | None = None) -> dict[str, str]:
  """Such files, by name, of a `tokenizers.Tokenizer` that came out of another format.

  config: as config.json has it, which names the tokens that begin and end a text. template: for
  chats, in Jinja.
  """
  ends = {f'{name}_token_id': config.get(f'{name}_token_id') for name in ('bos', 'eos')}
  ends = {name: token for name, token in ends.items() if token is not None}
  told = dict(
    tokenizer_class='PreTrainedTokenizerFast', clean_up_tokenization_spaces=False,
    model_max_length=config['max_position_embeddings'],
    **{name.removesuffix('_id'): made.id_to_token(token) for name, token in ends.items()},
  ) | ({} if template is None else dict(chat_template=template))  # fmt: skip
  text = lambda content: json.dumps(content, indent=2) + '\n'
  return {
    'tokenizer.json': made.to_str(),
    'tokenizer_config.json': text(told),
    'generation_config.json': text(ends),
  }


def by_scores(
  texts: list[str], scores: list[float], normal: list[int], unknown: str, *, prefix: bool
):
  """A `tokenizers.Tokenizer` of SentencePiece's kind: what unites first scores most, and characters
  that are no token become their bytes.

  texts, scores: of each token; normal: the numbers of those that others unite to. unknown: the
  token for bytes that are none. prefix: whether a text begins with a space, '\u2581'. Of two unions
  with one score it takes the one listed first, not the first of the text.
  """
  tokenizers = package()
  from tokenizers import decoders, models, normalizers

  number = {text: token for token, text in reversed(list(enumerate(texts)))}
  merges = []
  for token in sorted(normal, key=lambda token: -scores[token]):
    text = texts[token]
    cuts = [(text[:i], text[i:]) for i in range(1, len(text))]
    merges += [cut for cut in cuts if number[text] == token and all(half in number for half in cut)]
  model = models.BPE(
    vocab=number, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True
  )
  found = tokenizers.Tokenizer(model)
  replace = normalizers.Replace(' ', SPACE)
  before = [normalizers.Prepend(SPACE)] if prefix else []
  found.normalizer = normalizers.Sequence([*before, replace])
  found.decoder = decoders.Sequence([
    decoders.Replace(SPACE, ' '), decoders.ByteFallback(), decoders.Fuse(),
    *([decoders.Strip(' ', 1, 0)] if prefix else []),
  ])  # fmt: skip
  return found


def begins(made, token: str, number: int):
  """Lets a `tokenizers.Tokenizer` put a token before each text where special ones are asked for."""
  from tokenizers import processors

  made.post_processor = processors.TemplateProcessing(
    single=[token, '$A'], pair=[token, '$A', token, '$B'], special_tokens=[(token, number)]
  )
