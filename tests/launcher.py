"""Runs `python -m launch.<module>` in forked children of one process that has imported all.

A fresh interpreter needs seconds to import JAX; a fork of one that has done so needs none. JAX's
backend is not started before the fork, so each child is as good as new.
"""

import dataclasses
import gc
import json
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent


@dataclasses.dataclass
class Result:
  """How a child ended: exit code (negative: killed by that signal) and what it wrote."""

  code: int
  out: str
  err: str

  @property
  def lines(self) -> list[str]:
    """Lines on stderr that are not progress."""
    return [line for line in self.err.splitlines() if line.strip()]


class Child:
  """A launched program; `wait` for its Result."""

  def __init__(self, server, pid: int, folder: pathlib.Path):
    self.server, self.pid, self.folder = server, pid, folder

  def send(self, number: int):
    """Sends a signal."""
    os.kill(self.pid, number)

  def wait_for(self, path: pathlib.Path, text: str = '', seconds: float = 60):
    """Waits until path exists and holds text."""
    end = time.monotonic() + seconds
    while not (path.exists() and text in path.read_text(errors='replace')):
      assert time.monotonic() < end, f'{path} without {text!r}: {self.read("err")}'
      time.sleep(0.02)

  def read(self, stream: str) -> str:
    """What it wrote so far to 'out' or 'err'."""
    return (self.folder / stream).read_text(errors='replace')

  def wait(self) -> Result:
    """Waits for the end; an end of the test, such as its time's, is that of the child."""
    try:
      status = self.server.ask(wait=self.pid)
    except BaseException:
      self.send(signal.SIGKILL)
      self.server.answer()
      raise
    return Result(os.waitstatus_to_exitcode(status), self.read('out'), self.read('err'))


class Launcher:
  """The process that forks."""

  def __init__(self):
    self._process = subprocess.Popen(
      [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )

  def ask(self, **request):
    """One request, one answer."""
    self._process.stdin.write(json.dumps(request) + '\n')
    self._process.stdin.flush()
    return self.answer()

  def answer(self):
    """The next one."""
    return json.loads(self._process.stdout.readline())

  def start(self, *argv: str, module: str = 'launch.run', env=None, file_size: int = 0) -> Child:
    """Starts `python -m module *argv`; env adds variables, None in it removes one."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix='launched-'))
    request = dict(argv=list(map(str, argv)), module=module, env=env or {}, size=file_size)
    return Child(self, self.ask(start=request, folder=str(folder)), folder)

  def __call__(self, *argv: str, **settings) -> Result:
    """Starts and waits."""
    return self.start(*argv, **settings).wait()

  def close(self):
    """Ends the process that forks."""
    self._process.stdin.close()
    self._process.wait()


def _child(argv, module, env, size, folder):
  for number, name in ((0, os.devnull), (1, f'{folder}/out'), (2, f'{folder}/err')):
    flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND
    os.dup2(os.open(name, flags), number)
  sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, 'w', 1), os.fdopen(2, 'w', 1)
  signal.signal(signal.SIGINT, signal.default_int_handler)
  for name, value in env.items():
    os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
  if size:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
  sys.argv = [module, *argv]
  code = 0
  try:
    sys.argv[0] = str(ROOT / (module.replace('.', '/') + '.py'))
    runpy.run_module(module, run_name='__main__', alter_sys=False)
  except SystemExit as error:
    code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
  except BaseException:
    import traceback

    traceback.print_exc()
    code = 1
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def _serve():
  # all that a run imports, but nothing that starts a backend
  import flax.linen
  import jax
  import matplotlib.pyplot
  import orbax.checkpoint
  import sklearn.datasets
  import tensorboardX

  import reduction.checkpoint
  import reduction.data
  import reduction.stages
  from tests import pickles

  pickles.watch()
  del flax, jax, matplotlib, orbax, sklearn, tensorboardX, reduction
  gc.collect()
  gc.freeze()
  for line in sys.stdin:
    request = json.loads(line)
    if 'wait' in request:
      answer = os.waitpid(request['wait'], 0)[1]
    else:
      answer = os.fork()
      if not answer:
        _child(**request['start'], folder=request['folder'])
    print(json.dumps(answer), flush=True)


if __name__ == '__main__':
  sys.path.insert(0, str(ROOT))
  _serve()
