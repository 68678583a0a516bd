"""The C: bit for bit the interpreter's, clean under strict compilers, safe names, checked sizes."""

import dataclasses
import shutil
import subprocess

import numpy as np
import pytest

from reduction.errors import DataError
from reduction.mcu import boards, emit, host, interpret, measure, wrap
from reduction.mcu import plan as p
from reduction.mcu.overlap import Style
from tests.mcu import nets

compiled = pytest.mark.skipif(not host.compiler(), reason='needs a C compiler')
TIGHT = Style(wide=False, pixels=1, align=1)


@compiled
@pytest.mark.parametrize('net, style', [('mobile', Style()), ('residual', Style()),
                                        ('every', Style()), ('mobile', TIGHT)])  # fmt: skip
def test_the_c_is_the_interpreter_bit_for_bit(net, style):
  graph = nets.MADE[net]()
  x, made = nets.inputs(graph, 6), p.plan(graph, style)
  flags = (*host.STRICT, *(host.SANITIZED if style == Style() else ()))
  found = host.run(emit.emit(graph, made), graph, x, flags=flags)
  for a, b in zip(found, interpret.interpret(graph, x), strict=True):
    assert np.array_equal(a, b)
    assert len(np.unique(a)) > 3  # not all cut off


@compiled
@pytest.mark.parametrize('switch', emit.Code._fields)
def test_every_way_to_write_it_gives_the_same_bytes(switch):
  graph = nets.mobile()
  source = emit.emit(graph, p.plan(graph), code=emit.Code(**{switch: False}))
  x = nets.inputs(graph, 2)
  assert np.array_equal(host.run(source, graph, x)[0], interpret.interpret(graph, x)[0])


@compiled
def test_sums_near_32_bits_are_scaled_with_care():
  """Dead channels of trained nets have biases near 2^30 and tiny factors."""
  graph = nets.mobile()
  ops = list(graph.ops)
  bias, shift = ops[1].bias.copy(), ops[1].shift.copy()
  bias[:2], shift[:2] = (2**30 + 5, -(2**30) - 5), -28
  ops[1] = dataclasses.replace(ops[1], bias=bias, shift=shift)
  graph = dataclasses.replace(graph, ops=tuple(ops))
  x = nets.inputs(graph, 2)
  found = host.run(emit.emit(graph, p.plan(graph)), graph, x)[0]
  assert np.array_equal(found, interpret.interpret(graph, x)[0])


def compile_with(folder, source, *flags) -> str:
  """What the compiler says of the net alone."""
  host.write(source, folder)
  command = [host.compiler(), '-c', *host.STRICT, *flags, f'{source.name}.c', '-o', 'net.o']
  return subprocess.run(command, cwd=folder, capture_output=True, text=True).stderr


@compiled
def test_a_net_that_does_not_fit_is_an_error_of_the_compiler(tmp_path):
  graph = nets.mobile()
  made = p.plan(graph)
  source = emit.emit(graph, made)
  limits = lambda ram, flash: (f'-DMOBILE_RAM_LIMIT={ram}', f'-DMOBILE_FLASH_LIMIT={flash}')
  assert compile_with(tmp_path, source, *limits(made.peak, source.constants)) == ''
  assert 'larger than' in compile_with(tmp_path, source, *limits(made.peak - 1, source.constants))
  assert 'more than' in compile_with(tmp_path, source, *limits(made.peak, source.constants - 1))


@compiled
def test_constants_are_counted_to_the_byte(tmp_path):
  graph = nets.mobile()
  source = emit.emit(graph, p.plan(graph))
  assert source.constants == sum(op.weights.size + 9 * len(op.bias) for op in graph.ops
                                 if hasattr(op, 'weights'))  # fmt: skip
  wrong = source.files['mobile.c'].replace(
    'MOBILE_CONSTANT_BYTES ==', '1 + MOBILE_CONSTANT_BYTES =='
  )
  changed = source._replace(files=source.files | {'mobile.c': wrong})
  assert 'constants_add_up' in compile_with(tmp_path, changed)


