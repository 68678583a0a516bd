"""Templates and end tokens out of a model folder's files."""

import json

import pytest

from reduction.chat.manners import manners
from reduction.chat.template import template
from reduction.errors import DataError, UsageError

CHATML = (
  "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
  "'<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
  '{% endif %}'
)
SAID = [dict(role='system', content='Be short.'), dict(role='user', content='Hello')]
TEXT = (
  '<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n'
  '<|im_start|>assistant\n'
)


def files(**settings):
  return {'tokenizer_config.json': json.dumps(settings)}


@pytest.mark.parametrize(
  'given',
  [
    files(chat_template=CHATML),
    files(chat_template=[dict(name='tools', template='?'), dict(name='default', template=CHATML)]),
    {'chat_template.jinja': CHATML, **files(chat_template='old')},
  ],
)
def test_a_template_is_found_and_writes_the_conversation(given):
  found = manners(given, {})
  assert found.chats and found.render(SAID) == TEXT


def test_special_tokens_stand_in_templates():
  given = files(
    chat_template='{{ bos_token }}{{ messages[0].content }}{{ eos_token }}', bos_token='<s>',
    eos_token=dict(content='</s>'),
  )  # fmt: skip
  assert manners(given, {}).render(SAID) == '<s>Be short.</s>'


def test_without_a_template_a_text_goes_on():
  found = manners(files(add_bos_token=True, bos_token='<s>'), {})
  assert not found.chats and found.render(SAID) == 'Be short.Hello' and found.begin == '<s>'
  assert manners({}, {}).begin == ''


def test_every_token_that_ends_an_answer_is_known():
  given = {'generation_config.json': json.dumps(dict(eos_token_id=[7, 9]))}
  assert manners(given, dict(eos_token_id=2)).ends == (7, 9, 2)
  assert manners({}, dict(eos_token_id=None)).ends == ()


@pytest.mark.parametrize(
  'source, error, line',
  [
    ('{% for %}', DataError, 'the chat template is damaged'),
    ("{{ ''.__class__.__mro__ }}", DataError, 'the chat template fails'),
    ('{{ messages.append(1) }}', DataError, 'the chat template fails'),
    ('{% for i in range(10**9) %}{% endfor %}', DataError, 'the chat template fails'),
    ("{{ raise_exception('no system') }}", UsageError, 'refuses this conversation: no system'),
    ('x' * 200_000, DataError, 'the chat template is no text of up to'),
  ],
)
def test_a_hostile_or_damaged_template_is_one_line(source, error, line):
  with pytest.raises(error, match=line):
    template(source)(SAID)


@pytest.mark.parametrize('text', ['{', '[1]', '[' * 100_000])
def test_damaged_settings_are_one_line(text):
  with pytest.raises(DataError, match='tokenizer_config'):
    manners({'tokenizer_config.json': text}, {})
