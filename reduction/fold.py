"""`loop`, the only loop that outlives a second: progress, checkpoints, signals, test crashes."""

import os
import shutil
import signal
import time
from collections.abc import Sequence

from reduction import checkpoint, mesh, signals, tree
from reduction.errors import Interrupted
from reduction.processes import agree, everywhere, first

WAITING = 2**25  # bytes of outs that are in memory before a save takes them


class Outs(Sequence):
  """What a fold's indices gave: the newest in memory, the committed read from disk when asked."""

  def __init__(self, keeper=None, ranges=()):
    self._keeper, self._ranges, self._recent = keeper, list(ranges), []
    self.waiting = 0  # bytes that no save holds yet

  @property
  def _committed(self):
    return self._ranges[-1][1] if self._ranges else 0

  def __len__(self):
    return self._committed + len(self._recent)

  def __getitem__(self, index):
    index = range(len(self))[index]
    if index >= self._committed:
      return self._recent[index - self._committed]
    return everywhere(lambda: self._keeper.out(self._ranges, index))

  def append(self, out):
    """Adds the out of the next index."""
    self._recent.append(out)
    self.waiting += sum(getattr(leaf, 'nbytes', 0) for leaf in tree.leaves(out))

  def uncommitted(self) -> list:
    """The outs that no save holds yet."""
    return self._recent

  def committed(self, start: int, stop: int):
    """A save now holds start..stop-1."""
    self._ranges.append((start, stop))
    self._recent, self.waiting = [], 0


class _Saver:
  """Decides when a fold is saved, and saves it with the stores of its run, on process 0 alone."""

  def __init__(self, run, folder, origin):
    self.run, self.folder = run, folder
    self.keeper = checkpoint.Keeper(folder, origin) if first() else None
    self.start, self.saved_at, self.pause = 0, time.monotonic(), run.save_every

  def restore(self, carry):
    """(first index, carry, outs) of the last good save, else of the beginning."""
    restored = everywhere(lambda: self.keeper.restore(carry))
    if restored is None:
      return 0, carry, Outs(self.keeper)
    self.start = restored['step']
    for row in restored['rows']:
      self.run.emit(row)
    for name, state in restored['stores'].items():
      self.run.stores[name].restore(state)
    carry = checkpoint.like(carry, restored['carry'])
    return self.start, carry, Outs(self.keeper, restored['ranges'])

  def due(self, waiting: int) -> bool:
    """Whether it is time, on any process: saving takes a fiftieth of a run, or the memory fills.

    waiting: bytes of the outs that no save holds yet.
    """
    return bool(agree(time.monotonic() - self.saved_at >= self.pause or waiting >= WAITING))

  def save(self, stop, carry, outs, rows):
    """Commits all indices below stop; what those indices kept for themselves is dropped."""
    began = time.monotonic()
    stores = {name: store.state() for name, store in self.run.stores.items()}
    # all take part in gathering what lies on several processes
    carry, new = mesh.gather(carry), mesh.gather(outs.uncommitted())

    def write():
      self.keeper.save(self.start, stop, carry, new, rows, stores)
      for index in range(self.start, stop):
        for inner in self.folder.parent.glob(f'{self.folder.name}.{index}.*'):
          shutil.rmtree(inner, ignore_errors=True)

    everywhere(write)
    outs.committed(self.start, stop)
    for store in self.run.stores.values():
      store.committed()
    self.start, self.saved_at = stop, time.monotonic()
    if self.run.save_every:  # 0, at every index, is for tests
      self.pause = max(self.run.save_every, 49 * (self.saved_at - began))


def loop(run, name: str, step, carry, count: int):
  """See `Run.fold`."""
  here = run.child(name)
  saver, first, outs = None, 0, Outs()
  if run.workdir:
    origin = tree.digest_of({**tree.digests(carry), 'count': str(count)})
    saver = _Saver(run, run.workdir / 'checkpoints' / '.'.join(here.path), origin)
    first, carry, outs = saver.restore(carry)
  logged, done = len(run.rows), first  # rows before `logged` are in a save

  def save():
    nonlocal logged
    saver.save(done, carry, outs, run.rows[logged:kept])
    logged = kept

  if run.progress:
    run.progress.enter('/'.join(here.path[-2:]), first, count)
  try:
    for index in range(first, count):
      kept = len(run.rows)
      try:
        carry, out = step(carry, index, here.child(index))
      except Interrupted:
        if saver and done > saver.start:
          save()
        raise
      _crash_here(name, index)
      _beat()
      outs.append(out)
      done, kept = index + 1, len(run.rows)
      for store in run.stores.values():
        store.advance()
      if run.progress:
        run.progress.advance(done)
      number = signals.received()
      if saver and (number or done == count or saver.due(outs.waiting)):
        _crash_here(f'{name}-saving', index)
        save()
        _crash_here(f'{name}-saved', index)
      if number:
        raise Interrupted(128 + number)
  finally:
    if run.progress:
      run.progress.leave()
  return carry, outs


def _crash_here(name: str, index: int):
  """Dies at once, as from kill -9, where a test asked for it: REDUCTION_CRASH_AT=levels:3.

  levels:3@15 sends signal 15 instead; points are separated by commas.
  """
  for point in os.environ.get('REDUCTION_CRASH_AT', '').split(','):
    where, _, number = point.partition('@')
    if where == f'{name}:{index}':
      os.kill(os.getpid(), int(number or signal.SIGKILL))


def _beat():
  """Tells whoever watches this process, such as `launch.local`, that it gets on."""
  if path := os.environ.get('REDUCTION_HEARTBEAT'):
    with open(path, 'w') as file:
      file.write(str(time.time()))
