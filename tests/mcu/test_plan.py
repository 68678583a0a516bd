"""Plans: no byte read after it was overwritten, near the bound, exact where that can be found."""

import itertools

import numpy as np
import pytest

from reduction.errors import DataError, UsageError
from reduction.mcu import plan as p
from reduction.mcu import replay, sketch
from reduction.mcu.chain import Piece, peak
from reduction.mcu.exact import place
from reduction.mcu.overlap import Overlay, Style, distance
from tests.mcu import nets

TIGHT = Style(wide=False, pixels=1, align=1)
APART = Style(depthwise=False, pointwise=False, add=False, diagonal=False, ring=False, shared=True)


@pytest.mark.parametrize('net', nets.MADE)
@pytest.mark.parametrize('style', [Style(), TIGHT, Style(ring=False), Style(diagonal=False), APART])
def test_no_byte_is_read_after_it_was_overwritten(net, style):
  graph = nets.MADE[net]()
  made = p.plan(graph, style)
  p.check(graph, made)
  replay.replay(graph, made)
  assert made.bound <= p.timeline(graph, made).max() <= made.peak or style == APART


@pytest.mark.parametrize('net', nets.MADE)
def test_each_way_to_overlap_costs_no_memory(net):
  graph, peaks = nets.MADE[net](), []
  for on in (0, 1, 2, 3, 4):
    ways = dict(zip(('depthwise', 'pointwise', 'add', 'diagonal'), (True,) * on + (False,) * 4))
    peaks.append(p.plan(graph, Style(**ways)).peak)
  assert peaks == sorted(peaks, reverse=True)
  assert peaks[0] <= p.plan(graph, APART).peak
  assert peaks[-1] < peaks[0] or net == 'every'


def test_a_chain_needs_no_more_than_its_bound_and_scratch():
  s = sketch.Sketch((8, 8, 6))
  x = sketch.conv(s, sketch.depthwise(s, sketch.conv(s, 0, 12), kernel=3), 4)
  graph = sketch.finish(s, 'chain', x)
  made = p.plan(graph, TIGHT)
  assert made.bound == 8 * 8 * 12
  assert made.peak == 8 * 8 * 12 + 3 * 10  # the expanded tensor and a ring of 3 rows of 8 + 2


def broken(graph, made, **fields):
  """What replay says of a plan with fields changed."""
  with pytest.raises(DataError) as error:
    replay.replay(graph, made._replace(**fields))
  return str(error.value)


def test_every_fault_of_a_plan_is_caught():
  graph = nets.mobile()
  made = p.plan(graph, TIGHT)
  assert 'arena of' in broken(graph, made, peak=made.peak - 1)
  depthwise = next(i for i, op in enumerate(graph.ops) if op.kind == 'depthwise')
  _, size = made.scratch[depthwise]
  tensor = made.offsets[graph.ops[depthwise].inputs[0]]
  inside = made.scratch | {depthwise: (tensor + 8, size)}
  assert graph.ops[depthwise].name in broken(graph, made, scratch=inside)


def test_a_convolution_lies_below_its_input_by_the_least_distance():
  s = sketch.Sketch((8, 8, 4))
  graph = sketch.finish(s, 'one', sketch.conv(s, 0, 4, kernel=3))
  made = p.plan(graph, TIGHT)
  assert made.offsets == {0: (8 + 1) * 4, 1: 0}  # a row and a pixel
  assert made.peak == (8 + 1) * 4 + 8 * 8 * 4 + 9 * 4  # and a window
  nearer = made.offsets | {0: made.offsets[0] - 1}
  assert 'conv0' in broken(graph, made, offsets=nearer)


def test_a_tensor_that_is_read_later_is_not_written_over():
  graph = nets.residual()
  made = p.plan(graph, TIGHT)
  index, op = next((i, op) for i, op in enumerate(graph.ops) if op.kind == 'add')
  conv = graph.ops[index - 1]
  stolen = made.offsets | {conv.output: made.offsets[op.inputs[0]]}
  assert op.name in broken(graph, made, offsets=stolen)


