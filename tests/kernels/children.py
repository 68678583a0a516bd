"""Programs that compile or emulate kernels by themselves: they set what a process is told once."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
WHEELS = 'jax_cuda13_plugin', 'jax_plugins.xla_cuda13', 'nvidia.cu13'


def missing(*names: str) -> str:
  """Which of these modules are not installed."""

  def there(name):
    try:
      return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
      return False

  return ', '.join(name for name in names if not there(name))


LIBTPU = pytest.mark.skipif(missing('libtpu') != '', reason='no libtpu to compile with')
NVIDIA = pytest.mark.skipif(
  missing(*WHEELS) != '', reason=f'cannot compile for an H100 without {missing(*WHEELS)}'
)
EMULATOR = pytest.mark.skipif(
  jax.__version_info__ < (0, 11), reason='the emulator of GPU kernels needs JAX 0.11'
)


def child(module: str, lines: list[dict], timeout: int) -> list[dict]:
  """What tests.kernels.module prints for lines."""
  environment = {key: value for key, value in os.environ.items() if key != 'XLA_FLAGS'}
  ended = subprocess.run(
    [sys.executable, '-m', f'tests.kernels.{module}'], text=True, capture_output=True, cwd=ROOT,
    input=''.join(json.dumps(line) + '\n' for line in lines), env=environment, timeout=timeout,
  )  # fmt: skip
  assert ended.returncode == 0, ended.stderr[-2000:]
  return [json.loads(line) for line in ended.stdout.splitlines() if line.startswith('{')]


def check_step(platform: str):
  """A decoder's step compiles: five kernels a block, and the memory stays where it is."""
  cases = [dict(platform=platform, stored=stored) for stored in ('bfloat16', 'int8')]
  for found in child('compile_decode', cases, 280):
    # queries, keys and values; attention; output; gate and up; down
    assert found['kernels'] == 5 and not found['loops'], found
    # between them norms, rotations, what keys and values are written by, and sums of parts
    assert platform != 'gpu' or found['launches'] <= 28, found
    assert found['donated'] > 0.999 * found['remembered'] > 4e6, found
    assert found['copied'] < 10_000, found
