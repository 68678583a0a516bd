"""`Run`, all that a stage may touch beside the net, and `chain`, which runs stages in order.

Stage = Callable[[Net, Run], Net]
"""

import contextlib
import copy
import dataclasses
import pathlib
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from reduction import checkpoint, fold, saved
from reduction.errors import UsageError, require
from reduction.net import Net
from reduction.processes import first, require_one
from reduction.rows import plain
from reduction.store import Store

Stage = Callable[[Net, 'Run'], Net]
STREAMS = ('init', 'data', 'augment', 'dropout', 'mask', 'noise')


@dataclasses.dataclass
class Run:
  """Data, streams of randomness, rows, files, earlier nets, and loops that outlive a crash.

  data: what the stages train and measure on. seeds: one a replicate. workdir: where the run is
  kept; None keeps all in memory, which is what a notebook uses. mesh: devices to train on.
  measure: (net, run) -> the row of the before/after table. sinks: takes each row (`rows.Sinks`).
  known: what stages have found out, for those that come after.
  progress: shows the folds (`progress.Progress`). save_every: seconds between checkpoints.
  """

  data: Any = None
  seeds: Sequence[int] = (0,)
  workdir: pathlib.Path | None = None
  mesh: Any = None
  measure: Callable[[Net, 'Run'], dict] = lambda net, run: {}
  sinks: Any = None
  progress: Any = None
  save_every: float = 20.0
  rows: list[dict] = dataclasses.field(default_factory=list)
  nets: dict[str, Net] = dataclasses.field(default_factory=dict)
  known: dict = dataclasses.field(default_factory=dict)
  path: tuple[str, ...] = ()
  tags: dict = dataclasses.field(default_factory=dict)
  names: set = dataclasses.field(default_factory=set)
  stores: dict = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    self.workdir = pathlib.Path(self.workdir) if self.workdir else None
    self.seeds = tuple(self.seeds)
    require(len(set(self.seeds)) == len(self.seeds) > 0, f'seeds={self.seeds} must differ')

  def key(self, stream: str, *salt: int) -> jax.Array:
    """Keys [R] of a stream: of seed, stream and salt alone, never of a display name."""
    require(stream in STREAMS, f'{stream=} is not one of {", ".join(STREAMS)}')
    keys = [jax.random.fold_in(jax.random.key(s), zlib.crc32(stream.encode())) for s in self.seeds]
    for s in salt:
      keys = [jax.random.fold_in(key, s) for key in keys]
    return jnp.stack(keys)

  def child(self, name: str | int, **tags) -> 'Run':
    """The same run under one more name, once a name; its rows carry the tags too."""
    name = str(name)
    require(re.fullmatch(r'[\w=+-]+', name) is not None, f'{name!r} cannot name a part of a run')
    if name in self.names:
      raise UsageError(f'{self.where} already has a part named {name!r}')
    self.names.add(name)
    part = copy.copy(self)
    part.path, part.tags = (*self.path, name), {**self.tags, **tags}
    part.names, part.stores = set(), {}
    return part

  @property
  def where(self) -> str:
    """The path as text: 'lottery/levels/3/ticket'."""
    return '/'.join(self.path) or 'the run'

  def log(self, **row):
    """Adds a row, a flat dict; arrays [R] become lists in the order of the seeds."""
    row = {'at': '/'.join(self.path), **self.tags, **row}
    self.emit({key: plain(value) for key, value in row.items()})

  @contextlib.contextmanager
  def write(self, name: str) -> Iterator[pathlib.Path]:
    """`with run.write('pictures') as folder:` fills a folder of this part (C sources, pictures).

    It takes its place under the workdir, for an older one of that name, when the block ends well;
    until then it has another name, so it is never half there.
    """
    require(self.workdir is not None, f'{name!r} needs a workdir: pass one to Run')
    if not first():  # process 0 alone writes
      with tempfile.TemporaryDirectory() as nowhere:
        yield pathlib.Path(nowhere)
      return
    with checkpoint.whole_folder(self.workdir.joinpath('files', *self.path, name)) as unfinished:
      yield unfinished

  def store(self, name: str, initial) -> Store:
    """Trees by key, like `initial`, committed with the next folds of this run; see `Store`."""
    require(name not in self.stores, f'{self.where} already has a store named {name!r}')
    folder = self.workdir and self.workdir.joinpath('stores', *self.path, name)
    if folder:
      require_one('a store on disk')
    self.stores[name] = Store(initial, folder)
    return self.stores[name]

  def fold(self, name: str, step, carry, count: int):
    """`carry, out = step(carry, index, run)` for each index, as in `lax.scan`.

    carry: a small tree, overwritten; a step that holds a fold of its own must not donate it. out:
    nested dicts of arrays or None, written once and read lazily. Saved at most every `save_every`
    seconds or `fold.WAITING` bytes of outs, after the last index, and on a signal; what lies
    between is computed again, so that resuming gives the same bits and rows. Returns (carry, outs),
    outs a sequence.
    Raises UsageError where name was used before or a checkpoint began from another carry or count.
    """
    return fold.loop(self, name, step, carry, count)

  def emit(self, row: dict):
    """Takes a finished row, newly logged or restored: keeps it and hands it to the sinks."""
    self.rows.append(row)
    if self.sinks:
      self.sinks.write(row)


def chain(**stages: Stage) -> Stage:
  """Runs stages in order, each under its own name; a stage too.

  `run.nets` keeps what each returned ('start' is what the chain was given), and so does the folder
  `nets` of a workdir, for `saved.read`, what is not too large for it, nor 'start' again. The row of
  `run.measure` before the first and after every stage makes the before/after table; a net that a
  stage returns as it came is not measured again.
  """

  def stage(net: Net, run: Run) -> Net:
    rows = []  # (net, its row)

    def measured(name):
      run.nets[name] = net
      if run.workdir and first() and net is not run.nets['start'] and saved.fits(net):
        saved.write(run.workdir / 'nets' / name, net)
      row = next((row for seen, row in rows if seen is net), None)
      row = row or run.measure(net, run.child(f'{name}-measured'))
      rows.append((net, row))
      run.log(kind='stage', summary=True, stage=name, seeds=run.seeds, **row)

    measured('start')
    for name, one in stages.items():
      net = one(net, run.child(name))
      measured(name)
    return net

  return stage