MAIN = """
#include <stdio.h>
#include "mobile.h"
int main(void) {
  static int8_t arena[MOBILE_ARENA_BYTES + 8] __attribute__((aligned(8)));
  printf("%d %d %d %d", mobile_run(0, 1 << 20), mobile_run(arena, MOBILE_ARENA_BYTES - 1),
         mobile_run(arena + 1, MOBILE_ARENA_BYTES), mobile_run(arena, MOBILE_ARENA_BYTES));
}
"""


@compiled
def test_wrong_sizes_are_an_error_code(tmp_path):
  graph = nets.mobile()
  host.write(emit.emit(graph, p.plan(graph)), tmp_path, **{'main.c': MAIN})
  command = [host.compiler(), *host.STRICT, 'mobile.c', 'main.c', '-o', 'net']
  subprocess.run(command, cwd=tmp_path, check=True)
  said = subprocess.run(['./net'], cwd=tmp_path, capture_output=True, text=True).stdout
  assert said == '1 2 3 0'


@pytest.mark.parametrize(
  'name, clean',
  [('foo"); system("x', 'foo_system_x'), ('3x', 'net_3x'), ('int', 'net_int'), ('', 'net'),
   ('MobileNet v2/ü', 'mobilenet_v2'), ('../../etc', 'etc')],
)  # fmt: skip
def test_names_become_identifiers(name, clean):
  assert emit.identifier(name) == clean


@compiled
def test_names_of_layers_stay_inside_comments(tmp_path):
  graph = nets.mobile()
  evil = '*/ #error "evil" \\\n??/ \0 "); system("x'
  graph = dataclasses.replace(
    graph, name=evil, ops=tuple(dataclasses.replace(op, name=evil) for op in graph.ops),
    tensors=tuple(dataclasses.replace(t, name=evil) for t in graph.tensors),
  )  # fmt: skip
  source = emit.emit(graph, p.plan(graph))
  assert source.name == 'error_evil_system_x'
  assert compile_with(tmp_path, source) == ''


@pytest.mark.skipif(not shutil.which('clang-format'), reason='needs clang-format')
@pytest.mark.parametrize('net, name', [('mobile', None), ('residual', 'a' * 60), ('every', None)])
def test_clang_format_changes_nothing(net, name, tmp_path):
  graph = nets.MADE[net]()
  source = emit.emit(graph, p.plan(graph), name)
  more = {'host.c': host.harness(source, graph), '.clang-format': emit.template('clang-format.j2')}
  more |= measure.files(source, boards.board('corstone300'), 'm55')
  host.write(source, tmp_path, **more)
  for path in tmp_path.glob('*.[ch]'):
    command = ['clang-format', '--style=file', path.name]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert said.stdout == path.read_text(), path.name


@pytest.mark.parametrize(
  'text, lines',
  [('f(a, b)', ['f(a, b);']),
   (f'f({"x" * 50}, {"y" * 50})', [f'f({"x" * 50},', f'  {"y" * 50});']),
   (f'f((t){{1, 2}}, {"y" * 86}, z)', [f'f((t){{1, 2}}, {"y" * 86},', '  z);'])],
)  # fmt: skip
def test_calls_break_at_commas_that_stand_in_no_brace(text, lines):
  assert wrap.broken(text, after=';').split('\n') == lines


@compiled
def test_c_that_fails_is_a_clear_error():
  graph = nets.mobile()
  source = emit.emit(graph, p.plan(graph))
  broken = source._replace(files=source.files | {'mobile.c': '#error "no"\n'})
  with pytest.raises(DataError, match='failed'):
    host.run(broken, graph, nets.inputs(graph, 1))


@compiled
@pytest.mark.slow
@pytest.mark.parametrize('name', nets.SHIPPED)
def test_shipped_models_are_the_same_in_c(name):
  graph = nets.shipped(name)
  x = nets.inputs(graph, 18 if graph.tensors[0].size < 10_000 else 2)
  found = host.run(emit.emit(graph, p.plan(graph)), graph, x)
  assert np.array_equal(found[0], interpret.interpret(graph, x)[0])
