"""Pruned convolutions in instructions: DTMM (Han et al., INFOCOM 2024), its operator.

Measured elsewhere with CMSIS-NN's kernels of runtime sizes: 16 x 16 x 64 -> 64 breaks even with its
dense convolution at 78 % of the filterlets on a Cortex-M4 and takes 66 % of it at half of them. To
reach: 65 % of our own dense instructions there, 72 % on a Cortex-M55 with its vectors. Counted by
the emulator: instructions, not cycles.

    python -m launch.bench --config=configs/bench/filterlets.py [--out=rows.jsonl]

Needs arm-none-eabi-gcc and QEMU; two CPU cores, one minute. Variant 'quick': one small shape.
"""

from ml_collections import config_dict

from configs.variants import split

SHAPES = {
  '16x16x64-64': (16, 16, 64, 64, 3, 1), '8x8x24-40': (8, 8, 24, 40, 3, 1),
  '32x32x3-32': (32, 32, 3, 32, 3, 1),
}  # fmt: skip


def get_config(variant: str = ''):
  """variant: '' or 'quick'."""
  quick = 'quick' in split(variant, ('quick',))
  c = config_dict.ConfigDict()
  c.title = 'Pruned convolutions on microcontrollers'
  c.benches = ('filterlets',)
  c.filterlets = dict(
    shapes={'4x4x8-8': (4, 4, 8, 8, 3, 1)} if quick else SHAPES,
    cores=('m4',) if quick else ('m4', 'm55', 'm3', 'm0'),
    shares=(1.0, 0.5) if quick else (1.0, 0.9, 0.7, 0.5, 0.3, 0.2, 0.1),
  )
  return c
