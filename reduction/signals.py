"""SIGTERM and Ctrl-C: the first is honoured at an index boundary, the second leaves at once."""

import contextlib
import os
import signal

from reduction.processes import agree

_noted = 0


def _note(number, frame):
  del frame
  global _noted
  if _noted:
    os._exit(128 + number)  # what was saved last is whole: every write is a rename
  _noted = number
  name = signal.Signals(number).name
  message = f'\n{name}: finishing this index, then saving; once more leaves at once\n'
  with contextlib.suppress(OSError):  # a handler must not print: the stream may be locked
    os.write(2, message.encode())


@contextlib.contextmanager
def noted():
  """Within the block SIGTERM and SIGINT are noted instead of ending the process."""
  global _noted
  before = {n: signal.signal(n, _note) for n in (signal.SIGTERM, signal.SIGINT)}
  try:
    yield
  finally:
    _noted = 0
    for number, handler in before.items():
      signal.signal(number, handler)


def received() -> int:
  """The number of the signal that any process received, 0 for none; the same on all processes."""
  return agree(_noted)
