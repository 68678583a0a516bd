"""tokenizer.json of a model folder."""

from collections.abc import Callable
from pathlib import Path

from reduction.errors import DataError, MissingInput


def load(path: Path):
  """The `tokenizers.Tokenizer` of a file. Raises MissingInput where it or the package lacks,
  DataError where it is damaged.
  """
  try:
    import tokenizers
  except ModuleNotFoundError as error:
    raise MissingInput('texts need the package tokenizers: pip install -e .[llm]') from error
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
