"""The CPU's packed kernel on each kind of processor, compiled for it and run where that can be."""

import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest

CHECK = pathlib.Path(__file__).parent / 'packed_check.cc'
SOURCES = pathlib.Path(__file__).parents[2] / 'reduction' / 'kernels' / 'cpu'
ARM = 'aarch64-linux-gnu-g++'
SIMDE = pathlib.Path('/usr/include/simde')  # Debian: libsimde-dev
HAS = 'AVX2', 'FMA', 'F16C', 'AVX512BW', 'AVX512VL', 'AVX512VNNI', 'AMX_INT8'
EMULATED = ('-O0', f'-I{CHECK.parent / "emulated"}')
WITH = tuple(f'-D__{name}__' for name in HAS)
pytestmark = pytest.mark.slow  # each compiles for several seconds
KINDS = {
  'any': ('g++', (), ()),
  'AVX2': ('g++', ('-march=haswell',), ('avx2', 'fma', 'f16c')),
  'AVX-512': ('g++', ('-march=skylake-avx512',), ('avx512f', 'avx512bw', 'avx512vl')),
  'VNNI': ('g++', ('-march=icelake-server',), ('avx512_vnni', 'avx512_vbmi2')),
  'AMX': ('g++', ('-march=sapphirerapids',), ('amx_int8', 'avx512_vnni')),
  'AVX-512, emulated': ('g++', (*EMULATED, *WITH[:-2]), ()),
  'VNNI, emulated': ('g++', (*EMULATED, *WITH[:-1]), ()),
  'AMX, emulated': ('g++', (*EMULATED, *WITH), ()),
  'NEON': (ARM, ('-static',), ()),
  'NEON with dot products': (ARM, ('-static', '-march=armv8.2-a+dotprod'), ()),
}


def flags():
  """What this processor has, '' where that is not told."""
  path = pathlib.Path('/proc/cpuinfo')
  found = re.search(r'^flags\s*:(.*)$', path.read_text(), re.M) if path.exists() else None
  return found[1].split() if found else []


@pytest.fixture(scope='module')
def compiled(tmp_path_factory):
  """compiled(kind) -> the program, made once."""
  folder = tmp_path_factory.mktemp('compiled')

  def of(kind):
    compiler, flags, _ = KINDS[kind]
    if not shutil.which(compiler):
      pytest.skip(f'no {compiler}')
    if EMULATED[-1] in flags and not SIMDE.is_dir():
      pytest.skip('no SIMDe, which emulates it')
    out = folder / kind.replace(' ', '_')
    if not out.exists():
      command = [compiler, '-std=c++17', '-O1', '-ffp-contract=fast', *flags, f'-I{SOURCES}']
      subprocess.run([*command, str(CHECK), '-o', str(out)], check=True)
    return out

  return of


@pytest.fixture(scope='module')
def said(compiled):
  """said(kind) -> (lines of products, lines of tokens) of the program, run once."""
  found = {}

  def of(kind):
    if kind not in found:
      compiler, _, needed = KINDS[kind]
      program = str(compiled(kind))
      run = [shutil.which('qemu-aarch64')] if compiler == ARM else []
      if None in run or set(needed) - set(flags()):
        pytest.skip('cannot be run here')
      out = subprocess.run([*run, program], check=True, capture_output=True, text=True).stdout
      lines = [line.split() for line in out.splitlines()]
      found[kind] = [line for line in lines if line[0] != 'token'], lines[5:]
    return found[kind]

  return of


@pytest.mark.parametrize('kind', KINDS)
def test_products_are_those_of_the_rounded_rows(kind, said):
  found = {tuple(line[:2]): float(line[2]) for line in said(kind)[0]}
  assert len(found) == 5 and max(found.values()) < 1e-6, found


@pytest.mark.parametrize('kind', list(KINDS)[1:])
def test_a_token_comes_to_the_same_on_every_processor(kind, said):
  """As by plain C++; tests/models/test_stacked.py has this machine's own kind beside XLA."""
  ours, plain = (np.array([line[2:] for line in said(k)[1]], float) for k in (kind, 'any'))
  assert plain.shape == (18, 16) and np.isfinite(plain).all() and plain.std() > 0.5
  apart = abs(ours - plain).max(1) / abs(plain).max(1)
  assert (apart[:9] < 1e-4).all(), apart  # inputs in 16 bits, memory in floats
  assert (apart[9:] < 3e-2).all(), apart  # what is rounded to 8 bits may be rounded the other way


def test_neon_unpacks_32_weights_with_two_logical_operations(compiled):
  """TinyChat takes three (Lin et al. 2024, section 4.2)."""
  command = ['aarch64-linux-gnu-objdump', '-d', '--disassemble=unpacked', '--no-show-raw-insn']
  made = subprocess.run(
    [*command, str(compiled('NEON'))], check=True, capture_output=True, text=True
  )
  code = made.stdout + '\n'
  body = re.search(r'<unpacked>:\n(.*?)\n\n', code, re.S)[1]
  operations = re.findall(r'\t(\w+)\tv\d+\.16b', body)
  made = sorted(name for name in operations if name != 'movi')  # of 128 weights
  assert made == ['and'] * 4 + ['ushr'] * 4


@pytest.mark.skipif(not shutil.which('clang-format'), reason='needs clang-format')
def test_clang_format_changes_nothing():
  files = sorted(map(str, (*SOURCES.glob('*.h'), *SOURCES.glob('*.cc'), CHECK)))
  made = subprocess.run(['clang-format', '--dry-run', '-Werror', '--style=file', *files])
  assert made.returncode == 0
