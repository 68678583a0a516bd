"""What is known of the MCUNet zoo without training: authors' tables, to the printed digit."""

import json

import pytest

from reduction.errors import DataError, MissingInput
from reduction.mcu import plan as p
from reduction.mcu import zoo
from reduction.mcu.overlap import Style
from tests.mcu import nets

# file, resolution; M multiply-accumulates, M parameters (README of mcunet); KiB of SRAM (README of
# tinyengine; None: not there); bytes by its formula; ours with rings of int8, bytes
ROWS = [
  ('mbv2-w0.35-r144', 144, 23.5, 0.75, None, 302_120, 249_051),
  ('proxyless-w0.3-r176', 176, 38.3, 0.75, 259, 265_600, 186_311),
  ('mcunet-10fps', 48, 6.4, 0.75, 49, 50_064, 36_999),
  ('mcunet-5fps', 96, 12.8, 0.64, 96, 98_024, 73_875),
  ('mcunet-256kb-1mb', 160, 67.3, 0.73, 215, 219_776, 179_522),
  ('mcunet-320kb-1mb', 176, 81.8, 0.74, 260, 266_344, 186_507),
  ('mcunet-512kb-2mb', 160, 125.9, 1.73, 416, 426_120, 307_795),
]
# those without a row there, counted from their descriptions: M multiply-accumulates, M parameters
OTHERS = [
  ('mbv2-w0.3-r80_imagenet', 80, 7.30, 0.634), ('proxyless-w0.25-r112_imagenet', 112, 10.69, 0.570),
  ('proxyless_mobile', 224, 320.43, 4.081), ('mcunet-256kb-1mb-int4_imagenet', 160, 134.49, 1.405),
  ('mcunet-320kb-1mb-int4_imagenet', 176, 169.95, 1.400),
  ('mcunet-512kb-2mb-int4_imagenet', 192, 466.77, 3.262),
]  # fmt: skip
TIGHT = Style(wide=False, pixels=1, align=1)


@pytest.mark.parametrize('name, resolution, macs, parameters, kib, engine, ours', ROWS)
def test_figures_that_need_no_training(name, resolution, macs, parameters, kib, engine, ours):
  path = nets.DATA / f'mcunet/{name}_imagenet.json'
  if not path.is_file():
    pytest.skip('the MCUNet zoo is not in $REDUCTION_DATA')
  graph = zoo.read(path, resolution=resolution)
  assert round(zoo.macs(graph) / 1e6, 1) == macs
  assert round(zoo.parameters(graph) / 1e6, 2) == parameters
  assert zoo.tinyengine(graph) == engine
  assert kib in (None, round(engine / 1024))
  assert p.plan(graph, TIGHT).peak == ours


@pytest.mark.parametrize('name, resolution, macs, parameters', OTHERS)
def test_sizes_of_the_rest_of_the_zoo(name, resolution, macs, parameters):
  path = nets.DATA / f'mcunet/{name}.json'
  if not path.is_file():
    pytest.skip('the MCUNet zoo is not in $REDUCTION_DATA')
  graph = zoo.read(path, resolution=resolution)
  assert round(zoo.macs(graph) / 1e6, 2) == macs
  assert round(zoo.parameters(graph) / 1e6, 3) == parameters


def test_in4_fits_the_f746():
  path = nets.DATA / 'mcunet/mcunet-512kb-2mb_imagenet.json'
  if not path.is_file():
    pytest.skip('the MCUNet zoo is not in $REDUCTION_DATA')
  assert p.plan(zoo.read(path, resolution=160)).peak <= 320 * 1024


@pytest.mark.parametrize(
  'name, peak, tight', [('in3', 187_158, 186_507), ('te_vww', 77_046, 76_923)]
)
def test_trained_models_in_less_memory_than_any_published(name, peak, tight):
  """Below TinyEngine's 266,344 and 93,992 B and X-Cube-AI's 248,832 and 115,712.

  A ring as wide as the padded row, whose last column in3 never reads, would take 7 bytes more for
  k = 7: 186,514.
  """
  graph = nets.shipped(name)
  assert p.plan(graph).peak == peak
  made = p.plan(graph, TIGHT)
  assert made.peak == tight
  assert name != 'in3' or (made.bound, tight + 7) == (185_856, 186_514)


def test_a_description_by_hand(tmp_path):
  conv = dict(out_channels=4, kernel_size=3, stride=2)
  inner = dict(name='MBInvertedConvLayer', expand_ratio=3, kernel_size=5, stride=1, out_channels=4)
  described = dict(
    first_conv=conv, classifier=dict(out_features=2),
    blocks=[dict(mobile_inverted_conv=inner, shortcut=dict(name='IdentityLayer')),
            dict(mobile_inverted_conv=dict(name='ZeroLayer'), shortcut=dict())],
  )  # fmt: skip
  path = tmp_path / 'net.json'
  path.write_text(json.dumps(described))
  graph = zoo.read(path, resolution=8)
  assert [op.kind for op in graph.ops] == [
    'conv',
    'conv',
    'depthwise',
    'conv',
    'add',
    'pool',
    'dense',
  ]
  assert zoo.macs(graph) == 16 * (4 * 27 + 12 * 4 + 12 * 25 + 4 * 12) + 8
  assert zoo.parameters(graph) == 4 * 27 + 48 + 300 + 48 + 8 + 2 * (4 + 12 + 12 + 4) + 2
  # in + out + what the shortcut holds; columns; kernels
  assert zoo.tinyengine(graph) == 16 * (12 + 4 + 4) + 2 * 8 * 8 + 2 * 4 * 27


@pytest.mark.parametrize('text', ['', '[]', '{}', '{"first_conv": 3}', '{"blocks": 1}'])
def test_what_describes_no_net_is_refused(tmp_path, text):
  path = tmp_path / 'net.json'
  with pytest.raises(MissingInput):
    zoo.read(path, resolution=8)
  path.write_text(text)
  with pytest.raises(DataError, match='describes no MCUNet'):
    zoo.read(path, resolution=8)
