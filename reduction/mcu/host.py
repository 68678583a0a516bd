"""The generated C on this machine: what the interpreter says, said again by a compiler."""

import pathlib
import shutil
import subprocess
import tempfile

import numpy as np

from reduction.errors import DataError, MissingInput
from reduction.mcu import emit
from reduction.mcu.graph import Graph

WARNINGS = ('-Wall', '-Wextra', '-Werror', '-Wconversion', '-Wno-sign-conversion')
STRICT = ('-std=c99', '-O1', *WARNINGS)
SANITIZED = ('-g', '-fsanitize=address,undefined', '-fno-sanitize-recover=all')


def compiler() -> str | None:
  """The host's C compiler, or None."""
  return next((c for c in map(shutil.which, ('gcc', 'clang', 'cc')) if c), None)


def harness(source: emit.Source, graph: Graph) -> str:
  """A program that runs the net on inputs from stdin."""
  counts = dict(inputs=len(graph.inputs), outputs=len(graph.outputs))
  return emit.template('host.c.j2', name=source.name, NAME=source.name.upper(), **counts)


def write(source: emit.Source, folder, **more: str):
  """Writes the files of a source, and more of name -> text, into folder."""
  for name, text in (source.files | more).items():
    (pathlib.Path(folder) / name).write_text(text)


def run(source: emit.Source, graph: Graph, *inputs, flags=STRICT) -> list[np.ndarray]:
  """Outputs, int8 [n, h, w, c], of the compiled C for inputs int8 [n, h, w, c].

  Raises MissingInput where there is no compiler, DataError where the C fails.
  """
  if not (cc := compiler()):
    raise MissingInput('there is no C compiler: install gcc or clang')
  with tempfile.TemporaryDirectory() as folder:
    write(source, folder, **{'host.c': harness(source, graph)})
    files = f'{source.name}.c', 'host.c'
    _call([cc, *flags, *files, '-o', 'net'], folder)
    fed = b''.join(x[i].tobytes() for i in range(len(inputs[0])) for x in inputs)
    out = np.frombuffer(_call(['./net'], folder, fed), np.int8)
  shapes = [graph.tensors[t].shape for t in graph.outputs]
  sizes = np.cumsum([0] + [int(np.prod(s)) for s in shapes])
  if len(out) != sizes[-1] * len(inputs[0]):
    raise DataError(f'the C gave {len(out)} bytes for {len(inputs[0])} inputs')
  rows = out.reshape(len(inputs[0]), -1)
  return [rows[:, a:b].reshape(-1, *s) for a, b, s in zip(sizes, sizes[1:], shapes)]


def _call(command, folder, given: bytes | None = None) -> bytes:
  done = subprocess.run(command, cwd=folder, input=given, capture_output=True)
  if done.returncode:
    raise DataError(f'{command[0]} failed ({done.returncode}): {done.stderr.decode()[:2000]}')
  return done.stdout
