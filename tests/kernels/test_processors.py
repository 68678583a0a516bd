"""The CPU's packed kernel on each kind of processor, compiled for it and run where that can be."""

import pathlib
import re
import shutil
import subprocess

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


@pytest.mark.parametrize('kind', KINDS)
def test_products_are_those_of_the_rounded_rows(kind, compiled):
  compiler, _, needed = KINDS[kind]
  program = str(compiled(kind))
  run = [shutil.which('qemu-aarch64')] if compiler == ARM else []
  if None in run or set(needed) - set(flags()):
    pytest.skip('cannot be run here')
  out = subprocess.run([*run, program], check=True, capture_output=True, text=True).stdout
  found = {tuple(line.split()[:2]): float(line.split()[2]) for line in out.splitlines()}
  assert len(found) == 5 and max(found.values()) < 1e-6, found


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
