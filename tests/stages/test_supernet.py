"""From a supernet to a network on a board, by stages: scores, limits, what is refused."""

import dataclasses

import jax
import numpy as np
import pytest

from reduction import stages
from reduction.errors import UsageError
from reduction.models.mobile import Mobile
from reduction.predict import logits, scores
from reduction.search import space as s
from reduction.search import supernet
from reduction.search.cost import cost, ops_of_arch
from reduction.stages.specialize import costs
from reduction.stages.supernet import accuracies

SPACE = dict(
  name='mcunet', stages=((8, 4, (1, 2)),), kernels=(1, 3), expansions=(2, 3), stem=(8, 3, 1),
  first=0, resolutions=(8,), widths=(1.0,), classes=10, channels=1,
)  # fmt: skip
ADAM = dict(name='adam', learning_rate=1e-2)
TRAIN = dict(steps=60, batch=50, every=30, optimizer=ADAM)


@pytest.fixture(scope='module')
def trained(digits, module):
  """(supernet, its run) of one seed."""
  from reduction.net import create
  from reduction.run import Run

  run = Run(digits, (0,))
  net = create(module, run.key('init', 0), digits.train.x[:1])
  return stages.supernet(space=SPACE, random=1, **TRAIN)(net, run), run


def test_a_supernet_learns_and_its_networks_with_it(trained):
  _, run = trained
  (row,) = [r for r in run.rows if r['kind'] == 'supernet']
  assert row['largest_test_accuracy'][0] > 0.4
  assert row['smallest_test_accuracy'][0] > 0.25
  assert row['networks'] == '20'


def test_the_network_that_is_taken_fits_and_scores_as_in_the_supernet(trained):
  net, run = trained
  space = s.space(**SPACE)
  sizes = cost(ops_of_arch(s.decode(space, s.extremes(space)[1])))
  limits = dict(sram=int(sizes['sram'][0]) - 1, flash=10**6)  # all but the largest kind
  stage = stages.specialize(space=SPACE, population=6, generations=2, **limits)
  part = dataclasses.replace(run, rows=[], names=set())
  small = stage(net, part)
  assert isinstance(small.module, Mobile)
  found = {r['method']: r for r in part.rows if r['kind'] == 'found'}
  assert found['evolution']['sram'] <= limits['sram']
  genes = np.array([list(map(int, found['evolution']['genes'].split()))])
  best = accuracies(net, part, s.enumerate_all(space), 'validation')[0]
  assert best.min() <= found['evolution']['validation_accuracy'] <= best.max()
  assert scores(logits(small, run.data.test.x), run.data.test.y)['test_accuracy'] == pytest.approx(
    accuracies(net, part, genes, 'test')[:, 0], abs=0.01
  )
  assert supernet.network(s.decode(space, genes)) == small.module
  assert found['evolution']['score'] == pytest.approx(found['evolution']['validation_accuracy'])
  assert jax.tree.leaves(small.params)[0].shape[0] == 1


def test_a_reward_and_a_limit_on_multiply_accumulates_move_the_choice(trained):
  """Of 20 networks; the hard reward of a target below all is the most accuracy for its cost."""
  net, run = trained
  space = s.space(**SPACE)
  everything = s.enumerate_all(space)
  macs, right = costs(space, everything)['macs'], accuracies(net, run, everything, 'validation')[0]
  settings = dict(space=SPACE, sram=10**6, flash=10**6, population=20, generations=0, beside=False)
  hard = dict(cost='macs', target=float(macs.min()), how='hard')
  for given, allowed, worth in (
    (dict(reward=hard), np.full(20, True), right * macs.min() / macs),
    (dict(macs=int(np.median(macs))), macs <= np.median(macs), right),
  ):
    part = dataclasses.replace(run, rows=[], names=set())
    stages.specialize(**settings, **given)(net, part)
    (row,) = [r for r in part.rows if r['kind'] == 'found']
    best = np.flatnonzero(allowed)[worth[allowed].argmax()]
    assert row['genes'] == ' '.join(map(str, everything[best]))
    assert row['score'] == pytest.approx(worth[best]) and row['macs'] == macs[best]


def test_what_fits_nothing_or_is_no_supernet_is_refused(trained, fresh):
  net, run = trained
  part = dataclasses.replace(run, rows=[], names=set())
  with pytest.raises(UsageError, match='the smallest takes'):
    stages.specialize(space=SPACE, sram=100, flash=100)(net, part)
  with pytest.raises(UsageError, match='is no supernet'):
    stages.specialize(space=SPACE, sram=10**6, flash=10**6)(*fresh())
  with pytest.raises(UsageError, match=r'images of digits are \(8, 8, 1\)'):
    stages.supernet(space=dict(SPACE, channels=3), **TRAIN)(*fresh())
  with pytest.raises(UsageError, match='no table has every kind of op'):  # a kernel of 1
    limited = dict(sram=10**6, flash=10**6, instructions=10**6)
    stages.specialize(space=SPACE, **limited)(net, part)
  with pytest.raises(UsageError, match="cost='time' is not one of macs"):
    stages.specialize(space=SPACE, sram=1, flash=1, reward=dict(cost='time', target=1.0))
  with pytest.raises(UsageError, match='name a board'):
    stages.specialize(space=SPACE)


@pytest.mark.slow
def test_ranks_of_networks_trained_by_themselves(trained):
  net, run = trained
  part = dataclasses.replace(run, rows=[], names=set())
  assert stages.rank(space=SPACE, networks=5, **TRAIN)(net, part) is net
  rows = [r for r in part.rows if r['kind'] == 'network']
  assert len({r['genes'] for r in rows}) == 5
  assert min(r['alone_accuracy'] for r in rows) > 0.25
  (row,) = [r for r in part.rows if r['kind'] == 'agreement']
  assert row['tau_low'] <= row['tau'] <= row['tau_high']
