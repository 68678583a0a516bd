"""Progress as a person sees it, on a terminal and elsewhere."""

import io

import pytest

from reduction import progress
from reduction.run import Run


class Clock:
  """A clock that a test sets."""

  now = 0.0

  def monotonic(self):
    return self.now


@pytest.fixture
def clock(monkeypatch):
  found = Clock()
  monkeypatch.setattr(progress, 'time', found)
  return found


def test_plain_lines_come_at_their_pace_and_tell_where_and_how_long(clock):
  stream = io.StringIO()
  shown = progress.Progress(every=10, stream=stream)
  run = Run(progress=shown)

  def inner(carry, index, run):
    clock.now += 4
    return carry, None

  def outer(carry, index, run):
    return run.fold('train', inner, carry, 2)

  run.fold('levels', outer, 0, 3)
  lines = stream.getvalue().splitlines()
  assert lines == [
    '   12 s  levels 1/3 > 1/train 1/2, ETA 00:12',
    '   24 s  levels 2/3 > 2/train 2/2, ETA 00:00',
  ]


def test_a_terminal_shows_bars_and_lines_above_them(clock):
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  stream = Terminal()
  shown = progress.Progress(stream=stream)
  run = Run(progress=shown)

  def step(carry, index, run):
    shown.line('[a line] above')
    shown.note('loss 0.5')
    return carry, None

  run.fold('levels', step, 0, 2)
  assert 'levels' in stream.getvalue() and '[a line] above' in stream.getvalue()


def test_the_eta_shows_hours_and_waits_for_the_first_index(clock):
  shown = progress.Progress(stream=io.StringIO())
  shown.enter('levels', 5, 20)
  assert shown.eta() == '--:--'
  clock.now = 1000.0
  shown.advance(6)
  assert shown.eta() == '3:53:20'
