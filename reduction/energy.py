"""What an inference takes, estimated: so much a multiply-accumulate, so much a byte; to compare.

A 45 nm process: Horowitz, "Computing's energy problem", ISSCC 2014, figure 1.1.9; reads of 32 bits
as quoted by Han et al., EIE, ISCA 2016, table 1. Rows of stages say `energy_uj` of
their net, in its own types, its weights fetched from memory outside the chip (`cost.cost`); rows of
searches and microcontrollers of 8-bit integers, all on the chip (`ON_CHIP`).
"""

from reduction.errors import require

# picojoules of a multiply-accumulate: products of 8-bit integers are summed in 32 bits
MAC = dict(int8=0.2 + 0.1, float16=1.1 + 0.4, float32=3.7 + 0.9)
BYTE = dict(sram=5 / 4, dram=640 / 4)  # of 32 KB on the chip; of memory outside
ON_CHIP = dict(mac=MAC['int8'], sram_byte=BYTE['sram'], weight_byte=BYTE['sram'])


def microjoules(macs, moved, weights, picojoules: dict | None = None):
  """Of numbers or arrays: multiply-accumulates, bytes of activations read and written, of weights.

  picojoules: mac, sram_byte and weight_byte, by default those of ON_CHIP.
  """
  table = ON_CHIP if picojoules is None else picojoules
  require(set(table) == set(ON_CHIP), f'{picojoules=} must say {", ".join(ON_CHIP)}')
  each = table['mac'] * macs + table['sram_byte'] * moved + table['weight_byte'] * weights
  return each / 1e6
