"""Flower's processes: a SuperLink with its run, a SuperNode; started, watched, ended."""

import contextlib
import json
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from reduction import signals
from reduction.errors import DataError, Interrupted, MissingInput, TryAgain
from reduction.federate import frames
from reduction.federate.network import Frame

ROOT = pathlib.Path(__file__).parent.parent
LEASH = 'setpriv', '--pdeathsig', 'TERM'  # of util-linux: ends with what started it
STARTING = 120  # seconds that Flower may take to answer at first
# of a log's lines, those that say most first
TELLING = r'\[code', r'could not', r'Error\b', r'ERROR', r'.'
APP = 'from reduction.federate.flower import {0}\n\n__all__ = [{0!r}]\n'
PROJECT = """[project]
name = "reduction-federation"
version = "1.0.0"
description = "Carries frames"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "reduction"

[tool.flwr.app.components]
serverapp = "carrier.at_server:server"
clientapp = "carrier.at_client:client"

[tool.flwr.app.config]
socket = ""
"""


def environment(home: pathlib.Path) -> dict[str, str]:
  """Variables of all of Flower's processes: it tells nobody anything and installs nothing."""
  joined = lambda *parts: os.pathsep.join(filter(None, parts))
  return os.environ | dict(
    PYTHONPATH=joined(str(ROOT), os.environ.get('PYTHONPATH')),
    PATH=joined(str(pathlib.Path(sys.executable).parent), os.environ.get('PATH')),
    FLWR_HOME=str(home), FLWR_TELEMETRY_ENABLED='0',
    FLWR_DISABLE_UPDATE_CHECK='1', FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION='1',
  )  # fmt: skip


def program(name: str) -> str:
  """The path of one of Flower's commands. Raises MissingInput where they are not installed."""
  found = shutil.which(name, path=str(pathlib.Path(sys.executable).parent)) or shutil.which(name)
  if not found:
    raise MissingInput(f"{name} is not there: pip install 'reduction[flower]'")
  return found


class Process:
  """One of Flower's processes, with its children, that writes to a log.

  It ends with the thread that makes it, where LEASH is there: a command that is killed leaves no
  SuperNode that holds its key, and no SuperLink at its port.
  """

  def __init__(self, name: str, arguments: list, home: pathlib.Path, log: pathlib.Path):
    self.log = log
    leash = LEASH if shutil.which(LEASH[0]) else ()
    command = [*leash, program(name), *map(str, arguments)]
    with open(log, 'ab') as file:
      self.child = subprocess.Popen(
        command, env=environment(home), stdin=subprocess.DEVNULL, stdout=file, stderr=file,
        start_new_session=True,
      )  # fmt: skip

  def ended(self) -> bool:
    """Whether it is no more."""
    return self.child.poll() is not None

  def why(self) -> str:
    """The line of its log that says most of how it ended."""
    lines = re.sub(r'\x1b\[\d+m', '', self.log.read_text(errors='replace')).splitlines()
    found = [[line for line in lines if re.search(how, line)] for how in TELLING]
    return f'{next(filter(None, found), ["it says nothing"])[-1].strip()[:200]}; see {self.log}'

  def end(self, grace: float = 10):
    """Ends it and its children."""
    for number in (signal.SIGTERM, signal.SIGKILL):
      with contextlib.suppress(ProcessLookupError):
        os.killpg(self.child.pid, number)
      with contextlib.suppress(subprocess.TimeoutExpired):
        self.child.wait(grace)


class Server:
  """A SuperLink, the run that carries frames, and the line to it."""

  def __init__(self, address: str, keys: pathlib.Path, home: pathlib.Path, workdir: pathlib.Path):
    self.address, self.keys, self.home, self.log = address, keys, home, workdir / 'superlink.log'
    host, port = address.rsplit(':', 1)
    self.link = Process('flower-superlink', [
      '--host', host, '--port', port, '--disable-runtime-dependency-installation',
      '--ssl-ca-certfile', keys / 'ca.pem', '--ssl-certfile', keys / 'server.pem',
      '--ssl-keyfile', keys / 'server.key', '--enable-supernode-auth',
    ], home, self.log)  # fmt: skip
    self.nodes: dict[int, int] = {}  # client -> its node

  def start(self, listener: socket.socket, path: pathlib.Path) -> socket.socket:
    """Admits the clients whose keys are there and starts the run; returns the line to its app."""
    where = f'address="{self.address}"\nroot-certificates="{(self.keys / "ca.pem").resolve()}"\n'
    text = f'[superlink]\ndefault="here"\n[superlink.here]\n{where}'
    (self.home / 'config.toml').write_text(text)
    self._reached()
    for key in sorted(self.keys.glob('*.pub'), key=lambda p: int(p.stem)):
      said = self._told('supernode', 'register', key, 'here', '--format', 'json')
      self.nodes[int(key.stem)] = int(said['node-id'])
    app = self.home / 'app'
    (app / 'carrier').mkdir(parents=True)
    (app / 'pyproject.toml').write_text(PROJECT)
    (app / 'carrier' / '__init__.py').touch()
    for side in 'server', 'client':
      (app / 'carrier' / f'at_{side}.py').write_text(APP.format(side))
    self._told('run', app, 'here', '--run-config', f'socket="{path}"', '--format', 'json')
    listener.settimeout(STARTING)
    try:
      return listener.accept()[0]
    except TimeoutError as error:
      raise TryAgain(f'the run on the SuperLink does not start: {self.link.why()}') from error

  def _reached(self):
    host, port = self.address.rsplit(':', 1)
    until = time.monotonic() + STARTING
    while time.monotonic() < until and not self.link.ended():
      with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
        return
      time.sleep(0.2)
    raise TryAgain(f'the SuperLink does not answer at {self.address}: {self.link.why()}')

  def _told(self, *arguments) -> dict:
    """What a command of `flwr` says in JSON."""
    done = subprocess.run(
      [program('flwr'), *map(str, arguments)], env=environment(self.home), capture_output=True,
      text=True, timeout=STARTING,
    )  # fmt: skip
    try:
      found = json.loads(done.stdout)
    except ValueError:
      found = {}
    if done.returncode or not found.get('success'):
      said = (done.stderr or done.stdout).strip()[-300:]
      raise TryAgain(f'flwr {arguments[0]}: {found.get("error-message", said)}')
    return found


