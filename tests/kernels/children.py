"""Programs that compile or emulate kernels by themselves: they set what a process is told once."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent.parent


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
  """A decoder's step compiles: four products a block, and the memory stays where it is."""
  (found,) = child('compile_decode', [dict(platform=platform)], 280)
  assert found['products'] == 4, found  # queries, keys and values; output; gate and up; down
  assert found['donated'] > 0.999 * found['remembered'] > 8e6, found
  assert found['copied'] < 10_000, found
