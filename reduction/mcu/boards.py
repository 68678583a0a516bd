"""Boards and cores: how much memory there is, how to compile, what emulates them."""

from typing import NamedTuple

from reduction.errors import did_you_mean, require

KIB = 1024


class Core(NamedTuple):
  """cpu: of -mcpu. machine: QEMU's that runs its instructions."""

  cpu: str
  machine: str


# an M3 runs all that an M0 knows, one instruction for one
CORES = dict(
  m0=Core('cortex-m0', 'mps2-an385'), m3=Core('cortex-m3', 'mps2-an385'),
  m4=Core('cortex-m4', 'mps2-an386'), m7=Core('cortex-m7', 'mps2-an500'),
)  # fmt: skip


class Board(NamedTuple):
  """flash, ram: bytes."""

  name: str
  core: str
  flash: int
  ram: int


BOARDS = {
  board.name: board
  for board in (
    Board('stm32f412', 'm4', 1024 * KIB, 256 * KIB),
    Board('stm32f746', 'm7', 1024 * KIB, 320 * KIB),
    Board('stm32f765', 'm7', 1024 * KIB, 512 * KIB),
    Board('stm32h743', 'm7', 2048 * KIB, 512 * KIB),
    Board('nrf52840', 'm4', 1024 * KIB, 256 * KIB),
    Board('mps2', 'm4', 4096 * KIB, 4096 * KIB),  # the emulator's own, without limits
  )
}


def board(name: str) -> Board:
  """The board of a name. Raises UsageError with a suggestion."""
  require(name in BOARDS, f'board {name!r} is not known.{did_you_mean(name, BOARDS)}')
  return BOARDS[name]
