"""On an emulated Cortex-M: the interpreter's bytes, counts that repeat, what fits."""

import numpy as np
import pytest

from reduction.errors import UsageError
from reduction.mcu import boards, emit, interpret, measure, zoo
from reduction.mcu import plan as p
from tests.mcu import nets

absent = measure.missing()
emulated = pytest.mark.skipif(bool(absent), reason=f'needs {absent}')


@emulated
@pytest.mark.parametrize('net, core', [('mobile', 'm4'), ('mobile', 'm3'), ('residual', 'm7'),
                                       ('every', 'm0'), ('every', 'm4'), ('every', 'm33'),
                                       ('mobile', 'm55'), ('residual', 'm55')])  # fmt: skip
def test_the_emulated_core_gives_the_interpreter_s_bytes(net, core):
  graph = nets.MADE[net]()
  found = measure.measure(emit.emit(graph, p.plan(graph)), core=core, runs=3)
  want = interpret.interpret(graph, measure.inputs(graph, 3))[0]
  assert found.hashes == [measure.fnv(one) for one in want]
  assert len(found.layers) == len(graph.ops)


@emulated
def test_counts_repeat_and_wider_products_take_fewer():
  graph = nets.mobile()
  source = emit.emit(graph, p.plan(graph))
  first, again, plain, wide = (measure.measure(source, core=c) for c in ('m4', 'm4', 'm3', 'm55'))
  assert first.layers == again.layers
  assert 0 < wide.instructions < first.instructions < plain.instructions


@emulated
def test_what_does_not_fit_is_said_by_the_linker_in_bytes():
  graph = nets.mobile()
  source = emit.emit(graph, p.plan(graph))
  flash, ram = measure.sizes(source, core='m4', board=boards.board('stm32f412'))
  small = boards.Board('small', 'm4', flash - 100, 64 * 1024)
  with pytest.raises(UsageError, match=r'FLASH is .* bytes too small'):
    measure.sizes(source, core='m4', board=small)
  tight = boards.Board('tight', 'm4', 2**20, ram + measure.STACK)
  measure.sizes(source, core='m4', board=tight)
  with pytest.raises(UsageError, match='bytes for the stack'):
    measure.sizes(source, core='m4', board=tight._replace(ram=ram + measure.STACK - 4))


def test_boards_are_suggested():
  with pytest.raises(UsageError, match="Did you mean 'stm32f746'"):
    boards.board('stm32f747')


def test_the_hash_is_fnv_1a():
  assert measure.fnv(np.frombuffer(b'a', np.uint8)) == 0xE40C292C


@emulated
@pytest.mark.slow
def test_the_largest_mcunet_leaves_room_for_a_stack_in_320_kb():
  """TinyEngine's account of in4 is 426,120 B; its 1.7 MB of weights want an H743's Flash."""
  path = nets.DATA / 'mcunet/mcunet-512kb-2mb_imagenet.json'
  if not path.is_file():
    pytest.skip('the MCUNet zoo is not in $REDUCTION_DATA')
  graph = zoo.read(path, resolution=160)
  board = boards.board('stm32f746')._replace(flash=boards.board('stm32h743').flash)
  flash, ram = measure.sizes(emit.emit(graph, p.plan(graph)), core='m7', board=board)
  assert ram + measure.STACK <= board.ram == 320 * 1024
  assert flash < board.flash


@emulated
@pytest.mark.slow
@pytest.mark.parametrize('name, most', [('in3', 210e6), ('te_vww', 32e6)])
def test_trained_models_in_fewer_instructions_than_published(name, most):
  """Bit-exact, in less than TinyEngine's inexact 239.8 M and 34.7 M (laboratory figures)."""
  graph = nets.shipped(name)
  found = measure.measure(emit.emit(graph, p.plan(graph)), core='m4',
                          board=boards.board('stm32f746'))  # fmt: skip
  assert found.hashes == [measure.fnv(interpret.interpret(graph, measure.inputs(graph, 1))[0])]
  assert found.instructions <= most
