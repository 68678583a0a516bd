"""Spaces: genes and networks are one to one, counts are exact, the published networks are in."""

import dataclasses
import json

import numpy as np
import pytest

from reduction.errors import DataError, MissingInput, UsageError
from reduction.search import arch as a
from reduction.search import space as s
from tests.mcu import nets

TINY = s.Space(
  'tiny', (s.Stage(8, 2, (1, 2)), s.Stage(16, 1, (1,))), (8, 12), (0.5, 1.0), (3, 5), (2, 3),
  stem=(8, 3, 1), classes=10,
)  # fmt: skip
RELEASED = {  # file -> (resolution, width multiplier) of the paper's models
  'mcunet-10fps': (48, 0.6), 'mcunet-5fps': (96, 0.5), 'mcunet-256kb-1mb': (160, 0.5),
  'mcunet-320kb-1mb': (176, 0.5), 'mcunet-512kb-2mb': (160, 1.0),
}  # fmt: skip


def zoo(name):
  path = nets.DATA / f'mcunet/{name}_imagenet.json'
  path = path if path.is_file() else nets.DATA / f'mcunet/{name}.json'
  if not path.is_file():
    pytest.skip('the MCUNet zoo is not in $REDUCTION_DATA')
  return path


def test_the_count_is_that_of_all_networks_listed():
  genes = s.enumerate_all(TINY)
  # a block has 2 kernels x 2 expansions; depths 1 and 2, then 1; 2 resolutions, 2 widths
  assert len(genes) == TINY.count() == (4 + 16) * 4 * 2 * 2
  assert len(np.unique(genes, axis=0)) == len(genes)
  np.testing.assert_array_equal(genes, s.canonical(TINY, genes))
  wide = dataclasses.replace(TINY, widths=(1.0, 4.0))  # whose channels all differ
  assert len({s.decode(wide, g) for g in s.enumerate_all(wide)}) == wide.count()


def test_the_paper_s_grid():
  space = s.space('mcunet')
  assert len(space.resolutions) * len(space.widths) == 108
  assert space.at(176, 0.5).count() == (9**2 + 9**3 + 9**4) ** 5 * 9  # 3 kernels x 3 expansions


def test_once_for_all_s_space_of_mobilenetv3():
  """More than 10 ^ 19 networks (Cai et al. 2020, section 3.1), by depths of 2 to 4."""
  space = s.space('mobilenetv3').at(224, 1.0)
  assert space.count() == (9**2 + 9**3 + 9**4) ** 5
  small, large = (s.decode(space, genes) for genes in s.extremes(space))
  assert [len(network.blocks) for network in (small, large)] == [1 + 5 * 2, 1 + 5 * 4]
  block = large.blocks[-1]
  assert (block.out, block.kernel, block.middle) == (160, 7, 6 * 160)


@pytest.mark.parametrize('seed', range(8))
def test_what_is_sampled_mutated_and_crossed_stays_in_the_space(seed):
  random, space = np.random.default_rng(seed), s.space('mcunet')
  genes = s.sample(space, random, 4)
  children = s.cross(space, genes[:2], genes[2:], random)
  assert ((children == genes[:2]) | (children == genes[2:]) | (children == 0)).all()
  np.testing.assert_array_equal(s.mutate(space, genes, 0.0, random), genes)
  for row in (*genes, *s.mutate(space, children, 0.5, random), *s.extremes(space)):
    network = s.decode(space, row)
    a.check(network)
    assert s.decode(space, s.encode(space, network)) == network
    np.testing.assert_array_equal(s.encode(space, network)[2:], row[2:])


def test_separable_convolutions_are_blocks_without_expansion_or_shortcut():
  space = dataclasses.replace(TINY, expansions=(1,), widths=(1.0, 4.0))
  assert space.count() == (2 + 4) * 2 * 2 * 2
  for row in s.enumerate_all(space):
    network = s.decode(space, row)
    a.check(network)
    assert network.separable and all(b.middle == b.cin for b in network.blocks)
    assert not any(b.shortcut for b in network.blocks)
    assert s.decode(space, s.encode(space, network)) == network
    assert a.described(json.loads(json.dumps(a.description(network))), channels=3) == network
  with pytest.raises(UsageError, match='block 0 of separable convolutions has more'):
    a.check(network._replace(blocks=(network.blocks[0]._replace(middle=24),)))


def test_every_choice_is_drawn_evenly():
  genes = s.sample(TINY, np.random.default_rng(0), 4_000)
  counts = np.bincount(genes[:, 2], minlength=2)
  assert abs(counts[0] - 2_000) < 4 * np.sqrt(1_000)
  deep = genes[genes[:, 2] == 1]
  share = np.mean(deep[:, 6])
  assert abs(share - 0.5) < 0.06
  assert (genes[genes[:, 2] == 0][:, 6:8] == 0).all()  # a place without a block


@pytest.mark.parametrize('name, found', RELEASED.items())
def test_the_released_networks_are_in_the_space_with_expansions_of_5(name, found):
  network = a.read(zoo(name))
  space = s.space('mcunet', expansions=(3, 4, 5, 6))
  genes = s.encode(space, network)
  assert (space.resolutions[genes[0]], space.widths[genes[1]]) == found
  with pytest.raises(UsageError, match='no network of the space mcunet'):
    s.encode(s.space('mcunet'), network)  # whose paper has 3, 4 and 6


def test_proxyless_mobile_is_in_a_space_whose_first_stage_is_wider():
  known = s.space('proxyless')
  space = dataclasses.replace(known, stages=(s.Stage(32, 2, (2, 3, 4)), *known.stages[1:]))
  network = a.read(zoo('proxyless_mobile'))
  assert network.head == 1280
  assert s.decode(space, s.encode(space, network)) == network


def test_files_of_the_zoo_are_read_and_written():
  folder = zoo('proxyless_mobile').parent
  names = {path.stem.removesuffix('_imagenet') for path in folder.glob('*.json')}
  assert len(names) >= 13 and set(RELEASED) <= names
  for name in names:
    network = a.read(zoo(name))
    text = json.dumps(a.description(network))
    assert a.described(json.loads(text)) == network


@pytest.mark.parametrize('text', ['', '[]', '{}', '{"first_conv": 3}'])
def test_what_describes_no_network_is_refused(tmp_path, text):
  path = tmp_path / 'net.json'
  with pytest.raises(MissingInput):
    a.read(path)
  path.write_text(text)
  with pytest.raises(DataError, match='describes no MCUNet'):
    a.read(path)


@pytest.mark.parametrize(
  'change, says',
  [
    (dict(kernels=(3, 4)), 'odd'), (dict(expansions=(4, 3)), 'rise'),
    (dict(resolutions=(10,)), 'divide by 4'), (dict(stages=()), 'no stages'),
    (dict(expansions=(1, 2)), 'leaves the layer out'),
    (dict(kernel=(3,)), "no 'kernel'. Did you mean 'kernels'"),
  ],
)  # fmt: skip
def test_a_space_that_is_none_is_refused(change, says):
  with pytest.raises(UsageError, match=says):
    s.space('mcunet', **change)


def test_channels_are_rounded_as_in_mobilenet():
  table = {32 * 0.2: 8, 40 * 0.3: 16, 24 * 0.5: 16, 16 * 0.6: 16, 96 * 0.7: 64, 20: 24, 3: 8}
  assert {v: a.make_divisible(v) for v in table} == table
