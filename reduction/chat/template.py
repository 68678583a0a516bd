"""How a model wants a conversation written: the Jinja template that comes with it.

huggingface.co/docs/transformers/chat_templating; templates run in Jinja's sandbox, without access
to anything but the conversation.
"""

import datetime
import json
from collections.abc import Callable

from reduction.errors import DataError, MissingInput, UsageError

Message = dict  # role: 'system', 'user' or 'assistant'; content: text
LONGEST = 2**17  # characters of a template


def template(source: str, **special) -> Callable[[list[Message]], str]:
  """conversation -> the text whose continuation is the next answer.

  source: of the template. special: bos_token and the like, that it may name. Raises MissingInput
  without the package jinja2, DataError for what is no template, UsageError, by the text, for a
  conversation that the template refuses.
  """
  try:
    import jinja2
    from jinja2 import ext, sandbox
  except ModuleNotFoundError as error:
    raise MissingInput('chat templates need jinja2: pip install -e .[llm]') from error
  if not isinstance(source, str) or len(source) > LONGEST:
    raise DataError(f'the chat template is no text of up to {LONGEST:,} characters')
  environment = sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[ext.loopcontrols]
  )
  environment.filters['tojson'] = lambda x, **how: json.dumps(x, ensure_ascii=False, **how)
  environment.globals |= dict(
    raise_exception=_refuse, strftime_now=lambda form: datetime.datetime.now().strftime(form)
  )
  try:
    made = environment.from_string(source)
  except jinja2.TemplateError as error:
    raise DataError(f'the chat template is damaged: {error}') from error

  def render(messages: list[Message]) -> str:
    try:
      return made.render(messages=messages, add_generation_prompt=True, **special)
    except UsageError:
      raise
    except Exception as error:  # a template is a program: it can fail in any way
      raise DataError(f'the chat template fails: {error}') from error

  return render


def plain(messages: list[Message]) -> str:
  """A conversation for a model without a template: only what was said, to be continued."""
  return ''.join(message['content'] for message in messages)


def _refuse(why):
  raise UsageError(f'the chat template refuses this conversation: {why}')
