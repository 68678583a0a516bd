"""What outlives a crash: one `Keeper` for each fold, over Orbax's CheckpointManager.

A fold's folder holds two managers. `carry/<n>` is the carry after n indices (the last two are
kept); `outs/<n>` is what the indices since the save before produced: their outs and rows, written
once. A carry is written after its outs, so it is what commits them. Each step holds the digest of
every leaf, since Orbax restores flipped bits in silence; a step that fails its digests, or that
TensorStore cannot read, is renamed `<n>.corrupt` and the step before it is used.
"""

import contextlib
import fcntl
import json
import logging
import os
import pathlib
import shutil
import socket
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from reduction import tree
from reduction.errors import DataError, MissingInput, StorageError, TryAgain, UsageError

LOGGER = logging.getLogger('reduction')
LONE = '.'  # the name of the only leaf of a tree that is one
FILLER = 'nothing'  # stands in a tree without leaves


def write_atomic(path: str | os.PathLike, content: bytes | str):
  """Writes a whole file or nothing. Raises StorageError."""
  with whole_file(path, f' ({len(content):,} bytes)') as file:
    file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def whole_file(path: str | os.PathLike, told: str = ''):
  """An open binary file that becomes `path`, synced, when the block ends well.

  Raises StorageError; told: what it says after the path.
  """
  path = pathlib.Path(path)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(temporary, 'wb') as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except OSError as error:
    raise StorageError(f'cannot write {path}{told}: {error.strerror}') from error
  finally:
    with contextlib.suppress(OSError):
      temporary.unlink(missing_ok=True)


def sealed(body: bytes) -> bytes:
  """body behind its digest, as `unsealed` reads it."""
  return tree.digest(np.frombuffer(body, np.uint8)).encode() + body


def seal(path: pathlib.Path, pieces: Iterable[bytes]):
  """Writes pieces as one file of `sealed` bytes, which never is in memory as a whole."""
  with open(path, 'wb+') as file:
    file.write(bytes(16))
    file.writelines(pieces)
    file.flush()
    digest = tree.digest(np.memmap(file, np.uint8, 'r', offset=16))
    file.seek(0)
    file.write(digest.encode())
    file.flush()
    os.fsync(file.fileno())


def unsealed(path: pathlib.Path) -> bytes:
  """The body of a file of `sealed` bytes. Raises DataError where its digest differs."""
  content = path.read_bytes()
  body = content[16:]
  if sealed(body) != content:
    raise DataError(f'{path} is damaged (its digest differs); make it anew, in a new workdir')
  return body


@contextlib.contextmanager
def whole_folder(path: pathlib.Path):
  """A new folder that becomes `path` when the block ends well. Raises StorageError."""
  beside = f'.{path.name}.{os.getpid()}'
  unfinished, older = path.with_name(f'{beside}.tmp'), path.with_name(f'{beside}.old')
  shutil.rmtree(unfinished, ignore_errors=True)
  try:
    unfinished.mkdir(parents=True)
    yield unfinished
    if path.exists():
      os.replace(path, older)
    try:
      os.replace(unfinished, path)
    except OSError:
      if older.exists():
        os.rename(older, path)
      raise
  except OSError as error:
    raise StorageError(f'cannot write {path}: {error.strerror}') from error
  finally:
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.rmtree(older, ignore_errors=True)


@contextlib.contextmanager
def lock(workdir: str | os.PathLike):
  """Holds workdir for this process. Raises TryAgain, naming the holder, where another has it."""
  path = pathlib.Path(workdir)
  try:
    path.mkdir(parents=True, exist_ok=True)
    file = open(path / '.lock', 'a+')  # noqa: SIM115 (held until the block ends)
  except FileExistsError as error:
    raise UsageError(f'--workdir={workdir} is a file; name a folder') from error
  except OSError as error:
    raise StorageError(f'cannot use --workdir={workdir}: {error.strerror}') from error
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      file.seek(0)
      raise TryAgain(f'{workdir} is in use by {file.read().strip() or "another run"}') from error
    file.truncate(0)
    file.write(f'process {os.getpid()} on {socket.gethostname()}')
    file.flush()
    yield


def load(folder: str | os.PathLike, step: int | None = None) -> dict:
  """The carry that a fold saved after `step` indices (None: the last), as nested dicts of arrays.

  folder: `<workdir>/checkpoints/<fold>`. Raises MissingInput naming the steps there are.
  """
  return Keeper(pathlib.Path(folder), origin='').at(step)


