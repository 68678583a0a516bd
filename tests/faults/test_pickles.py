"""The hook of `tests.pickles` sees a pickle, here and in what tests launch. Fault 31."""

import pytest

from tests import pickles

SAYS = r'reduction/bad.py:2 unpickled builtins.print'


def test_a_pickle_opened_by_the_project_is_refused():
  with pytest.raises(RuntimeError, match=SAYS):
    pickles.unpickle()
  assert len(pickles.opened) == 1  # for which any other test would fail
  pickles.opened.clear()


def test_launched_programs_are_watched_too(launch):
  result = launch(module='tests.pickles')
  assert result.code == 1 and result.err.rstrip().endswith('unpickled builtins.print')
