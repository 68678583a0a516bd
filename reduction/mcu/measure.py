"""Instructions, Flash and RAM of a net on an emulated Cortex-M: a cross compiler and QEMU.

QEMU counts instructions, not cycles: no wait states of Flash, no dual issue. The counts repeat
exactly.
"""

import pathlib
import re
import shutil
import subprocess
import tempfile
from typing import NamedTuple

import numpy as np

from reduction.errors import DataError, MissingInput, UsageError
from reduction.mcu import boards, emit, host
from reduction.mcu.graph import Graph

PREFIX, EMULATOR = 'arm-none-eabi-', 'qemu-system-arm'
FLAGS = ('-std=c99', '-O2', '-Wall', '-Wextra', '-Werror', '-mthumb', '-ffunction-sections')
SHIFT = 6  # an instruction takes 2^6 ns of the emulator's clock, whose timer ticks every 40 ns
SEED, STACK = 12345, 2048


class Measured(NamedTuple):
  """flash, ram: bytes of the program. hashes: of each output. layers: instructions of each."""

  flash: int
  ram: int
  hashes: list[int]
  layers: list[int]

  @property
  def instructions(self) -> int:
    """Of one run."""
    return sum(self.layers)


def missing() -> str | None:
  """What is not installed, or None."""
  tools = (f'{PREFIX}gcc', EMULATOR)
  absent = [tool for tool in tools if not shutil.which(tool)]
  return f'{" and ".join(absent)}: apt-get install gcc-arm-none-eabi {EMULATOR}' if absent else None


def inputs(graph: Graph, runs: int) -> np.ndarray:
  """The inputs int8 [runs, h, w, c] that the firmware makes: bytes of a linear generator."""
  shape = graph.tensors[graph.inputs[0]].shape
  found = np.empty((runs, int(np.prod(shape))), np.int8)
  for run in range(runs):
    seed = SEED + run
    for i in range(found.shape[1]):
      seed = (seed * 1664525 + 1013904223) & 0xFFFFFFFF
      found[run, i] = np.uint8(seed >> 24).view(np.int8)
  return found.reshape(runs, *shape)


def fnv(values) -> int:
  """FNV-1a of the bytes of an array, 32 bits."""
  found = 2166136261
  for byte in np.ascontiguousarray(values).tobytes():
    found = (found ^ byte) * 16777619 & 0xFFFFFFFF
  return found


def files(
  source: emit.Source, board: boards.Board, core: str, runs: int = 1
) -> dict[str, str]:
  """The firmware for a core as it is emulated, and the linker script with a board's sizes."""
  layers = int(re.search(r'_LAYERS (\d+)', source.files[f'{source.name}.h'])[1])
  fields = dict(name=source.name, NAME=source.name.upper(), layers=layers, runs=runs, seed=SEED,
                core=boards.CORES[core])  # fmt: skip
  return {
    'firmware.c': emit.template('firmware.c.j2', **fields),
    'board.ld': emit.template('board.ld.j2', board=board, stack=STACK, core=boards.CORES[core]),
  }


def build(folder, core: str) -> tuple[int, int]:
  """Compiles the firmware that lies in folder to net.elf; (Flash, RAM) in bytes.

  Raises UsageError, with what is missing by how much, where it does not fit the board.
  """
  command = [
    f'{PREFIX}gcc', *FLAGS, *boards.CORES[core].flags, 'firmware.c',
    '-T', 'board.ld', '-nostartfiles', '-Wl,--gc-sections', '--specs=nosys.specs', '-o', 'net.elf',
  ]  # fmt: skip
  done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
  if done.returncode:
    over = re.search(r"region `(\w+)' overflowed by (\d+) bytes", done.stderr)
    if over:
      raise UsageError(f'the net does not fit: {over[1]} is {int(over[2]):,} bytes too small')
    if 'for the stack' in done.stderr:
      raise UsageError(f'the net does not fit: RAM leaves less than {STACK} bytes for the stack')
    raise DataError(f'{command[0]} failed: {done.stderr[:2000]}')
  size = subprocess.run([f'{PREFIX}size', 'net.elf'], cwd=folder, capture_output=True, text=True)
  text, data, bss = map(int, size.stdout.splitlines()[1].split()[:3])
  return text + data, data + bss


def measure(
  source: emit.Source, *, core: str = 'm4', board: boards.Board = boards.BOARDS['mps2'],
  runs: int = 1, seconds: float = 300,
) -> Measured:  # fmt: skip
  """Builds a net for a core within a board's memory and runs it in the emulator.

  Raises MissingInput without the tools, UsageError where it does not fit, DataError where it fails.
  """
  if absent := missing():
    raise MissingInput(f'to measure needs {absent}')
  with tempfile.TemporaryDirectory() as folder:
    host.write(source, folder, **files(source, board, core, runs))
    flash, ram = build(folder, core)
    command = [
      EMULATOR, '-M', boards.CORES[core].machine, '-kernel', 'net.elf', '-nographic',
      '-semihosting-config', 'enable=on,target=native', '-icount', f'shift={SHIFT}',
      '-monitor', 'none', '-serial', 'none',
    ]  # fmt: skip
    try:
      done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=seconds,
        stdin=subprocess.DEVNULL,
      )  # fmt: skip
    except subprocess.TimeoutExpired as error:
      raise DataError(f'the emulator did not end in {seconds} s') from error
  if done.returncode:
    raise DataError(f'the emulated net ended with {done.returncode}: {done.stderr[:500]}')
  *hashes, ticks = (done.stdout + done.stderr).strip().split('\n')
  layers = [int(int(t) * boards.CORES[core].timer.tick) // 2**SHIFT for t in ticks.split()]
  return Measured(flash, ram, [int(h) for h in hashes], layers)


def sizes(source: emit.Source, *, core: str, board: boards.Board) -> tuple[int, int]:
  """(Flash, RAM) of the firmware for a board, without running it. Raises as `measure`."""
  if not shutil.which(f'{PREFIX}gcc'):
    raise MissingInput(f'to build needs {PREFIX}gcc: apt-get install gcc-arm-none-eabi')
  with tempfile.TemporaryDirectory() as folder:
    host.write(source, pathlib.Path(folder), **files(source, board, core))
    return build(folder, core)
