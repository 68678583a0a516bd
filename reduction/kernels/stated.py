"""What is known of kernels, by hardware: no more may be said of them.

A claim names the test that shows it, or the rows of what was measured; 'no' stands where there is
none. What compiles was made into the machine's own code without the machine, which shows neither
its results nor its speed.
"""

from typing import NamedTuple

NO = 'no'
TPU, GPU = (f'tests/kernels/test_{name}.py::' for name in ('int4_tpu', 'int4_gpu'))
CPU = 'tests/kernels/test_processors.py::test_products_are_those_of_the_rounded_rows'
HERE = 'tests/kernels/test_int4.py::test_the_native_kernel_gives_what_the_weights_give'
PACE = 'configs/bench/results/packed-{}.jsonl'  # their header names the sets of instructions
ATTENTION = 'tests/kernels/test_attention.py::'
TO_MEMORY = 'attention of one token'
COMPILES = 'test_what_is_tuned_compiles_for'
RIGHT = 'test_the_kernel_gives_what_the_weights_give'
READS = 'test_a_{}s_kernel_gives_what_the_softmax_gives'
TPUS = 'TPU v5e', 'TPU v5p', 'TPU v6e'
THERE, THERE_TOO = 'tpus_that_are_not_here', 'an_h100_that_is_not_here'


class Stated(NamedTuple):
  """One row of the table: tests by their node ids, results by their path, or 'no'."""

  hardware: str
  what: str  # bits of packed weights, or TO_MEMORY: a token's attention
  compiles: str
  interpreted: str  # correct where a CPU plays the hardware, or emulates it
  ran: str  # correct on the hardware itself
  measured: str


TABLE = (
  *(Stated(chip, '4, 3', f'{TPU}{COMPILES}_{THERE}', TPU + RIGHT, NO, NO) for chip in TPUS),
  *(
    Stated(
      chip,
      TO_MEMORY,
      ATTENTION + f'test_it_compiles_for_{THERE}',
      ATTENTION + READS.format('tpu'),
      NO,
      NO,
    )
    for chip in TPUS
  ),
  Stated('H100', '4, 3', f'{GPU}{COMPILES}_{THERE_TOO}', GPU + RIGHT, NO, NO),
  Stated(
    'H100',
    TO_MEMORY,
    ATTENTION + f'test_it_compiles_for_{THERE_TOO}',
    ATTENTION + READS.format('gpu'),
    NO,
    NO,
  ),
  Stated('other GPUs', 'none', NO, NO, NO, NO),
  Stated('x86 with AMX', '8, 4, 3', CPU, CPU, NO, NO),
  Stated('x86 with AVX-512 and VNNI', '8, 4, 3', CPU, CPU, HERE, PACE.format('vnni')),
  Stated('x86 with AVX-512', '8, 4, 3', CPU, CPU, CPU, PACE.format('avx512')),
  Stated('x86 with AVX2', '8, 4, 3', CPU, CPU, CPU, PACE.format('avx2')),
  Stated('64-bit Arm', '8, 4, 3', CPU, CPU, NO, NO),
)


def markdown() -> str:
  """The table for a README: yes where a test or rows show it."""
  said = lambda claim: claim if claim == NO else 'yes'
  of = lambda what: f'products, {what} bits' if what[0].isdigit() else what
  heads = 'hardware', 'kernel', 'compiles', 'correct in interpret mode', 'ran there', 'measured'
  rows = [heads, ('---',) * len(heads)]
  rows += [(row.hardware, of(row.what), *map(said, row[2:])) for row in TABLE]
  return '\n'.join(f'| {" | ".join(row)} |' for row in rows)
