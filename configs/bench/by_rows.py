"""W8A8 where compute binds, W4A16 where memory does (Lin et al., AWQ, MLSys 2024, section 4.1):
time of a product by rows of x, and where the lines cross.

Expected: with one row W4A16 takes the least, since it reads the fewest bytes; with many rows
whoever multiplies fastest. On a CPU with VNNI W8A8, XLA's, passes W4A16 at 512 rows and is
faster beyond, and W4A8 is the fastest at any number. Measured: configs/bench/results/by_rows.jsonl,
by_rows-avx2.jsonl and by_rows-avx512.jsonl (REDUCTION_NATIVE=AVX2 and AVX-512).

    python -m launch.bench --config=configs/bench/by_rows.py [--out=rows.jsonl]
    python -m launch.report configs/bench/results/by_rows.jsonl --html=page.html

Variants: 'gpu' is for one: a larger weight, in bfloat16 and W8A8 beside W4A16; 'quick'.
"""

from ml_collections import config_dict

from configs.variants import split


def get_config(variant: str = ''):
  """variant: of 'gpu' and 'quick', joined by a comma."""
  chosen = split(variant, ('gpu', 'quick'))
  gpu, quick = 'gpu' in chosen, 'quick' in chosen
  c = config_dict.ConfigDict()
  c.title = 'Time by rows' + ' on a GPU' * gpu
  c.benches = ('by_rows',)
  counts = (1, 64) if quick else (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
  c.by_rows = dict(
    shape=(128, 64) if quick else (4096, 11008) if gpu else (2048, 2048),
    rows_of_x=counts,
    group=64 if quick else 128,
    bytes=1 if quick else 300_000_000 if gpu else 64_000_000,
    repeats=1 if quick else 9 if gpu else 15,
  )
  if gpu:
    c.by_rows.kinds = 'bfloat16', 'W8A8', 'W4A16'
  c.figures = dict(by_rows=dict(
    title='Time of a product by rows of x', kind='by_rows', x='count', x_scale='log',
    x_ticks=counts, x_label='rows of x', y='s', y_scale='log', y_label='seconds', lines='product',
    dashed=('W4A8',),
  ))  # fmt: skip
  return c
