"""The sides of a benchmark: processes that answer a line of JSON with a line of JSON.

No two sides share a process, so that neither's threads, allocator or compiled code touches the
other; while one works the others wait on their pipes.
"""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from reduction.errors import MissingInput

ROOT = pathlib.Path(__file__).parent.parent.parent
TOLD: dict[str, str] = {}  # name of a side -> what it said of itself in this process
Ask = Callable[..., dict]  # ask(seeds=[0], steps=100...) -> the reply


class Side(NamedTuple):
  """A process at work. about: its reply to the settings. peak_mib: the most memory it held."""

  ask: Ask
  about: dict
  peak_mib: Callable[[], float | None]


class Session(NamedTuple):
  """What a benchmark may use beside its settings.

  data_dir: where data sets are looked for. peer_python: the Python that has the peers. say: takes
  a line for the terminal.
  """

  data_dir: str | None = None
  peer_python: str = sys.executable
  say: Callable[[str], None] = lambda line: None


class Spread(NamedTuple):
  """What repeats of one measurement gave."""

  median: float
  low: float
  high: float

  def fields(self, name: str) -> dict:
    """Columns of a row: name, name_low and name_high."""
    return {name: self.median, f'{name}_low': self.low, f'{name}_high': self.high}


def spread(values) -> Spread:
  """Median and range of values, to five digits."""
  return Spread(*(float(f'{f(values):.5g}') for f in (np.median, np.min, np.max)))


def on_platform(platform: str = 'cpu') -> dict[str, str]:
  """Variables of our sides: where the peers are, or on another platform of JAX; a compile cache
  would hide the compile time."""
  cache = os.environ.get('JAX_ENABLE_COMPILATION_CACHE', 'false')
  return dict(JAX_PLATFORMS=platform, JAX_ENABLE_COMPILATION_CACHE=cache)


@contextlib.contextmanager
def process(name: str, command: list[str], settings: dict, **variables: str):
  """Runs command and gives it settings; yields its Side.

  variables: added to its environment. Raises MissingInput where it ends before it has answered.
  """
  path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get('PYTHONPATH'))))
  environment = {**os.environ, 'PYTHONPATH': path, **variables}
  try:
    child = subprocess.Popen(
      command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
  except OSError as error:
    raise MissingInput(f'{name}: cannot run {command[0]}: {error.strerror}') from error

  def ask(**job) -> dict:
    with contextlib.suppress(BrokenPipeError):
      print(json.dumps(job), file=child.stdin, flush=True)
    reply = child.stdout.readline()
    if not reply:
      raise MissingInput(f'{name} ended with code {child.wait()}; its own words stand above')
    return json.loads(reply)

  try:
    about = ask(**settings)
    TOLD[name] = str(about.get('about', ''))
    yield Side(ask, about, lambda: _peak_mib(child.pid))
  finally:
    with contextlib.suppress(BrokenPipeError):
      child.stdin.close()
    try:
      child.wait(timeout=5)
    except subprocess.TimeoutExpired:
      child.kill()
      child.wait()
    child.stdout.close()


def _peak_mib(pid: int) -> float | None:
  """MiB. Not ru_maxrss, which begins at that of the process that started this one."""
  with contextlib.suppress(OSError):
    found = re.search(r'VmHWM:\s+(\d+) kB', pathlib.Path(f'/proc/{pid}/status').read_text())
    return int(found[1]) / 1024 if found else None
  return None  # only Linux says


def together(sides: list[Side]) -> Side:
  """Several processes as one side: the seeds of a job are dealt to them, and they work at once."""

  def ask(seeds: list[int], **job) -> dict:
    hands = [seeds[i :: len(sides)] for i in range(min(len(sides), len(seeds)))]
    with ThreadPoolExecutor(len(hands)) as pool:
      replies = list(pool.map(lambda side, hand: side.ask(seeds=hand, **job), sides, hands))
    losses = {s: x for hand, r in zip(hands, replies) for s, x in zip(hand, r['validation_loss'])}
    seconds = max(reply['seconds'] for reply in replies)
    return dict(seconds=seconds, validation_loss=[losses[seed] for seed in seeds])

  def peak_mib():
    peaks = [side.peak_mib() for side in sides]
    return None if None in peaks else sum(peaks)

  return Side(ask, sides[0].about, peak_mib)


def interleaved(asks: dict[str, Ask], jobs: list[dict], repeats: int, say) -> dict:
  """(side, index of the job) -> its replies, the warm-up first, then `repeats` more.

  Each repeat gives every job to each side in turn, and every second repeat in reverse order, so
  that what else runs on the machine meets all sides alike.
  """
  replies = {(side, i): [] for side in asks for i in range(len(jobs))}
  for repeat in range(repeats + 1):
    for i, job in enumerate(jobs):
      for side in list(asks)[:: -1 if repeat % 2 else 1]:
        replies[side, i].append(asks[side](**job))
    say(f'repeat {repeat} of {repeats}' if repeat else 'warmed up')
  return replies
