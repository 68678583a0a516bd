"""Damaged checkpoints and failing disks. Numbers in brackets: the project's fault list."""

import errno
import io
import json
import os
import pathlib
import re

import jax.numpy as jnp
import numpy as np
import pytest

from reduction import checkpoint, models, saved, tree
from reduction.errors import MissingInput, StorageError
from reduction.net import create
from reduction.run import Run

# random, so that the arrays are the largest files of a checkpoint even when compressed
WEIGHTS = np.random.default_rng(0).normal(size=5_000).astype(np.float32)


def work(workdir, count=3, crash=None):
  """A fold of `count` saved indices; (carry, outs, rows, the index it began at)."""
  run, begun = Run(workdir=workdir, save_every=0.0), []

  def step(carry, index, run):
    begun.append(index)
    if index == crash:
      raise KeyboardInterrupt
    run.log(index=index)
    return dict(w=carry['w'] * 2 + index), dict(w=carry['w'])

  carry, outs = run.fold('work', step, dict(w=jnp.asarray(WEIGHTS)), count)
  return np.asarray(carry['w']), [np.asarray(o['w']) for o in outs], run.rows, begun[:1]


def crashed(folder):
  """The checkpoints of a run that died in its last index: steps 1 and 2."""
  with pytest.raises(KeyboardInterrupt):
    work(folder, crash=2)
  return folder / 'checkpoints' / 'work'


def largest(folder):
  """The file that holds most of a step."""
  return max((p for p in folder.rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)


def flip(step):
  """Flips a bit in the middle of the largest file."""
  path = largest(step)
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def garbage(name):
  """Overwrites every file of a name."""

  def damage(step):
    for path in step.rglob(name):
      path.write_text('{"garbage')

  return damage


DAMAGES = {
  'flip': flip,  # [7]
  'truncate': lambda step: os.truncate(largest(step), largest(step).stat().st_size // 2),  # [8]
  'missing': lambda step: largest(step).unlink(),  # [8]
  'metadata': garbage('_METADATA'),  # [9]
  'checkpoint metadata': garbage('_CHECKPOINT_METADATA'),  # [9]
  'meta': garbage('metadata'),  # [9]
  'commit': lambda step: (step / 'commit_success.txt').write_text('{"garbage'),  # [9]
}
UNUSED = 'checkpoint metadata', 'commit'  # of which Orbax needs nothing here


@pytest.mark.parametrize('part', ['carry', 'outs'])
@pytest.mark.parametrize('damage', DAMAGES)
def test_a_damaged_step_is_set_aside_and_the_one_before_used(tmp_path, caplog, damage, part):
  wanted = work(None)
  folder = crashed(tmp_path)
  DAMAGES[damage](folder / part / '2')
  carry, outs, rows, begun = work(tmp_path)
  assert np.array_equal(carry, wanted[0]) and np.array_equal(outs, wanted[1])
  assert rows == wanted[2]
  if begun == [1]:
    assert (folder / part / '2.corrupt').exists()
    assert 'is damaged' in caplog.text
  else:
    assert damage in UNUSED and begun == [2]


def test_a_leaf_that_is_not_what_was_saved_is_named(tmp_path, caplog):  # [7]
  """As where a bit flips in a place that the file's own compression does not notice."""
  step = crashed(tmp_path) / 'carry' / '2'
  was = tree.digest(checkpoint.load(step.parent.parent, 2)['w'])
  told = [path for path in step.rglob('*') if path.is_file() and was in path.read_text('latin-1')]
  for path in told:
    path.write_text(path.read_text('latin-1').replace(was, was[::-1]), 'latin-1')
  carry, _, _, begun = work(tmp_path)
  assert told and begun == [1] and np.array_equal(carry, work(None)[0])
  assert 'digest of w differs' in caplog.text


def test_no_good_step_at_all_begins_again(tmp_path):
  folder = crashed(tmp_path)
  for step in '1', '2':
    flip(folder / 'carry' / step)
  carry, _, rows, begun = work(tmp_path)
  assert begun == [0]
  assert np.array_equal(carry, work(None)[0]) and rows == work(None)[2]


def test_empty_folders_and_stray_files_are_no_steps(tmp_path, caplog):  # [10]
  folder = crashed(tmp_path)
  (folder / 'carry' / '7').mkdir()
  (folder / 'carry' / '9').write_text('stray')
  carry, _, _, begun = work(tmp_path)
  assert begun == [2] and np.array_equal(carry, work(None)[0])
  assert (folder / 'carry' / '9').read_text() == 'stray' and 'carry/7: empty' in caplog.text


def test_a_step_that_is_not_there_names_those_that_are(tmp_path):  # [11]
  folder = crashed(tmp_path)
  assert np.array_equal(checkpoint.load(folder, 1)['w'], WEIGHTS * 2)
  with pytest.raises(MissingInput, match=r'step 77 .* have 1, 2'):
    checkpoint.load(folder, 77)


def failing(monkeypatch, name, at, error):
  """Makes the at-th open, write, os.fsync or os.replace fail; returns how many there were."""
  calls = [0]

  def counted(real):
    def call(*args, **kwargs):
      calls[0] += 1
      if calls[0] == at:
        raise OSError(error, os.strerror(error))
      return real(*args, **kwargs)

    return call

  class Written(io.BufferedWriter):
    write = counted(io.BufferedWriter.write)

  if name == 'open':
    monkeypatch.setattr(checkpoint, 'open', counted(open), raising=False)
  elif name == 'write':
    opened = lambda path, mode: Written(io.FileIO(path, mode))
    monkeypatch.setattr(checkpoint, 'open', opened, raising=False)
  else:
    monkeypatch.setattr(os, name, counted(getattr(os, name)))
  return calls


@pytest.mark.parametrize('name', ['open', 'write', 'fsync', 'replace'])
def test_a_failing_disk_leaves_the_old_file_or_the_new_one(tmp_path, monkeypatch, name):  # [6, 52]
  """Whichever call of the system's fails, the first, the second, ... until there is none left."""
  path, fails = tmp_path / 'report.html', 0
  while True:
    checkpoint.write_atomic(path, 'old')
    with monkeypatch.context() as patch:
      calls = failing(patch, name, fails + 1, errno.ENOSPC)
      try:
        checkpoint.write_atomic(path, 'new')
      except StorageError as error:
        assert re.search(r'cannot write .*report.html \(3 bytes\): No space', str(error))
        fails += 1
        assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]
        continue
    assert calls[0] <= fails and path.read_text() == 'new'
    break
  assert fails > 0


@pytest.mark.parametrize('name', ['open', 'write', 'fsync', 'replace'])
def test_a_failing_disk_leaves_the_old_net_or_the_new_one(tmp_path, monkeypatch, name):  # [6, 52]
  """Of a folder with a file in pieces, whichever call fails."""
  path, fails = tmp_path / 'nets' / 'one', 0
  module = models.mlp(widths=(3,))
  made = lambda i: create(module, Run(seeds=(i,)).key('init', 0), jnp.zeros((1, 2, 2, 1)))
  same = lambda a, b: tree.digests(a.params) == tree.digests(b.params)
  old, new = made(0), made(1)
  while True:
    saved.write(path, old)
    with monkeypatch.context() as patch:
      calls = failing(patch, name, fails + 1, errno.ENOSPC)
      try:
        saved.write(path, new)
      except StorageError:
        fails += 1
        assert same(saved.read(path, models), old) and list(path.parent.iterdir()) == [path]
        continue
    assert calls[0] <= fails and same(saved.read(path, models), new)
    break
  assert fails > 0


def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):  # [49]
  wanted, moved = work(None), iter(range(10**6))
  monkeypatch.setattr('time.time', lambda: 1e9 - 1e5 * next(moved))  # back a day with each look
  with pytest.raises(KeyboardInterrupt):
    work(tmp_path, crash=2)
  carry, _, rows, begun = work(tmp_path)
  assert begun == [2] and np.array_equal(carry, wanted[0]) and rows == wanted[2]


