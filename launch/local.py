"""Several processes of one run on this machine, watched:

    python -m launch.local --num_processes=2 -- --config=configs/lottery/lenet.py --workdir=runs/l

What follows `--` goes to `launch.run` in each process. Their lines are tagged with the number of
the process; if one dies, gets stuck or is told something else than the others, all are ended and
one line says why. The same line goes on where the run was.
"""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from absl import flags

from launch import cli
from launch.cli import LOST
from reduction.errors import TryAgain, UserError, require

FLAGS = flags.FLAGS
flags.DEFINE_integer('num_processes', 2, 'How many processes.')
flags.DEFINE_integer('devices', 0, 'CPU devices of each process; 0: as the environment says.')
flags.DEFINE_float('stuck', 600, 'Seconds without progress of a process after which all are ended.')


class Failed(UserError):
  """A process that ended with an error of its own, whose line stands above; has its exit code."""

  def __init__(self, text: str, code: int):
    super().__init__(text)
    self.code = code


class Process:
  """One of the run's processes, with a thread that passes on what it writes."""

  def __init__(self, index: int, count: int, address: str, folder: pathlib.Path, argv, devices):
    self.index, self.beats, self.lines = index, folder / f'{index}', []
    self.beats.touch()
    own = dict(
      REDUCTION_PROCESS=f'{index}/{count}', REDUCTION_COORDINATOR=address,
      REDUCTION_HEARTBEAT=str(self.beats), PYTHONUNBUFFERED='1', PYTHONFAULTHANDLER='1',
    )  # fmt: skip
    if devices:
      theirs = os.environ.get('XLA_FLAGS', '')  # kept: the last of two flags counts
      own['XLA_FLAGS'] = f'{theirs} --xla_force_host_platform_device_count={devices}'
    self.child = subprocess.Popen(
      [sys.executable, '-m', 'launch.run', *argv], env={**os.environ, **own},
      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
      errors='replace', start_new_session=True,
    )  # fmt: skip
    self.reader = threading.Thread(target=self._pass_on, daemon=True)
    self.reader.start()

  def _pass_on(self):
    for line in self.child.stdout:
      self.lines = [*self.lines[-200:], line.rstrip()]
      if not NOISE.search(line):
        print(f'[{self.index}] {line}', end='', file=sys.stderr, flush=True)

  def silent_for(self) -> float:
    """Seconds since it last got on."""
    return time.time() - self.beats.stat().st_mtime

  def said(self, pattern: str) -> str | None:
    """Its last line that holds pattern."""
    return next((line for line in reversed(self.lines) if re.search(pattern, line)), None)

  def place(self) -> str:
    """Where in the project it is, by its own account; that ends it."""
    if self.child.poll() is not None:
      return f'process {self.index} has ended'
    stopped = pathlib.Path(f'/proc/{self.child.pid}/stat')
    if stopped.exists() and ') T' in stopped.read_text():
      return f'process {self.index} is stopped'
    self.end(signal.SIGABRT)  # its faulthandler says where it is
    self.reader.join(3)
    ours = re.compile(r'  File ".*/(reduction|launch)/.*", line \d+ in ')
    frames = [line.strip() for line in self.lines if ours.match(line)]
    return f'process {self.index} is in ' + (frames[0] if frames else 'no line of this project')

  def end(self, number: int = signal.SIGKILL):
    """Sends a signal to it and what it started."""
    if self.child.poll() is None:
      os.killpg(self.child.pid, number)


# what JAX's runtime prints of its own dying, Gloo of its connections, and Python of its threads
NOISE = re.compile(
  r'^(\s*@|\s*#?\d+\s+0x|\*\*\* |[EWIF]\d{4} |\[Gloo\]|Fatal Python error|Stack trace|'
  r'  File ".*", line \d+ in |Thread 0x|Current thread|Extension modules)'
)


def free_port() -> int:
  """A port of the loopback interface that nothing uses."""
  with socket.socket() as found:
    found.bind(('127.0.0.1', 0))
    return found.getsockname()[1]


def watch(processes: list[Process], stuck: float):
  """Waits for all; raises, with the cause in one line, where one does not end well."""
  while any(p.child.poll() is None for p in processes):
    time.sleep(0.05)
    if any(p.child.poll() for p in processes):
      time.sleep(1.0)  # the others may be about to say the same
      raise cause([p for p in processes if p.child.poll()])
    if max((p.silent_for() for p in processes if p.child.poll() is None), default=0) > stuck:
      raise TryAgain(
        f'no progress for {stuck:g} s: {", ".join(map(Process.place, processes))}; '
        'run the same line again to go on'
      )
  if failed := [p for p in processes if p.child.returncode]:
    raise cause(failed)


def cause(gone: list[Process]) -> UserError:
  """The error to raise for processes that ended: what one said, or else that one was killed.

  JAX's runtime may crash where another process left first, so a crash counts after all words.
  """
  for p in gone:
    p.reader.join(2)
  for p in gone:
    said = p.said('^error: ')
    if said and LOST not in said and p.child.returncode > 0:
      return Failed(f'process {p.index}: {said.removeprefix("error: ")}', p.child.returncode)
  if killed := ended_by(gone, signal.SIGKILL):
    return killed
  for p in gone:
    if p.child.returncode in (130, 143):
      return Failed('stopped and saved; run the same line again to go on', p.child.returncode)
  if crashed := ended_by(gone, signal.SIGSEGV, signal.SIGBUS):
    return crashed
  p = gone[0]
  said = p.said('^error: |DEADLINE_EXCEEDED|UNAVAILABLE|Error|Exception')
  reason = said or f'code {p.child.returncode}'
  return TryAgain(f'process {p.index} ended: {reason[:200]}; run the same line again to go on')


def ended_by(gone: list[Process], *numbers: int) -> UserError | None:
  """The error to raise for the first process that one of these signals ended, if any."""
  for p in gone:
    if -p.child.returncode in numbers:
      name = signal.Signals(-p.child.returncode).name
      return TryAgain(f'process {p.index} was killed ({name}); run the same line again to go on')
  return None


def main(argv):
  count = FLAGS.num_processes
  require(count > 0, f'--num_processes={count} must be above 0')
  require(FLAGS.stuck > 0, f'--stuck={FLAGS.stuck} must be above 0')
  require(len(argv) > 1, 'the flags of launch.run are needed: -- --config=... --workdir=...')
  address = f'127.0.0.1:{free_port()}'  # the runtime knows no passwords: this machine alone
  with tempfile.TemporaryDirectory() as folder:
    processes = [
      Process(i, count, address, pathlib.Path(folder), argv[1:], FLAGS.devices)
      for i in range(count)
    ]
    pass_on = lambda number, frame: [p.end(number) for p in processes]
    before = {n: signal.signal(n, pass_on) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
      watch(processes, FLAGS.stuck)
    finally:
      for p in processes:
        p.end()
        p.child.wait()
      for number, handler in before.items():
        signal.signal(number, handler)


if __name__ == '__main__':
  cli.run(main)
