"""What an inference of 8-bit integers takes, estimated for comparisons, all on the chip.

Picojoules in a 45 nm process, of a multiply-accumulate and of a byte of activations and weights:
Horowitz, "Computing's energy problem", ISSCC 2014, figure 1.1.9. A product of 8 bits and its sum in
32; 32 bits read from 32 KB of SRAM.
"""

ON_CHIP = dict(mac=0.2 + 0.1, sram_byte=5 / 4, weight_byte=5 / 4)