@pytest.mark.parametrize('kernel', [1, 3, 5])
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('pad', [0, 1])
@pytest.mark.parametrize('pixels', [0, 1, 2])
def test_the_distance_is_the_least_by_brute_force(kernel, stride, pad, pixels):
  pad = min(pad, kernel - 1)
  s = sketch.Sketch((9, 7, 2))
  sketch.conv(s, 0, 5, kernel=kernel, stride=stride, pad=(pad,) * 4)
  graph = sketch.finish(s, 'x')
  op, (oh, ow, cout) = graph.ops[0], graph.tensors[1].shape

  lowest = [replay._window_reads(op, (9, 7, 2), *divmod(q, ow)).min() for q in range(oh * ow)]

  def works(below):
    block = max(pixels, 1)
    for at in range(0, oh * ow, block):
      done = min(at + block, oh * ow)
      later = lowest[done if pixels else done - 1 :]
      if later and min(later) + below < done * cout:
        return False
    return True

  found = distance(op.window, (9, 7, 2), (oh, ow, cout), pixels)
  assert found == next(d for d in itertools.count() if works(d))


def brute(chains, most):
  """The least peak of chains, by trying every offset."""
  ends = itertools.product(*(range(most) for _ in chains))
  best = most
  for offsets in ends:
    spans = [(c, o + q.at, q) for c, (chain, o) in enumerate(zip(chains, offsets)) for q in chain]
    clash = any(
      a[0] != b[0] and a[2].first <= b[2].last and b[2].first <= a[2].last
      and a[1] < b[1] + b[2].size and b[1] < a[1] + a[2].size
      for a, b in itertools.combinations(spans, 2)
    )  # fmt: skip
    if not clash:
      best = min(best, max(at + q.size for _, at, q in spans))
  return best


@pytest.mark.parametrize('seed', range(4))
def test_the_exact_plan_is_the_best_by_brute_force(seed):
  random = np.random.default_rng(seed)
  chains = []
  for c in range(4):
    first = int(random.integers(0, 4))
    chains.append((Piece(('tensor', c), 0, int(random.integers(1, 4)), first,
                         first + int(random.integers(0, 3))),))  # fmt: skip
  apart = list(zip(chains, np.cumsum([0] + [c[0].size for c in chains[:-1]]).tolist()))
  assert peak(place(chains, 1, apart)) == brute(chains, peak(apart) + 1)


@pytest.mark.parametrize('net', nets.MADE)
def test_the_exact_plan_is_no_worse_than_the_greedy(net):
  graph = nets.MADE[net]()
  greedy, exact = p.plan(graph), p.plan(graph, exact=True)
  assert greedy.bound <= exact.peak <= greedy.peak
  replay.replay(graph, exact)


def test_tensors_of_one_life_never_share_bytes():
  """Two tensors of equal life at one offset: the fault of a first-fit with strict comparisons."""
  s = sketch.Sketch((4, 4, 4))
  a, b = sketch.conv(s, 0, 4), sketch.conv(s, 0, 4)
  graph = sketch.finish(s, 'twins', sketch.add(s, a, b))
  made = p.plan(graph, APART)
  assert abs(made.offsets[a] - made.offsets[b]) >= 64
  both = made._replace(offsets=made.offsets | {b: made.offsets[a]})
  with pytest.raises(UsageError, match='meet at byte'):
    p.check(graph, both)


def test_a_style_that_no_kernel_has_is_refused():
  with pytest.raises(UsageError, match='pixels'):
    p.plan(nets.mobile(), Style(pixels=3))
  with pytest.raises(UsageError, match='align'):
    p.plan(nets.mobile(), Style(align=1))


def test_an_overlay_names_the_input_that_ends():
  graph = nets.mobile()
  made = p.plan(graph)
  adds = [(i, op) for i, op in enumerate(graph.ops) if op.kind == 'add']
  for i, op in adds:
    assert made.over[i] == Overlay(op.inputs[1])  # the one that was there first


@pytest.mark.slow
@pytest.mark.parametrize('name', ['ic_resnet', 'te_vww'])
@pytest.mark.parametrize('style', [Style(), TIGHT])
def test_trained_models_run_in_poisoned_memory(name, style):
  graph = nets.shipped(name)
  # all that an op gives is read again, or is the output
  given = sum(graph.tensors[t].size for t in {op.output for op in graph.ops})
  assert replay.replay(graph, p.plan(graph, style)) >= given