def asking(line: socket.socket, nodes: dict[int, int], patience: float) -> Callable:
  """ask for `serving.serving`, over the line to the run's app. patience: seconds for a round."""
  clients, asked = {node: client for client, node in nodes.items()}, []

  def ask(greetings: dict[int, Frame], most: int) -> Iterator[tuple[int, Frame]]:
    bodies = {nodes[client]: frames.joined(*frame) for client, frame in greetings.items()
              if client in nodes}  # fmt: skip
    sizes = [(node, len(body)) for node, body in bodies.items()]
    most = frames.longest(most)
    head = dict(nodes=sizes, seconds=patience, gather=not asked, most=most)
    asked.append(True)
    try:
      frames.send(line, head, b''.join(bodies.values()))
      while (data := heard(line, most)) is not None:
        head, body = frames.parted(data)
        if head['node'] is None:
          return
        yield clients[head['node']], opened(body)
    except OSError as error:
      raise TryAgain(f"the SuperLink's run is gone ({error}); run the same line again") from error
    raise TryAgain("the SuperLink's run has ended; run the same line again")

  return ask


def heard(line: socket.socket, most: int) -> bytes | None:
  """The next frame, with a body of at most so many bytes; a signal ends the wait for it."""
  while not select.select([line], [], [], 1)[0]:
    stop_if_told()
  return frames.receive(line, most)


def stop_if_told():
  """Raises Interrupted where this process was told to end."""
  if number := signals.received():
    raise Interrupted(128 + number)


def opened(data: bytes) -> Frame:
  """The frame of an answer; of bytes that are none, an error."""
  try:
    return frames.parted(data)
  except Exception as error:  # whatever a client may send
    return dict(error=f'no frame: {error}'), b''


class Node:
  """A client's SuperNode and the socket on which its greetings come."""

  def __init__(
    self, address: str, keys: pathlib.Path, home: pathlib.Path, workdir: pathlib.Path,
    patience: float,
  ):  # fmt: skip
    self.listener, path = listening(home)
    self.listener.settimeout(1)
    self.patience = patience
    with socket.socket() as free:
      free.bind(('127.0.0.1', 0))
      port = free.getsockname()[1]
    self._start = lambda: Process('flower-supernode', [
      '--superlink', address, '--root-certificates', keys / 'ca.pem',
      '--auth-supernode-private-key', keys / 'key', '--host', '127.0.0.1', '--port', port,
      '--node-config', f'socket="{path}"',
    ], home, workdir / 'supernode.log')  # fmt: skip
    self.process, self.until = self._start(), time.monotonic() + patience

  def wait(self, most: int = frames.MOST) -> tuple[Frame, Callable[[Frame], None]]:
    """The next greeting and what takes its answer, for `working.working`. most: of its bytes.

    A SuperNode that ends is started again for `patience` seconds after it was last served: the
    server may not have started yet, or may start anew. Raises TryAgain after that.
    """
    while True:
      stop_if_told()
      if self.process.ended():
        if time.monotonic() > self.until:
          raise TryAgain(f'the SuperNode has ended: {self.process.why()}')
        time.sleep(1)
        self.process = self._start()
      with contextlib.suppress(TimeoutError, DataError):  # half a greeting of an app that died
        line, _ = self.listener.accept()
        line.settimeout(None)
        data = frames.receive(line, most)
        if data is not None:
          self.until = time.monotonic() + self.patience
          return frames.parted(data), lambda frame, line=line: self._reply(line, frame)

  @staticmethod
  def _reply(line: socket.socket, frame: Frame):
    with contextlib.suppress(OSError), line:  # who asked may be gone
      frames.send(line, *frame)


def listening(home: pathlib.Path) -> tuple[socket.socket, pathlib.Path]:
  """(a socket that listens, its path); home: a short path, of this user alone."""
  listener, path = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), home / 'line'
  listener.bind(str(path))
  listener.listen()
  return listener, path
