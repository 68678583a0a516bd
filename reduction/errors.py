"""Errors that a user can mend: one clear line (what, which value, what to do) and an exit code.

Codes: 2 usage or configuration, 65 bad data or NaN, 66 input missing, 74 input/output, 75 try
again.
"""

import difflib
from collections.abc import Iterable


class UserError(Exception):
  """A mistake or misfortune outside the program; shown as one line without a traceback."""

  code = 1


class UsageError(UserError):
  """A wrong flag, config key or value."""

  code = 2


class DataError(UserError):
  """Data, or numbers made from it, that cannot be right: truncated files, NaN."""

  code = 65


class MissingInput(UserError):
  """A file or data set that is not there."""

  code = 66


class StorageError(UserError):
  """A disk that is full, read-only or broken."""

  code = 74


class TryAgain(UserError):
  """Something else is in the way now: a workdir in use, a stuck peer."""

  code = 75


class Interrupted(SystemExit):
  """SIGTERM or SIGINT, raised at an index boundary once the state is saved; code 128 + signal."""


def require(condition: bool, message: str):
  """Raises `UsageError(message)` unless condition holds; it names value, rule and way out."""
  if not condition:
    raise UsageError(message)


def did_you_mean(name: str, options: Iterable[str]) -> str:
  """' Did you mean "steps"?' for the nearest of options, else the list of them."""
  options = sorted(options)
  near = difflib.get_close_matches(name, options, n=1)
  return f' Did you mean {near[0]!r}?' if near else f' Known: {", ".join(options)}.'
