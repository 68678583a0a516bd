"""A decoder's kernels on a Hopper GPU: packed products and one token's attention.

Products beside bfloat16, beside weights that become floats first, and beside reading alone.

Wanted: at least 80 % of the speed at which the bytes can be read with one row of x for 4,096 x
11,008 and larger; 3.3 times bfloat16 with one row (3.76 is what the bytes allow), twice with 16;
never slower than making floats first. Not measured to its end.

    python -m launch.bench --config=configs/bench/accelerated.py [--out=rows.jsonl]

Shapes of Llama-2-7B and, the last, of 70B. Attention beside 128 places after another, beside all
places at once and beside reading what is filled. 'quick': one small weight and memory.
"""

from ml_collections import config_dict

from configs.variants import split


def get_config(variant: str = ''):
  """variant: '' or 'quick'."""
  quick = bool(split(variant, ('quick',)))
  c = config_dict.ConfigDict()
  c.title = 'Kernels on a GPU'
  c.benches = ('accelerated', 'remembering')
  c.accelerated = dict(
    shapes=((256, 128),) if quick else ((4096, 4096), (4096, 11008), (8192, 28672)),
    rows_of_x=(1,) if quick else (1, 8, 16, 64),
    group=128,
    bytes=100_000 if quick else 300_000_000,
    repeats=1 if quick else 9,
    launches=12 if quick else 256,
  )
  c.remembering = dict(
    memories=((4, 2, 64, 512),) if quick else ((32, 32, 128, 4096), (64, 8, 128, 4096)),
    filled=(130,) if quick else (1024, 4096),  # copies of fewer places would stay in the cache
    stored=('int8',) if quick else ('bfloat16', 'int8'),
    bytes=c.accelerated.bytes,
    repeats=c.accelerated.repeats,
    launches=c.accelerated.launches,
  )
  return c
