"""Pieces of text: nothing is shown that changes later, nothing is lost."""

import hypothesis
import hypothesis.strategies as st
import pytest

from reduction.chat.stream import text


def of_bytes(tokens):
  """A decoder whose tokens are bytes."""
  return bytes(tokens).decode('utf-8', 'replace')


def test_a_character_comes_when_all_its_bytes_are_there():
  assert list(text('aé€😀b'.encode(), of_bytes)) == ['a', 'é', '€', '😀', 'b']


def test_a_character_that_never_ends_is_shown_as_such():
  assert ''.join(text(b'ab\xe2\x82', of_bytes)) == 'ab\ufffd'


@hypothesis.given(st.text(max_size=40))
@hypothesis.settings(deadline=None)
def test_the_pieces_are_the_text(said):
  assert ''.join(text(said.encode(), of_bytes)) == said


def test_a_decoder_that_joins_words_by_spaces():
  words = ['the', 'film', 'was', 'good']
  decode = lambda tokens: ' '.join(words[t] for t in tokens)
  assert list(text(range(4), decode)) == ['the', ' film', ' was', ' good']


@pytest.mark.parametrize(
  'said, stops, wanted',
  [
    ('one\nUser: two', ('\nUser:',), 'one'),
    ('one\nUse the two', ('\nUser:',), 'one\nUse the two'),
    ('aab', ('ab',), 'a'),
    ('abcabd', ('abd', 'cab'), 'ab'),
    ('stop', ('stop',), ''),
    ('one\nUser', ('\nUser:',), 'one\nUser'),
  ],
)
def test_stops_end_a_text_and_are_not_shown(said, stops, wanted):
  pieces = list(text(said.encode(), of_bytes, stops))
  assert ''.join(pieces) == wanted and '' not in pieces


def test_no_token_is_asked_for_after_a_stop():
  tokens = iter(b'ab!cd')
  assert ''.join(text(tokens, of_bytes, ('!',))) == 'ab'
  assert bytes(tokens) == b'cd'
