"""`Store`: trees by key that need not fit in memory, committed as one with their fold."""

import pathlib
from collections.abc import Iterator

from flax import serialization

from reduction import checkpoint, tree


class Store:
  """A mapping key -> tree like `initial`, such as one client's teacher and optimizer state.

  What an index of a fold writes is seen by the indices after it, and reaches the disk's accepted
  state when the fold is saved: after a crash the store is what it was at the index resumed from.
  A key never written reads as `initial`. Without a folder the trees stay in memory.
  """

  def __init__(self, initial, folder: pathlib.Path | None = None):
    self.initial, self.folder = initial, folder
    self.versions: dict[str, int] = {}  # key -> version that reads see
    self._written: dict[str, int] = {}  # of the index under way
    self._memory: dict[tuple[str, int], object] = {}
    self._clock = 0
    self._stale: list[pathlib.Path] = []

  def __iter__(self) -> Iterator[str]:
    return iter(self.versions)

  def __getitem__(self, key: str | int):
    key = str(key)
    if key not in self.versions:
      return self.initial
    version = self.versions[key]
    if not self.folder:
      return self._memory[key, version]
    body = checkpoint.unsealed(self._path(key, version))
    return serialization.from_bytes(self.initial, body)

  def __setitem__(self, key: str | int, value):
    key = str(key)
    self._written[key] = version = self._clock + 1
    if not self.folder:
      self._memory[key, version] = value
      return
    body = serialization.to_bytes(tree.map(tree.to_host, value))
    checkpoint.write_atomic(self._path(key, version), checkpoint.sealed(body))

  def advance(self):
    """The index under way ended: what it wrote is seen from now on."""
    for key, version in self._written.items():
      if key in self.versions:
        old = self.versions[key]
        self._memory.pop((key, old), None)
        if self.folder:
          self._stale.append(self._path(key, old))
      self.versions[key] = version
    self._written, self._clock = {}, self._clock + 1

  def state(self) -> dict:
    """What a checkpoint holds of the store."""
    return dict(versions=dict(self.versions), clock=self._clock)

  def restore(self, state: dict):
    """Back to what `state` gave."""
    self.versions, self._clock = dict(state['versions']), state['clock']
    self._written, self._stale = {}, []

  def committed(self):
    """The checkpoint is on disk: what it superseded may go."""
    for path in self._stale:
      path.unlink(missing_ok=True)
    self._stale = []

  def _path(self, key, version):
    return self.folder / f'{key}.{version}'
