"""What an inference takes, estimated for comparisons: so much a multiply-accumulate and a byte.

A 45 nm process: Horowitz, "Computing's energy problem", ISSCC 2014, figure 1.1.9. Picojoules of a
product and its sum (of 8-bit integers in 32 bits), and of a byte of 32 bits read from 32 KB of SRAM
and from memory outside the chip.
"""

MAC = dict(int8=0.2 + 0.1, float16=1.1 + 0.4, float32=3.7 + 0.9)
BYTE = dict(sram=5 / 4, dram=640 / 4)
ON_CHIP = dict(mac=MAC['int8'], sram_byte=BYTE['sram'], weight_byte=BYTE['sram'])
