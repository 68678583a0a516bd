"""Products with packed weights on a CPU: beside PyTorch, ONNX Runtime and what memory allows.

Wanted on two CPU cores, one row of x: at least 85 % of the speed at which the bytes can be read (75
% for 4,096 x 4,096), no slower than the best of PyTorch's INT4 linear and ONNX Runtime at accuracy
level 0 with inputs in 16 bits, than the best of ONNX Runtime at level 4 and ggml's Q4_0 (groups of
32, as llama.cpp multiplies) with inputs in 8; INT3 faster than INT4. Measured:
configs/bench/results/packed-vnni.jsonl, packed-avx512.jsonl and packed-avx2.jsonl.

    python -m launch.bench --config=configs/bench/packed.py [--out=rows.jsonl]

The peers are `pip install -r third_party/requirements-packed.txt` in another Python, which
--peer_python names. 'quick': one small weight, no peers.
"""

from ml_collections import config_dict

from configs.variants import split


def get_config(variant: str = ''):
  """variant: '' or 'quick'."""
  quick = bool(split(variant, ('quick',)))
  c = config_dict.ConfigDict()
  c.title = 'Packed products'
  c.benches = ('packed',)
  c.packed = dict(
    shapes=((256, 128),) if quick else ((4096, 4096), (4096, 11008), (11008, 4096)),
    rows_of_x=(1,) if quick else (1, 8),
    group=128,
    bytes=100_000 if quick else 600_000_000,
    repeats=1 if quick else 9,
    peers=() if quick else (
      'torch int4', 'onnxruntime, level 0', 'onnxruntime, level 4', 'ggml Q4_0',
    ),
  )
  return c
