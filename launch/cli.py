"""What the command lines share: the config flag, one-line errors, exit codes, the platform."""

import contextlib
import logging
import os
import pathlib
import re
import shlex
import sys
import time
import traceback

from absl import flags
from ml_collections import ConfigDict, config_flags

from reduction.errors import Interrupted, MissingInput, TryAgain, UsageError, UserError

FLAGS = flags.FLAGS
flags.DEFINE_bool('debug', False, 'Show the traceback of an error.')


SHARED = dict(
  workdir='Where the run is kept: checkpoints, metrics, report.',
  data_dir='Where data sets are looked for; default: $REDUCTION_DATA.',
  platform='cpu, gpu or tpu; default: the best that JAX finds.',
)


def define(*names: str):
  """Flags that several command lines have: 'config' (FILE.py[:variant], .KEY=VALUE) or SHARED."""
  for name in names:
    if name in FLAGS:  # two command lines in one process, such as a test's
      continue
    if name == 'config':
      config_flags.DEFINE_config_file('config', None, 'The experiment: a file with get_config().')
    else:
      flags.DEFINE_string(name, None, SHARED[name])


def config() -> dict:
  """The config of the flags in canonical form."""
  from reduction.config import canonical
  from reduction.errors import require

  given, path = FLAGS.config, config_path()
  require(given is not None, '--config is needed, such as configs/quickstart.py')
  if error := vars(given).get('_error') if hasattr(type(given), '_ReportError') else None:
    raise UsageError(f'{_where(error, path)}{type(error).__name__}: {error}') from error
  kind = type(given).__name__
  require(isinstance(given, ConfigDict), f'get_config() of {path} returns {kind}, not a ConfigDict')
  return canonical(given)


def command() -> str:
  """The command line as one may type it again."""
  module = 'python -m launch.' + pathlib.Path(sys.argv[0]).stem
  return ' '.join([module, *map(shlex.quote, sys.argv[1:])])


def hardware() -> str:
  """'2 x AMD EPYC, cpu' or '1 x NVIDIA H100, gpu'."""
  import jax

  device = jax.devices()[0]
  if device.platform != 'cpu':
    precision = jax.config.jax_default_matmul_precision
    products = f', products in {precision}' if precision else ''
    return f'{jax.device_count()} x {device.device_kind}, {device.platform}{products}'
  with contextlib.suppress(OSError, StopIteration):
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
    name = next(line.split(':')[1].strip() for line in lines if line.startswith('model name'))
    return f'{os.cpu_count()} x {name}, cpu'
  return f'{os.cpu_count()} cores, cpu'


def show(table, file=None):
  """Prints a table, drawn where file is a terminal."""
  from reduction.report import tables

  file = file or sys.stdout
  print(f'\n{table.title}', file=file)
  if file.isatty():
    from rich.console import Console

    Console(file=file, highlight=False).print(tables.terminal(table))
  else:
    print(tables.plain(table), file=file)


def set_platform(name: str | None):
  """Chooses JAX's platform and its compile cache, and joins the other processes of the run.

  Call before anything computes.
  """
  import jax

  from reduction import processes

  if name:
    known = ('cpu', 'gpu', 'tpu')
    if name not in known:
      raise UsageError(f'--platform={name} is not one of {", ".join(known)}')
    jax.config.update('jax_platforms', {'gpu': 'cuda'}.get(name, name))
  _cache_compiled()
  processes.start()
  try:
    jax.devices()
  except (RuntimeError, AssertionError) as error:  # JAX asserts that some platform started
    raise MissingInput(
      f'JAX finds no {name or os.environ.get("JAX_PLATFORMS", "device")}; use --platform=cpu'
    ) from error


def _cache_compiled():
  """Compiled programs are kept for the next run, where the user's cache folder can be written."""
  import jax

  from reduction import cache

  home = cache.folder()
  with contextlib.suppress(OSError):  # a read-only home only costs compile time
    if not jax.config.jax_compilation_cache_dir:
      if home is None:
        return
      folder = home / 'jax'
      folder.mkdir(parents=True, exist_ok=True, mode=0o700)
      if not os.access(folder, os.W_OK):
        return
      jax.config.update('jax_compilation_cache_dir', str(folder))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
    jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


def log_to(workdir: pathlib.Path):
  """From now on progress, what libraries log and what dies in their callbacks goes to run.log.

  The terminal is left to the run itself and to the project's own warnings. Where there are several
  processes, those after the first have run-1.log and so on.
  """
  import jax

  own = f'-{jax.process_index()}' if jax.process_index() else ''
  logging.raiseExceptions = False  # a log that a full disk stops is no page on the terminal
  handler = logging.FileHandler(workdir / f'run{own}.log', encoding='utf-8')
  handler.setFormatter(logging.Formatter('%(asctime)s %(levelname)s %(name)s: %(message)s'))
  shown = logging.StreamHandler()
  shown.setFormatter(logging.Formatter('%(levelname)s: %(message)s'))
  shown.setLevel(logging.WARNING)  # lines of progress are on the terminal already
  logging.getLogger('reduction').setLevel(logging.INFO)
  root = logging.getLogger()
  root.handlers = [handler]
  logging.getLogger('reduction').addHandler(shown)

  def unraisable(found):  # TensorStore, for each array that a full disk stopped
    trace = found.exc_type, found.exc_value, found.exc_traceback
    root.error('in a callback of a library', exc_info=trace)

  sys.unraisablehook = unraisable


