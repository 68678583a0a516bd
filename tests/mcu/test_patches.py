"""Patches: the same bytes in less memory, in poisoned memory too, and their work by hand."""

import numpy as np
import pytest

from reduction.errors import UsageError
from reduction.mcu import emit, host, interpret, patches, replay, sketch, zoo
from reduction.mcu import plan as p
from reduction.mcu.overlap import Style
from tests.mcu import nets


@pytest.mark.parametrize('net, last', [('mobile', 0), ('mobile', 4), ('mobile', 9),
                                       ('residual', 3), ('residual', 7), ('every', 0)])  # fmt: skip
@pytest.mark.parametrize('rows, columns', [(1, 1), (2, 2), (1, 3), (3, 2)])
def test_patches_give_the_same_bytes_and_read_none_that_is_lost(net, last, rows, columns):
  graph = nets.MADE[net]()
  h, w, _ = graph.tensors[graph.ops[last].output].shape
  made = patches.patched(graph, last, min(rows, h), min(columns, w))
  x = nets.inputs(graph, 2)
  assert np.array_equal(interpret.interpret(made, x)[0], interpret.interpret(graph, x)[0])
  planned = p.plan(made)
  p.check(made, planned)
  assert replay.replay(made, planned) > 0


def image_first():
  """Large early images of few channels, as in nets for small cameras."""
  s = sketch.Sketch((32, 32, 3))
  x = sketch.conv(s, 0, 8, kernel=3, stride=2)
  x = sketch.conv(s, sketch.depthwise(s, sketch.conv(s, x, 40), stride=2), 8)
  return sketch.finish(s, 'image_first', sketch.dense(s, sketch.average(s, x), 4))


def test_what_is_computed_twice_by_hand():
  graph = image_first()
  made = patches.patched(graph, 3, 2, 2)
  # a 4 x 4 patch of the output reads 8 or 9 rows and columns of the image before (one at the upper
  # edge is padding), so that 8 of 16 and 9 of 16 are computed
  extra = (8 + 9) ** 2 / 16**2
  first, wide = (graph.macs(op) for op in graph.ops[:2])
  assert zoo.macs(made) == zoo.macs(graph) + (extra - 1) * (first + wide)
  assert patches.best(graph, Style(), sides=(2,), most=2).work == zoo.macs(made) / zoo.macs(graph)


def test_the_best_cut_takes_less_memory_and_no_more_work_than_allowed():
  graph = image_first()
  cut = patches.best(graph, Style(), sides=(2, 4))
  assert cut.work <= 1.25 and cut.plan.peak < 0.65 * p.plan(graph).peak
  source = emit.emit(cut.graph, cut.plan)
  x = nets.inputs(graph, 2)
  flags = *host.STRICT, *host.SANITIZED
  if host.compiler():
    found = host.run(source, cut.graph, x, flags=flags)[0]
    assert np.array_equal(found, interpret.interpret(graph, x)[0])
  assert source.constants == emit.emit(graph, p.plan(graph)).constants  # shared by all patches
  assert patches.best(nets.every(), Style()) is None  # nothing to gain


def test_a_layer_of_patches_is_one_row():
  from reduction.mcu import boards, deploy

  graph = image_first()
  made = deploy.deploy(graph, boards.board('mps2'), patches=2)
  whole = deploy.deploy(graph, boards.board('mps2'))
  rows = {row['name']: row for row in made.layers}
  for row in whole.layers:
    assert rows[row['name']]['flash'] == row['flash']
    assert rows[row['name']]['times'] == (4 if row['layer'] < 4 else 1)
  assert sum(r['macs'] for r in made.layers) == zoo.macs(made.graph)
  assert made.total['arena'] < whole.total['arena'] and made.total['work'] > 1


def test_wrong_cuts_are_refused():
  graph = nets.mobile()
  assert 6 not in patches.cuts(graph)  # within a shortcut
  with pytest.raises(UsageError, match='cannot be cut after op 6'):
    patches.patched(graph, 6, 2, 2)
  with pytest.raises(UsageError, match='9 x 1 patches of an image of 7 x 6'):
    patches.patched(graph, 0, 9, 1)
  with pytest.raises(UsageError, match='most=0'):
    patches.best(graph, Style(), most=0.5)
