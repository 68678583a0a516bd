"""Boards and cores: how much memory there is, how to compile, what emulates them."""

from typing import NamedTuple

from reduction.errors import did_you_mean, require

KIB = 1024


class Timer(NamedTuple):
  """What counts time in an emulated machine: words to write, the word to read, which way it goes.

  tick: nanoseconds.
  """

  at: int
  begin: tuple[tuple[int, int], ...]
  word: int
  up: bool
  tick: float


class Core(NamedTuple):
  """How to compile for a core, and the machine of QEMU that runs its instructions.

  cpu: of -mcpu. vectors: where that machine looks for its first stack and where to start; code,
  ram: where it has memory. vector: whether it has Helium, whose registers are those of floats.
  """

  cpu: str
  machine: str
  vectors: int
  code: int
  ram: int
  timer: Timer
  vector: bool = False

  @property
  def flags(self) -> tuple[str, ...]:
    """Of the compiler."""
    return f'-mcpu={self.cpu}', f'-mfloat-abi={"hard" if self.vector else "soft"}'


def _cmsdk(at: int, tick: float) -> Timer:
  """Arm's timer of 32 bits: control, value, reload; counts down."""
  return Timer(at, ((2, 0xFFFFFFFF), (1, 0xFFFFFFFF), (0, 1)), 1, False, tick)


_MPS2 = 0x00000000, 0x00000000, 0x20000000, _cmsdk(0x40000000, 40)
# the low word of the system counter of an SSE-300
_COUNTER = Timer(0x58100000, ((0, 1),), 2, True, 31.25)
# an M3 runs all that an M0 knows, one instruction for one; secure addresses begin with 1, 3 and 5
CORES = dict(
  m0=Core('cortex-m0', 'mps2-an385', *_MPS2), m3=Core('cortex-m3', 'mps2-an385', *_MPS2),
  m4=Core('cortex-m4', 'mps2-an386', *_MPS2), m7=Core('cortex-m7', 'mps2-an500', *_MPS2),
  m33=Core('cortex-m33', 'mps2-an505', 0x10000000, 0x10000000, 0x38000000,
           _cmsdk(0x50000000, 50)),
  m55=Core('cortex-m55', 'mps3-an547', 0x00000000, 0x11000000, 0x31000000, _COUNTER, True),
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
    Board('stm32f301', 'm4', 64 * KIB, 16 * KIB),
    Board('stm32f412', 'm4', 1024 * KIB, 256 * KIB),
    Board('stm32f746', 'm7', 1024 * KIB, 320 * KIB),
    Board('stm32f765', 'm7', 1024 * KIB, 512 * KIB),
    Board('stm32h743', 'm7', 2048 * KIB, 512 * KIB),
    Board('nrf52840', 'm4', 1024 * KIB, 256 * KIB),
    Board('rp2040', 'm0', 2048 * KIB, 264 * KIB),  # its usual Flash
    Board('stm32f103', 'm3', 64 * KIB, 20 * KIB),
    Board('nrf52832', 'm4', 512 * KIB, 64 * KIB),
    Board('stm32u585', 'm33', 2048 * KIB, 768 * KIB),
    Board('corstone300', 'm55', 2048 * KIB, 4096 * KIB),
    Board('mps2', 'm4', 4096 * KIB, 4096 * KIB),  # the emulator's own, without limits
  )
}


def board(name: str) -> Board:
  """The board of a name. Raises UsageError with a suggestion."""
  require(name in BOARDS, f'board {name!r} is not known.{did_you_mean(name, BOARDS)}')
  return BOARDS[name]
