"""The native kernels of CPUs: built once for each machine, by its own compiler.

A library lies in the user's cache folder under a name that holds its source, the flags, the
compiler and the processor; two processes that build it at once both leave a whole one.
"""

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile

import jax

from reduction import cache
from reduction.errors import require

FOLDER = pathlib.Path(__file__).parent / 'cpu'
LIBRARIES = dict(  # name -> (sources, targets of XLA and their symbols)
  packed=(('packed.cc', 'decoder.cc'), dict(
    reduction_packed_product='PackedProduct', reduction_read='ReadAll',
    reduction_decoder='DecoderToken',
  )),
  depthwise=(('depthwise.cc',), dict(
    reduction_depthwise='DepthwiseValue', reduction_depthwise_of_images='DepthwiseOfImages',
    reduction_depthwise_of_kernel='DepthwiseOfKernel',
  )),
)  # fmt: skip
FLAGS = '-O3', '-std=c++17', '-fPIC', '-shared', '-ffp-contract=fast', '-w'
SWITCH = 'REDUCTION_NATIVE'  # '0' keeps to XLA, a name of KEPT to no newer instructions than these
KEPT = {'1': '-march=native', 'AVX2': '-march=x86-64-v3', 'AVX-512': '-march=x86-64-v4'}
NEEDED = {'AVX2': ('avx2', 'fma', 'f16c'), 'AVX-512': ('avx512bw', 'avx512vl')}
THREADS = 'REDUCTION_THREADS'  # of a product; by default all of XLA's
PATIENCE = 600  # seconds that a compiler may take: 7 to 30 where it runs alone
SETS = dict(  # of instructions that the kernels know, by Linux's names
  avx2='AVX2', avx512bw='AVX-512', avx512_vnni='VNNI', amx_int8='AMX', asimd='NEON',
)  # fmt: skip
LOG = logging.getLogger(__name__)


@functools.cache
def ready(name: str = 'packed') -> bool:
  """Whether a library is built, loaded and known to JAX. Says once why not."""
  if _told() == '0':
    return False
  try:
    library = _loaded(name)
  except (OSError, subprocess.SubprocessError) as error:
    lines = (getattr(error, 'stderr', None) or str(error)).splitlines()
    reason = next((line for line in lines if 'error' in line), lines[0])
    LOG.warning('%s products run without their native kernel, more slowly: %s', name, reason)
    return False
  for target, symbol in LIBRARIES[name][1].items():
    call = jax.ffi.pycapsule(getattr(library, symbol))
    jax.ffi.register_ffi_target(target, call, platform='cpu')
  return True


def _loaded(name):
  path = _built(name)
  try:
    return ctypes.CDLL(str(path))
  except OSError:  # a damaged file is made again
    path.unlink(missing_ok=True)
    return ctypes.CDLL(str(_built(name)))


def _told() -> str:
  told = os.environ.get(SWITCH, '1')
  require(told in ('0', *KEPT), f'{SWITCH}={told!r} must be 0, {", ".join(KEPT)} or not be set')
  there = set(NEEDED.get(told, ())) <= set(_processor().split())
  require(there, f'{SWITCH}={told!r} names instructions that this processor has not; leave it out')
  return told


def read(data: jax.Array) -> jax.Array:
  """The sum [1] of data, uint8, as words, in whole blocks of 4,096 bytes: what reading takes."""
  call = jax.ffi.ffi_call('reduction_read', jax.ShapeDtypeStruct((1,), jax.numpy.uint32))
  return call(data, threads=threads())


def threads() -> int:
  """How many threads a product may use, 0: all that XLA has. Raises UsageError."""
  told = os.environ.get(THREADS, '0')
  require(told.isdecimal(), f'{THREADS}={told!r} must be a number of threads; 0 takes all')
  return int(told)


def _built(name: str = 'packed') -> pathlib.Path:
  """The library of a name, made if it is not there. Raises OSError or SubprocessError."""
  home = cache.folder()
  if home is None:
    raise FileNotFoundError('no folder to build it in: set HOME or XDG_CACHE_HOME')
  folder = home / 'kernels'
  compiler = shutil.which(os.environ.get('CXX', 'g++'))
  if compiler is None:
    raise FileNotFoundError('no C++ compiler: install g++, or set CXX')
  headers = map(pathlib.Path.read_text, sorted(FOLDER.glob('*.h')))
  files = [FOLDER / file for file in LIBRARIES[name][0]]
  sources = [path.read_text() for path in files]
  flags = *FLAGS, KEPT[_told()]
  described = '\n'.join([*headers, *sources, *flags, jax.__version__, compiler, _processor()])
  path = folder / f'{hashlib.sha256(described.encode()).hexdigest()[:20]}.so'
  if path.exists():
    return path
  folder.mkdir(parents=True, exist_ok=True, mode=0o700)
  with tempfile.TemporaryDirectory(dir=folder) as unfinished:
    made = pathlib.Path(unfinished) / path.name
    include = f'-I{jax.ffi.include_dir()}'
    command = [compiler, *flags, include, *map(str, files), '-o', str(made)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE)
    os.replace(made, path)
  return path


def has(flag: str) -> bool:
  """Whether the processor has this one of SETS and may use it."""
  names, told = list(SETS.values()), _told()
  kept = told in names and names.index(SETS[flag]) > names.index(told)
  there = flag in _processor().split() and not kept
  return there and (flag != 'amx_int8' or _granted())


@functools.cache
def _granted() -> bool:
  """Whether Linux lets this process use the tiles of AMX, as cpu/amx.h asks for them."""
  arch_prctl, ask, tiles = 158, 0x1023, 18
  return sys.platform == 'linux' and ctypes.CDLL(None).syscall(arch_prctl, ask, tiles) == 0


def instructions() -> str:
  """The sets of SETS that the processor has and may use: 'AVX2, AVX-512'; '' of none."""
  return ', '.join(name for flag, name in SETS.items() if has(flag))


def _processor() -> str:
  """What -march=native asks the processor for."""
  with contextlib.suppress(OSError):
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
    told = ('model name', 'flags', 'Features', 'CPU part')
    return '\n'.join(sorted({line for line in lines if line.startswith(told)}))
  return platform.processor()
