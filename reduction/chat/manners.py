"""How a model wants to be spoken to: read from the files that come with its weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from reduction.chat.template import Message, plain, template
from reduction.errors import DataError

SETTINGS, GENERATION = 'tokenizer_config.json', 'generation_config.json'
JINJA = 'chat_template.jinja'


class Manners(NamedTuple):
  """render: conversation -> text to continue; chats: whether it has a template for that. ends: the
  tokens that end an answer. begin: what stands before a text that no template wrote, or ''.
  """

  render: Callable[[list[Message]], str]
  chats: bool
  ends: tuple[int, ...]
  begin: str


def manners(files: dict[str, str | Path], config: dict) -> Manners:
  """Of a model folder's files by name, texts or paths, and its config.json.

  Raises DataError where they are damaged, MissingInput where a template needs jinja2.
  """
  settings, generation = (_json(files, name) for name in (SETTINGS, GENERATION))
  special = {name: _text(settings[name]) for name in settings if name.endswith('_token')}
  special = {name: text for name, text in special.items() if isinstance(text, str)}
  source = _read(files[JINJA]) if JINJA in files else _template(settings.get('chat_template'))
  ends = []
  for found in generation.get('eos_token_id'), config.get('eos_token_id'):
    ends += found if isinstance(found, list) else [found]
  begins = settings.get('add_bos_token', False) is True
  return Manners(
    template(source, **special) if source else plain,
    source is not None,
    tuple(dict.fromkeys(end for end in ends if type(end) is int)),
    special.get('bos_token', '') if begins else '',
  )


def _template(found) -> str | None:
  """The text of `chat_template`: one, or a list of named ones."""
  if isinstance(found, list):
    named = {one.get('name'): one.get('template') for one in found if isinstance(one, dict)}
    return named.get('default', next(iter(named.values()), None))
  return found or None


def _text(token):
  """A special token's text, which stands alone or in a description."""
  return token.get('content') if isinstance(token, dict) else token


def _read(file: str | Path) -> str:
  try:
    return file.read_text(encoding='utf-8') if isinstance(file, Path) else file
  except (OSError, UnicodeDecodeError) as error:
    raise DataError(f'{file} cannot be read ({error}); fetch it again') from error


def _json(files, name) -> dict:
  if name not in files:
    return {}
  try:
    found = json.loads(_read(files[name]))
  except (ValueError, RecursionError) as error:
    raise DataError(f'{name} is damaged ({error}); fetch it again') from error
  if not isinstance(found, dict):
    raise DataError(f'{name} holds no settings by name; fetch it again')
  return found
