"""Compiles the GPU kernel to machine code where there is no GPU. A child of test_int4_gpu.py.

Needs the wheels jax-cuda13-plugin and jax-cuda13-pjrt of JAX's version, nvidia-cuda-nvcc,
nvidia-cuda-nvdisasm and nvidia-nvvm, all without their dependencies. stdin: lines of `bits`,
`group`, `count` (rows of x), `rows`, `columns` and, where x is not bfloat16, its type `x`. stdout:
the same with the bytes of the arguments, the registers of a thread and the bytes that these spill,
as ptxas tells, and the number of wgmma instructions in the machine code.
`python -m tests.kernels.compile_gpu < tests/kernels/gpu.jsonl` makes the committed table again.
"""

import json
import os
import pathlib
import re
import sys
import tempfile

DUMP = tempfile.TemporaryDirectory()
os.environ |= dict(
  JAX_PLATFORMS='cpu', JAX_ENABLE_COMPILATION_CACHE='false', MOSAIC_GPU_DUMP_TO=DUMP.name,
)  # fmt: skip

import jax  # noqa: E402 (after the environment is set)
from jax.experimental import topologies  # noqa: E402

from reduction.kernels import int4_gpu  # noqa: E402
from tests.kernels.shapes import weight  # noqa: E402

# of openxla/xla, xla/backends/gpu/target_config/specs/h100_sxm.txtpb
H100 = """
platform_name: "CUDA" device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 10 }
gpu_device_info {
  name: "NVIDIA H100 80GB HBM3"
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98 threads_per_warp: 32
  threads_per_block_limit: 1024 threads_per_core_limit: 2048 registers_per_core_limit: 65536
  registers_per_block_limit: 65536 shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84942979072
  driver_version: "13.0.0" runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.10.0"
}
"""


def device():
  """One that is not here."""
  topology = topologies.get_topology_desc(
    platform='cuda', topology_name='', topology='1x1x1', target_config=H100
  )
  return topology.devices[0]


def compiled(count, w, dtype='bfloat16'):
  """(the program, what Mosaic wrote down while it was compiled)"""
  here = jax.sharding.SingleDeviceSharding(device())
  put = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here)
  before = set(pathlib.Path(DUMP.name).iterdir())
  x = jax.ShapeDtypeStruct((count, w.rows), dtype)
  traced = jax.jit(int4_gpu.matmul).trace(*jax.tree.map(put, (x, w)))
  program = traced.lower(lowering_platforms=('cuda',)).compile()
  new = set(pathlib.Path(DUMP.name).iterdir()) - before
  return program, {path.suffix: path.read_text(errors='replace') for path in sorted(new)}


def told(texts) -> dict:
  """What the machine code of a kernel needs and has, of what Mosaic wrote down."""
  return dict(
    registers=int(re.search(r'Used (\d+) registers', texts['.ptxas'])[1]),
    spilled=sum(map(int, re.findall(r'(\d+) bytes spill', texts['.ptxas']))),
    wgmma=texts['.sass_ctrl'].count('HGMMA'),
  )


if __name__ == '__main__':
  for line in sys.stdin:
    case = json.loads(line)
    w = weight(int4_gpu.prepacked, *(case[key] for key in ('bits', 'group', 'rows', 'columns')))
    program, texts = compiled(case['count'], w, case.get('x', 'bfloat16'))
    case['bytes'] = program.memory_analysis().argument_size_in_bytes
    print(json.dumps(case | told(texts)), flush=True)
