"""Compiles the TPU kernel where there is no TPU; needs libtpu. A child of test_int4_tpu.py.

stdin: lines of `chip`, `bits`, `group`, `count` (rows of x), `rows`, `columns` and, where x is not
bfloat16, its type `x`. stdout: the same
with the bytes of the arguments and the static schedule, in bundles: of one step of the grid as
often as there are steps. No stall and no wait for memory is in it: a floor, no time.
`python -m tests.kernels.compile_tpu < tests/kernels/tpu.jsonl` makes the committed table again.
"""

import glob
import json
import os
import pathlib
import re
import sys
import tempfile

DUMP = tempfile.TemporaryDirectory()
os.environ |= dict(
  JAX_PLATFORMS='cpu', TPU_SKIP_MDS_QUERY='1', ALLOW_MULTIPLE_LIBTPU_LOAD='1',
  TPU_ACCELERATOR_TYPE='v5litepod-4', TPU_WORKER_HOSTNAMES='localhost',
  JAX_ENABLE_COMPILATION_CACHE='false',
  LIBTPU_INIT_ARGS=f'--xla_jf_dump_to={DUMP.name} --xla_jf_dump_llo_text=true',
)  # fmt: skip

import jax  # noqa: E402 (after the environment is set)
from jax.experimental import topologies  # noqa: E402

from reduction.kernels import int4_tpu  # noqa: E402
from reduction.kernels.accelerator import chunk, pieces  # noqa: E402
from tests.kernels.shapes import weight  # noqa: E402

TOPOLOGY = {'v5e': 'v5e:2x2', 'v5p': 'v5p:2x2x1', 'v6e': 'v6e:2x2'}


def device(chip):
  """One that is not here."""
  return topologies.get_topology_desc(platform='tpu', topology_name=TOPOLOGY[chip]).devices[0]


def compiled(chip, count, w, dtype='bfloat16'):
  """(the program, its bundles)"""
  here = jax.sharding.SingleDeviceSharding(device(chip))
  put = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here)
  x = jax.ShapeDtypeStruct((count, w.rows), dtype)
  before = set(glob.glob(f'{DUMP.name}/*-final_bundles.txt'))
  traced = jax.jit(int4_tpu.matmul).trace(*jax.tree.map(put, (x, w)))
  program = traced.lower(lowering_platforms=('tpu',)).compile()
  new = set(glob.glob(f'{DUMP.name}/*-final_bundles.txt')) - before
  deep, wide = int4_tpu.filled(*w.shape, w.scheme.bits)
  block_k, block_n = int4_tpu.tiles(deep, wide)
  rows = count * len(jax.eval_shape(pieces, x))
  blocks = -(-rows // int4_tpu.most_rows(block_k, chunk(w.scheme, w.rows)))
  steps = blocks * (deep // block_k) * (wide // block_n)
  return program, steps * sum(body(pathlib.Path(name).read_text()) for name in new)


def body(text):
  """Bundles of the loop around the products, 0 if there is none."""
  if 'LB: loop body' not in text or ('vmatmul' not in text and 'vmatpush' not in text):
    return 0
  first = re.search(r'^\s*(0x[0-9a-f]+) LB', text, re.M)
  inside = re.findall(r'^\s*(0x[0-9a-f]+)\s+(?:[A-Z]{2})?\s*: >', text, re.M)
  return max(int(at, 16) for at in inside) - int(first[1], 16) + 1


if __name__ == '__main__':
  for line in sys.stdin:
    case = json.loads(line)
    w = weight(int4_tpu.prepacked, *(case[key] for key in ('bits', 'group', 'rows', 'columns')))
    program, bundles = compiled(case['chip'], case['count'], w, case.get('x', 'bfloat16'))
    case['bytes'] = program.memory_analysis().argument_size_in_bytes
    print(json.dumps(case | dict(bundles=bundles)), flush=True)
