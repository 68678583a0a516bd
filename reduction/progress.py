"""How far a run is: live bars on a terminal, a plain line every few seconds elsewhere."""

import dataclasses
import logging
import sys
import time

LOGGER = logging.getLogger('reduction.progress')


@dataclasses.dataclass
class _Fold:
  name: str
  done: int
  count: int
  first: int  # the index it began at, or went on from
  entered: float
  advanced: float  # when `done` last changed


class Progress:
  """Shows the folds under way, outermost first. every: seconds between plain lines."""

  def __init__(self, every: float = 10.0, stream=None):
    self.stream = stream or sys.stderr
    self.every, self.started, self._printed = every, time.monotonic(), time.monotonic()
    self._folds: list[_Fold] = []
    self._note = ''
    self._bars = _bars(self.stream) if self.stream.isatty() else None
    self._tasks: list = []

  def enter(self, name: str, done: int, count: int):
    """A fold begins, or goes on at index `done` of `count`."""
    now = time.monotonic()
    self._folds.append(_Fold(name, done, count, done, now, now))
    if self._bars:
      self._bars.start()
      label = '  ' * len(self._tasks) + name
      self._tasks.append(self._bars.add_task(label, completed=done, total=count, note=''))

  def advance(self, done: int):
    """The innermost fold has `done` indices behind it."""
    self._folds[-1].done, self._folds[-1].advanced = done, time.monotonic()
    if self._bars:
      self._bars.update(self._tasks[-1], completed=done, note=self._note)
    elif time.monotonic() - self._printed >= self.every:
      self.line(self.text())

  def leave(self):
    """The innermost fold ended."""
    self._folds.pop()
    if self._bars:
      self._bars.remove_task(self._tasks.pop())
      if not self._tasks:
        self._bars.stop()

  def note(self, text: str):
    """The newest figure of the run, shown beside the progress."""
    self._note = text

  def line(self, text: str):
    """One plain line, above the bars where there are some, and in the log."""
    LOGGER.info('%s', text)
    if self._bars:
      self._bars.console.print(text, highlight=False, markup=False)
      return
    self._printed = time.monotonic()
    print(text, file=self.stream, flush=True)

  def text(self) -> str:
    """'  83 s  levels 3/21 > ticket/train 4/15, ETA 12:05  validation_loss 0.07'."""
    where = ' > '.join(f'{fold.name} {fold.done}/{fold.count}' for fold in self._folds)
    elapsed = time.monotonic() - self.started
    return f'{elapsed:5.0f} s  {where}, ETA {self.eta()}  {self._note}'.rstrip()

  def eta(self) -> str:
    """Time left by the outermost fold's pace, '--:--' before its first index has ended."""
    fold = self._folds[0]
    if fold.done == fold.first:
      return '--:--'
    pace = (fold.advanced - fold.entered) / (fold.done - fold.first)
    left = pace * (fold.count - fold.done) - (time.monotonic() - fold.advanced)
    hours, rest = divmod(int(max(left, 0)), 3600)
    return (f'{hours}:' if hours else '') + f'{rest // 60:02}:{rest % 60:02}'


def _bars(stream):
  from rich.console import Console
  from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
  from rich.progress import Progress as Bars

  return Bars(
    TextColumn('{task.description}'),
    BarColumn(),
    MofNCompleteColumn(),
    TimeRemainingColumn(elapsed_when_finished=True),
    TextColumn('{task.fields[note]}'),
    console=Console(file=stream),
    transient=True,
  )
