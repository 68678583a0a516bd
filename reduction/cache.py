"""The folder of this user that may be emptied at any time: images, compiled programs, kernels."""

import os
from pathlib import Path


def folder() -> Path | None:
  """The project's folder under XDG_CACHE_HOME or ~/.cache; None without a home."""
  root = Path(os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'))
  return root / 'reduction' if root.is_absolute() else None