class Keeper:
  """Saves and restores one fold.

  origin: digest of the initial carry and count; a checkpoint of another origin refuses.
  """

  def __init__(self, folder: pathlib.Path, origin: str):
    self.folder, self.origin = folder, origin
    self._open()

  def _open(self):
    import orbax.checkpoint as ocp  # takes a second, so only where something is saved

    self.ocp = ocp
    alone = {}
    if jax.process_count() > 1:  # only process 0 comes here: Orbax must not wait for the others
      alone['multiprocessing_options'] = ocp.options.MultiprocessingOptions(
        primary_host=0, active_processes={0}, barrier_sync_key_prefix='first'
      )
    options = dict(enable_async_checkpointing=False, create=False, **alone)
    # beside the managers: one that has saved a step does not read a part of it
    self.reader = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**alone), **alone)
    try:
      for part in ('carry', 'outs'):
        (self.folder / part).mkdir(parents=True, exist_ok=True)
      self.carries, self.segments = [
        ocp.CheckpointManager(
          self.folder.absolute() / part,
          options=ocp.CheckpointManagerOptions(max_to_keep=most, **options),
        )
        for part, most in (('carry', 2), ('outs', None))
      ]
    except OSError as error:
      raise StorageError(f'cannot use {self.folder}: {error.strerror}') from error

  def save(self, start: int, stop: int, carry, outs: list, rows: list[dict], stores: dict):
    """Commits the indices start..stop-1: their outs and rows, then the carry after them."""
    segment = {str(start + i): out for i, out in enumerate(outs) if out is not None}
    self._write(self.segments, stop, segment, dict(start=start, stop=stop, rows=rows))
    self._write(self.carries, stop, carry, dict(origin=self.origin, stores=stores))

  def restore(self, like):
    """dict(step, carry, ranges, rows, stores) of the last good save, or None.

    like: the initial carry; a checkpoint whose leaves have other names, shapes or dtypes refuses.
    The carry is a dict of arrays by name; `like` makes a tree of it.
    """
    for step in self._steps(self.carries):
      found = self._read(self.carries, step)
      if found is None:
        continue
      carry, meta = found
      self._check_origin(step, carry, meta, like)
      chain = self._chain(step)
      if chain is None:
        self._set_aside(self.carries, step, 'an out that it needs is damaged')
        continue
      self._drop_after(step)
      rows = [row for _, meta_ in chain for row in meta_['rows']]
      ranges = [[meta_['start'], meta_['stop']] for _, meta_ in chain]
      carry = {name: np.asarray(leaf) for name, leaf in carry.items()}
      return dict(step=step, carry=carry, ranges=ranges, rows=rows, stores=meta['stores'])
    self._drop_after(0)
    return None

  def out(self, ranges, index: int):
    """The out of one committed index, read from disk; None where the index gave none."""
    stop = next(stop for start, stop in ranges if start <= index < stop)
    found = self._read(self.segments, stop, str(index))
    if found is None:
      raise DataError(f'{self.folder}/outs/{stop} was damaged after it was written; run again')
    return tree.nest(found[0]).get(str(index))

  def at(self, step: int | None):
    """The carry after `step` indices, by names; the newest where step is None."""
    steps = self._steps(self.carries)
    if (step not in steps) if step is not None else not steps:
      have = ', '.join(map(str, sorted(steps))) or 'none'
      raise MissingInput(f'step {step} is not in {self.folder}; have {have}')
    for candidate in steps if step is None else [step]:
      found = self._read(self.carries, candidate)
      if found:
        return tree.nest(found[0])
    raise DataError(f'no undamaged step in {self.folder}')

  def _write(self, manager, step, content, meta):
    flat = {name or LONE: tree.to_host(leaf) for name, leaf in tree.named(content)}
    # Orbax refuses arrays without entries and trees without leaves: the former go into the meta
    hollow = {n: [str(x.dtype), list(x.shape)] for n, x in flat.items() if not x.size}
    full = {n: x for n, x in flat.items() if x.size} or {FILLER: np.zeros(1, np.uint8)}
    meta = dict(meta, digests=tree.digests(flat), hollow=hollow)
    ocp = self.ocp
    try:
      manager.save(
        step,
        args=ocp.args.Composite(tree=ocp.args.StandardSave(full), meta=ocp.args.JsonSave(meta)),
      )
    except Exception as error:  # TensorStore raises what its C++ status maps to
      needed = sum(leaf.nbytes for leaf in flat.values())
      reason = str(error).strip().split('\n')[0][:160]
      raise StorageError(
        f'cannot save {manager.directory}/{step} ({needed:,} bytes): {reason}; '
        f'earlier steps are kept: {sorted(manager.all_steps()) or "none"}'
      ) from error

  def _read(self, manager, step, part: str | None = None):
    """(flat tree, meta) of one step, digests checked; a damaged one is set aside and None.

    part: read only what is under this name: the whole may be larger than the memory.
    """
    ocp = self.ocp
    within = lambda name: part is None or name == part or name.startswith(f'{part}/')
    try:
      meta = manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta
      wanted = {name: digest for name, digest in meta['digests'].items() if within(name)}
      flat = dict.fromkeys(wanted.keys() - meta['hollow'].keys(), 0)
      if flat:
        arrays = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in flat}
        how = ocp.args.PyTreeRestore(item=flat, restore_args=arrays, partial_restore=True)
        flat = self.reader.restore(manager.directory / str(step) / 'tree', args=how)
      hollow = {name: like for name, like in meta['hollow'].items() if within(name)}
      flat |= {n: np.zeros(shape, dtype) for n, (dtype, shape) in hollow.items()}
    except Exception as error:
      self._set_aside(manager, step, str(error).strip().split('\n')[0][:160])
      return None
    for name in sorted(wanted.keys() | flat.keys()):
      if name not in flat or wanted.get(name) != tree.digest(flat[name]):
        self._set_aside(manager, step, f'digest of {name} differs')
        return None
    return flat, meta

  def _steps(self, manager) -> list[int]:
    """Complete steps, newest first. Empty folders and stray files are not steps."""
    folders = [pathlib.Path(manager.directory) / str(step) for step in manager.all_steps()]
    for folder in folders:
      if not any(folder.iterdir()):
        LOGGER.warning('ignored %s: empty', folder)
        folder.rmdir()
    manager.reload()
    return sorted((int(f.name) for f in folders if f.exists()), reverse=True)

  def _chain(self, step):
    """The segments that cover 0..step-1 in order, or None where one is damaged or missing."""
    chain, at = [], 0
    for stop in sorted(self._steps(self.segments)):
      if at < stop <= step:
        found = self._read(self.segments, stop)
        if found is None or found[1]['start'] != at:
          return None
        chain.append((None, found[1]))
        at = stop
    return chain if at == step else None

  def _check_origin(self, step, carry, meta, like):
    wanted = {name or LONE: leaf for name, leaf in tree.named(like)}
    where = f'{self.carries.directory}/{step}'
    for name in sorted(wanted.keys() | carry.keys()):
      if name not in carry or name not in wanted:
        has = 'holds' if name in carry else 'lacks'
        raise UsageError(f'{where} {has} {name}; it is of another model: use a new workdir')
      have, want = carry[name], tree.to_host(wanted[name])
      if have.shape != want.shape or have.dtype != want.dtype:
        raise UsageError(
          f'{where}: {name} is {have.dtype}{list(have.shape)}, this run has '
          f'{want.dtype}{list(want.shape)}; compare config.json or use a new workdir'
        )
    if meta['origin'] != self.origin:
      raise UsageError(f'{where} began from another initial state or count; use a new workdir')

  def _set_aside(self, manager, step, why):
    folder = pathlib.Path(manager.directory) / str(step)
    aside = folder.with_name(f'{step}.corrupt')
    shutil.rmtree(aside, ignore_errors=True)
    if folder.exists():
      folder.rename(aside)
    manager.reload()
    LOGGER.warning('checkpoint %s is damaged (%s): kept as %s', folder, why, aside.name)

  def _drop_after(self, step):
    """Forgets what was written after the step that a run resumes from."""
    for manager in (self.carries, self.segments):
      for later in [s for s in manager.all_steps() if s > step]:
        manager.delete(later)


def like(tree_, saved: dict):
  """A tree like tree_ of the arrays that a checkpoint holds by name."""
  return tree.unflatten(tree_, [_as(saved[name or LONE], leaf) for name, leaf in tree.named(tree_)])


def _as(saved, like):
  """saved as the kind of leaf that like is: a typed key, a JAX array, or numpy."""
  if tree.is_key(like):
    return tree.wrap_key(saved, like)
  return np.asarray(saved) if isinstance(like, np.ndarray) else jnp.asarray(saved)


def read_json(path: pathlib.Path):
  """The content of a JSON file. Raises DataError naming it where it is damaged."""
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise DataError(f'{path} is not JSON ({error}); remove it or use a new workdir') from error