@pytest.mark.parametrize('at', [1, 2, 3])
def test_every_failing_write_of_a_store_leaves_the_round_before(tmp_path, monkeypatch, at):  # [52]
  def rounds(workdir):
    run = Run(workdir=workdir, save_every=0.0)
    store = run.store('clients', jnp.zeros(()))

    def step(carry, index, run):
      store[0] = store[0] * 3 + index + 1
      return carry, None

    run.fold('rounds', step, jnp.zeros(()), 3)
    return float(store[0])

  with monkeypatch.context() as patch:
    failing(patch, 'replace', at, errno.EIO)
    with pytest.raises(StorageError):
      rounds(tmp_path)
  assert rounds(tmp_path) == rounds(None)


def test_a_disk_too_full_for_metrics_lets_the_run_go_on(monkeypatch, tmp_path):  # [6]
  from reduction.rows import Sinks

  said = []
  sinks = Sinks(tmp_path, said.append)

  class Full:
    def write(self, text):
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self):
      pass

  sinks._file.close()
  sinks._file = Full()
  for _ in range(3):
    sinks.write(dict(at='x', step=1))
  sinks.close()
  assert said == ['metrics are no longer written: No space left on device; the run goes on']


def test_a_disk_that_is_full_when_a_run_ends_is_no_traceback(monkeypatch, tmp_path):  # [5, 6]
  from launch import run

  monkeypatch.setattr(run.cli, 'command', lambda: 'this')
  path = tmp_path / 'sessions.jsonl'
  with run._session(tmp_path):
    pass
  before = path.read_text()
  failing(monkeypatch, 'fsync', 1, errno.ENOSPC)
  with pytest.raises(StorageError, match=r'cannot write .*sessions.jsonl'), run._session(tmp_path):
    raise StorageError('cannot write the logits')  # on its way when the line fails too
  assert path.read_text() == before and json.loads(before)['command'] == 'this'


def test_nothing_half_written_is_left_behind(tmp_path):
  crashed(tmp_path)
  work(tmp_path)
  assert not [p for p in pathlib.Path(tmp_path).rglob('*') if 'tmp' in p.name]