@contextlib.contextmanager
def profiled(folder: pathlib.Path | None):
  """Writes a Perfetto trace into folder, where one is given."""
  import jax

  with jax.profiler.trace(str(folder), create_perfetto_trace=True) if folder else (
    contextlib.nullcontext()
  ):
    yield


def config_path() -> str:
  """The file that --config names, without its variant; '' for none."""
  given = [a.split('=', 1)[1] for a in sys.argv[1:] if a.startswith('--config=')]
  return given[-1].split(':')[0] if given else ''


def _where(error: BaseException, path: str) -> str:
  """'file:line: ' of the innermost frame in the config, where the error came from it."""
  frames = traceback.extract_tb(error.__traceback__)
  inside = [f for f in frames if path and f.filename.endswith(path)]
  return f'{path}:{inside[-1].lineno}: ' if inside else ''


def _first_line(text: str, path: str) -> str:
  """The first line of an error of absl; of a traceback in it, where in the config and what."""
  lines = [line for line in text.splitlines() if line.strip()]
  if 'Traceback' not in text:
    return lines[0]
  where = re.findall(rf'{re.escape(path)}", line (\d+)', text)
  return f'{path}:{where[-1]}: {lines[-1]}' if where else lines[-1]


def _help(about: str) -> str:
  """What a command line is about, and its own flags."""
  flagged = FLAGS.flags_by_module_dict().items()
  own = {f.name: f for module, found in flagged if 'absl' not in module for f in found if f.help}
  lines = [f'  --{name}: {" ".join(own[name].help.split())}' for name in sorted(own)]
  return '\n'.join([about, 'Flags:', *lines])


def _parse(argv):
  """absl's flags; every mistake becomes one line."""
  path = config_path()
  if path and not os.path.exists(path):
    raise UsageError(f'--config={path} is not there; see configs/')
  try:
    return FLAGS(argv)
  except flags.Error as error:
    raise UsageError(_first_line(str(error), path)) from error
  except (KeyError, AttributeError) as error:  # ml_collections, for a key that is not there
    if 'get_config' in str(error):
      raise UsageError(f'{path} has no get_config()') from error
    if where := _where(error, path):
      raise UsageError(f'{where}{type(error).__name__}: {error}') from error
    key, hint = re.search(r'\w+', str(error))[0], re.search(r'Did you mean.*?\?', str(error))
    listed = f'write it into {path} to set it' if not hint else hint[0]
    raise UsageError(f'config has no key {key!r}. {listed}') from error
  except UserError:
    raise
  except Exception as error:
    raise UsageError(f'{_where(error, path)}{type(error).__name__}: {error}') from error


def run(main):
  """Parses the flags, calls main(argv); a UserError is one line on stderr and its exit code."""
  if {'-h', '--help', '--helpfull'}.intersection(sys.argv):
    print(_help(main.__globals__['__doc__']))
    return
  try:
    main(_parse(sys.argv))
  except Interrupted as stop:
    print('stopped and saved; run the same line again to go on', file=sys.stderr)
    _leave(stop.code)
  except UserError as error:
    if '--debug' in sys.argv:
      traceback.print_exc()
    print(f'error: {error}', file=sys.stderr)
    _leave(error.code)
  except Exception as error:
    if _peer_left(error):
      print(f'error: {LOST}; run the same line again to go on', file=sys.stderr)
      _leave(TryAgain.code)
    if _memory_ended(error) and '--debug' not in sys.argv:
      told = ': '.join(['out of memory', *str(error).splitlines()[:1]])
      print(f'error: {told}; {LESS}', file=sys.stderr)
      _leave(UsageError.code)
    traceback.print_exc()
    _leave(1)


LOST = 'another process of this run has ended'
LESS = 'smaller batches, fewer seeds or a shorter context take less; --debug shows where it was'


def _peer_left(error: Exception) -> bool:
  """Whether an error of JAX's runtime says that a collective has lost its other side."""
  words = 'Gloo', 'UNAVAILABLE', 'Connection closed', 'heartbeat', 'coordination service'
  return type(error).__name__ == 'JaxRuntimeError' and any(word in str(error) for word in words)


def _memory_ended(error: Exception) -> bool:
  """Whether an error says that the machine or the accelerator has no memory left."""
  ended = type(error).__name__ == 'JaxRuntimeError' and 'RESOURCE_EXHAUSTED' in str(error)
  return ended or isinstance(error, MemoryError)


def _leave(code: int):
  """Exits; where other processes take part, without waiting for them: they may wait for it.

  The first of them gives the others time to say the same: their runtime crashes when it is gone.
  """
  if 'jax' in sys.modules:
    from reduction import processes

    if processes.joined():
      sys.stdout.flush()
      sys.stderr.flush()
      time.sleep(0.5 * processes.first())
      os._exit(code)
  sys.exit(code)
