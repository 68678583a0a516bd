"""An audit hook under which the whole suite runs: nothing of the project opens a pickle."""

import pathlib
import sys

ROOT = pathlib.Path(__file__).parent.parent
OURS = tuple(f'{ROOT / folder}/' for folder in ('reduction', 'launch', 'configs'))
opened: list[str] = []  # in this process, so that no `except` hides one


def watch():
  """From now on whoever looks up a class for a pickle, called by the project, fails."""
  sys.addaudithook(_refuse)


def _refuse(event: str, args):
  if event != 'pickle.find_class':
    return
  frame = sys._getframe(1)
  while frame:
    if frame.f_code.co_filename.startswith(OURS):
      opened.append(f'{frame.f_code.co_filename}:{frame.f_lineno} unpickled {".".join(args)}')
      raise RuntimeError(opened[-1])
    frame = frame.f_back


def unpickle():
  """Does what is refused, as a file of the project would."""
  source = 'import pickle\npickle.loads(pickle.dumps(print))'
  exec(compile(source, f'{OURS[0]}bad.py', 'exec'), {})


if __name__ == '__main__':
  unpickle()
