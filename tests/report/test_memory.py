"""The picture of memory over time, and the rows that it is made of."""

import itertools

import pytest

from reduction.report import memory

HAND = [
  dict(kind='tensor', name='in', what='input', offset=8, size=8, begin=0, end=0.5, shape='8'),
  dict(kind='tensor', name='a', what='held', offset=0, size=16, begin=0.5, end=3, shape='16'),
  dict(kind='tensor', name='out', what='output', offset=16, size=4, begin=2, end=3, shape='4'),
  dict(kind='tensor', name='ring', what='scratch', offset=16, size=6, begin=1, end=2),
  dict(kind='layer', layer=0, name='first', ram=16), dict(kind='layer', layer=1, name='b', ram=22),
  dict(kind='layer', layer=2, name='c', ram=20),
  dict(kind='microcontroller', arena=22, lower_bound=20),
]  # fmt: skip


def test_a_picture_says_what_is_held_and_where_the_most():
  (figure,) = memory.draw(HAND)
  assert '22 bytes' in figure.caption and 'needs less than 20' in figure.caption
  assert 'at layer 1, b: 22 bytes' in figure.caption
  (panel,) = figure.panels
  assert [line.label for line in panel.lines] == [
    'held for later', 'input', 'output', 'scratch of a layer'
  ]  # fmt: skip
  for color in ('d1', 'd2', 'd3', 'd4'):
    assert f'var(--{color}' in panel.svg
  assert 'var(--d0' not in panel.svg  # nothing lives between two layers alone


def test_rows_of_another_run_and_of_other_kinds_are_no_picture():
  assert memory.draw([dict(row, run='other') for row in HAND]) == []
  assert memory.draw([dict(kind='layer', layer=0, name='x', ram=3)]) == []


@pytest.mark.parametrize('net', ['mobile', 'residual', 'every'])
def test_what_is_drawn_never_overlaps_and_fills_the_arena(net):
  from reduction.mcu import deploy
  from reduction.mcu.plan import plan
  from tests.mcu import nets

  graph = nets.MADE[net]()
  made = plan(graph)
  rows = deploy.tensors(graph, made)
  assert len(rows) == len(graph.tensors) + len(made.scratch)
  for half in range(2 * len(graph.ops)):
    alive = [r for r in rows if r['begin'] <= half / 2 < r['end']]
    spans = sorted((r['offset'], r['offset'] + r['size'], r['what']) for r in alive)
    for (_, stop, one), (start, _, other) in itertools.pairwise(spans):
      assert stop <= start, (half, one, other)
  assert max(r['offset'] + r['size'] for r in rows) == made.peak
