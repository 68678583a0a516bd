"""Where rows go: `metrics.jsonl`, TensorBoard events. A row is a flat dict that JSON can hold."""

import json
import pathlib

import jax
import numpy as np

from reduction.errors import StorageError


def plain(value):
  """value as JSON holds it: arrays become lists, float32 its shortest decimal, NaN and inf None."""
  if isinstance(value, (jax.Array, np.ndarray, np.generic)):
    value = np.asarray(value)
    if value.ndim:
      return [plain(x) for x in value]
    # str of a float32 is its shortest decimal, float() of one is not
    value = float(str(value)) if value.dtype.kind == 'f' else value.item()
  if isinstance(value, float) and not np.isfinite(value):
    return None
  if isinstance(value, (list, tuple)):
    return [plain(x) for x in value]
  return value


class Sinks:
  """Writes rows to a workdir, from the beginning: a resumed run writes its restored rows again.

  A disk that is full stops no training: the rows are in the checkpoints too, and the trouble is
  reported once.
  """

  def __init__(self, workdir: pathlib.Path, warn=print):
    self._warn, self._failed = warn, False
    for old in workdir.glob('events.out.tfevents.*'):
      old.unlink(missing_ok=True)
    try:
      self._file = open(workdir / 'metrics.jsonl', 'w')  # noqa: SIM115 (closed by close)
    except OSError as error:
      raise StorageError(f'cannot write {workdir}/metrics.jsonl: {error.strerror}') from error
    self._board = _board(workdir)

  def write(self, row: dict):
    """Appends one row; numbers by step become TensorBoard scalars, one a replicate."""
    try:
      self._file.write(json.dumps(row) + '\n')
      self._file.flush()
      if self._board and 'step' in row:
        for key, value in row.items():
          values = value if isinstance(value, list) else [value]
          for i, x in enumerate(values if key != 'step' else []):
            if isinstance(x, (int, float)) and not isinstance(x, bool):
              tag = f'{row["at"]}/{key}' + (f'/{i}' if len(values) > 1 else '')
              self._board.add_scalar(tag, x, row['step'])
    except OSError as error:
      if not self._failed:
        self._warn(f'metrics are no longer written: {error.strerror}; the run goes on')
      self._failed = True

  def close(self):
    """Flushes and closes both."""
    try:
      self._file.close()
      if self._board:
        self._board.close()
    except OSError:
      self._failed = True


def _board(workdir):
  try:
    from tensorboardX import SummaryWriter
  except ImportError:  # a machine without it still trains
    return None
  return SummaryWriter(str(workdir), flush_secs=20)
