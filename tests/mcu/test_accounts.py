"""Counts of nets that everyone knows, and ways of counting that differ by what they count."""

import pytest

from reduction.errors import UsageError
from reduction.mcu import accounts, known, sketch, zoo
from tests.mcu import nets


@pytest.mark.parametrize(
  'graph, macs, parameters, weights, in_out, held, blocks',
  [
    # torchvision's resnet18 has 11,689,512 parameters and 1.814 G multiply-accumulates
    (lambda: known.resnet(18), 1_814_073_344, 11_689_512, 11_678_912, 953_344, 953_344, 953_344),
    # its mobilenet_v2 3,504,872 and 300.8 M
    (lambda: known.mobilenet_v2(), 300_774_272, 3_504_872, 3_469_760, 1_505_280, 1_505_280,
     1_705_984),
    (lambda: known.mobilenet_v2(0.75), 209_069_792, 2_636_424, 2_608_784, 1_505_280, 1_505_280,
     1_705_984),
  ],
)  # fmt: skip
def test_published_nets(graph, macs, parameters, weights, in_out, held, blocks):
  graph = graph()
  assert zoo.macs(graph) == macs and zoo.parameters(graph) == parameters
  assert accounts.weights(graph) == weights
  assert accounts.in_out(graph) == in_out
  assert (accounts.held(graph), accounts.held(graph, blocks=True)) == (held, blocks)


@pytest.mark.slow
def test_a_resnet_of_bottlenecks():
  graph = known.resnet(50)
  assert zoo.parameters(graph) == 25_557_032  # torchvision's resnet50
  assert accounts.held(graph) == 56 * 56 * (64 + 256 + 256)  # 7.2 MB in float32


def test_an_integer_mcunet_by_its_shortcuts_and_by_all_blocks():
  path = nets.DATA / 'mcunet/mcunet-512kb-2mb_imagenet.json'
  if not path.is_file():
    pytest.skip('the MCUNet zoo is not in $REDUCTION_DATA')
  graph = zoo.read(path, resolution=160)
  assert accounts.weights(graph) == 1_710_232
  assert accounts.in_out(graph) == 2 * 80 * 80 * 32
  assert accounts.held(graph) == 40 * 40 * (120 + 24 + 120)
  assert accounts.held(graph, blocks=True) == 80 * 80 * (16 + 48) + 40 * 40 * 48


def test_what_is_held_by_hand():
  s = sketch.Sketch((4, 4, 2), blank=True)
  x = sketch.conv(s, sketch.depthwise(s, sketch.conv(s, 0, 8), stride=2), 3)
  y = sketch.conv(s, x, 3, kernel=3)
  graph = sketch.finish(s, 'x', sketch.add(s, x, y))
  assert accounts.in_out(graph) == 16 * 2 + 16 * 8
  assert accounts.held(graph) == 16 * 2 + 16 * 8  # expansion in and out
  assert accounts.held(graph, blocks=True) == 16 * 2 + 16 * 8 + 4 * 8  # at the depthwise
  assert accounts.biases(graph) == 8 + 8 + 3 + 3


def test_rounding_of_channels_is_the_authors():
  assert [known.divisible(c) for c in (24 * 0.35, 16 * 0.75, 32 * 0.75, 8.9)] == [8, 16, 24, 16]
  with pytest.raises(UsageError, match='depth=34'):
    known.resnet(34)
