"""From a supernet to a network on a board, by stages: scores, limits, what is refused."""

import dataclasses
import importlib
import itertools

import jax
import numpy as np
import pytest

from reduction import stages, tree
from reduction.errors import UsageError
from reduction.mcu.measure import STACK
from reduction.models.mobile import Mobile
from reduction.predict import logits, scores
from reduction.run import chain
from reduction.search import latency, supernet, timing
from reduction.search import space as s
from reduction.search.cost import cost, ops_of, ops_of_arch
from reduction.search.fitting import costs
from reduction.search.selection import of_board
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
  held = accuracies(net, part, genes, 'validation')[0, 0]
  assert found['evolution']['validation_accuracy'] == pytest.approx(held)
  every = s.enumerate_all(space)
  fine = cost(ops_of(space, every))['sram'] <= limits['sram']
  right = accuracies(net, part, every, 'validation')[0]
  assert 0 < fine.sum() < len(every)  # of these it is among the better half
  assert held >= np.median(right[fine])
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


def test_evolution_follows_a_hard_reward(trained):
  """Of 20 networks, six at first: after some generations the best by accuracy for its cost."""
  net, run = trained
  space = s.space(**SPACE)
  everything = s.enumerate_all(space)
  macs, right = costs(space, everything)['macs'], accuracies(net, run, everything, 'validation')[0]
  target = float(np.percentile(macs, 30))
  worth = np.where(macs <= target, right, right * target / macs)
  part = dataclasses.replace(run, rows=[], names=set())
  stages.specialize(space=SPACE, sram=10**6, flash=10**6, population=6, generations=8, rate=0.3,
                    beside=False, reward=dict(cost='macs', target=target, how='hard'))(net, part)
  (row,) = [r for r in part.rows if r['kind'] == 'found']
  best = [r['best'] for r in part.rows if r['kind'] == 'generation']
  assert best == sorted(best) and best[-1] == pytest.approx(row['score'])
  assert row['score'] >= np.sort(worth)[-3] - 1e-6  # among the three best


def specialized(trained, **given):
  """Rows of a search among all 20 networks, but those of its generations."""
  net, run = trained
  part = dataclasses.replace(run, rows=[], names=set())
  settings = dict(space=SPACE, population=20, generations=0, beside=False)
  settings |= {} if 'board' in given else dict(sram=10**6, flash=10**6)
  stages.specialize(**settings | given)(net, part)
  return [row for row in part.rows if row['kind'] != 'generation']


def test_energy_is_a_limit_by_a_table_of_ones_own(trained):
  dear = dict(mac=4.6, sram_byte=1.25, weight_byte=160.0)  # float32, weights outside the chip
  everything = s.enumerate_all(s.space(**SPACE))
  energy = costs(s.space(**SPACE), everything, dear)['energy_uj']
  (row,) = specialized(trained, energy=float(np.median(energy)), picojoules=dear)
  at = [' '.join(map(str, genes)) for genes in everything].index(row['genes'])
  assert row['energy_uj'] == pytest.approx(energy[at]) and energy[at] <= np.median(energy)


def test_a_board_s_memory_is_the_limit_less_a_stack_and_code(trained):
  budget = of_board('stm32f746', 1_000)  # of 320 KiB and 1 MiB
  assert (budget.sram, budget.flash) == (320 * 1024 - STACK, 2**20 - 1_000)
  with pytest.raises(UsageError, match='the smallest takes'):
    specialized(trained, board='stm32f746', code=2**20 - 100)


def test_a_predictor_learns_from_the_supernet_s_accuracies(trained):
  """Of 20 networks it sees 12; what is taken has the accuracy that the supernet says."""
  net, run = trained
  told, row = specialized(trained, predicted=16)
  assert (told['kind'], told['networks'], told['held_out']) == ('predictor', 12, 4)
  assert told['held_out_error'] < 0.2
  everything = s.enumerate_all(s.space(**SPACE))
  best = accuracies(net, run, everything, 'validation')[0].max()
  assert row['validation_accuracy'] == pytest.approx(best)  # the last population is scored truly


def test_evolution_and_random_search_are_compared_in_pairs(trained):
  rows = specialized(trained, beside=True, population=2)  # of twenty: each search finds its own
  (row,) = [r for r in rows if r['kind'] == 'versus']
  found = {r['method']: r['genes'] for r in rows if r['kind'] == 'found'}
  assert found['evolution'] != found['random']
  right = {r['method']: r['test_accuracy'][0] for r in rows if r['kind'] == 'found'}
  assert (row['net'], row['base']) == ('evolution', 'random')
  gain = right['evolution'] - right['random']
  assert gain != 0 and row['accuracy_gain'] == pytest.approx(gain, abs=0.01)
  assert row['accuracy_gain_low'] <= row['accuracy_gain'] <= row['accuracy_gain_high']


@pytest.mark.slow
def test_progressive_shrinking_is_one_program_for_all_phases(fresh, monkeypatch):
  """Kernels of 5 to 1 by two learned matrices, channels sorted before they become elastic."""
  traced = []
  sandwich = supernet.sandwich

  def counted(*given):
    loss = sandwich(*given)

    def seen(*args, **kwargs):
      traced.append(1)
      return loss(*args, **kwargs)

    return seen

  monkeypatch.setattr(supernet, 'sandwich', counted)
  net, run = fresh((0, 1))
  phases = ('largest', 'kernel', 'depth', 'expansion')
  space = dict(SPACE, kernels=(1, 3, 5))
  grown = stages.supernet(
    space=space, random=1, phases=phases, transform=True, **dict(TRAIN, steps=40, every=20)
  )(net, run)
  rows = [r for r in run.rows if r['kind'] == 'supernet']
  assert [r['phase'] for r in rows] == list(phases)
  assert len(traced) == 1  # all networks, phases and seeds
  assert sum('transform' in name for name, _ in tree.named(grown.params)) > 0
  assert min(rows[-1]['largest_test_accuracy']) > 0.3


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
  pairs = [(r['alone_accuracy'], np.mean(r['supernet_accuracy'])) for r in rows]
  order = [np.sign(a[0] - b[0]) * np.sign(a[1] - b[1]) for a, b in itertools.combinations(pairs, 2)]
  ties = [np.mean([a[i] != b[i] for a, b in itertools.combinations(pairs, 2)]) for i in (0, 1)]
  assert row['tau'] == pytest.approx(np.mean(order) / np.sqrt(ties[0] * ties[1]), abs=1e-3)


def test_searches_are_compared_by_networks_that_they_train(trained, monkeypatch):
  """Of the networks that fit each method trains two; equal winners are one network."""
  module, judged = importlib.import_module('reduction.stages.finalists'), []
  counted = lambda net, run, genes, split: judged.append(len(genes)) or accuracies(
    net, run, genes, split
  )  # fmt: skip
  monkeypatch.setattr(module, 'accuracies', counted)
  net, run = trained
  space = s.space(**SPACE)
  most = int(costs(space, s.extremes(space)[1])['macs'][0]) - 1
  given = dict(space=SPACE, limits=dict(sram=10**6, flash=10**6, macs=most), networks=2, **TRAIN)
  part = dataclasses.replace(run, rows=[], names=set())
  stage = stages.finalists(population=4, generations=2, parents=0.25, **given)
  assert stage(net, part) is net
  rows = {r['method']: r for r in part.rows if r['kind'] == 'finalist'}
  assert list(rows) == ['evolution', 'scored', 'random']
  assert judged == [4, 3, 3, 10]  # evolution's, by generation; as many by random search
  assert all(row['macs'][0] <= most and row['trained'] == [2] for row in rows.values())
  assert all(row['test_accuracy'][0] > 0.3 for row in rows.values())
  pairs = {(r['net'], r['base']): r for r in part.rows if r['kind'] == 'versus'}
  assert len(pairs) == 3
  for (ours, theirs), row in pairs.items():
    gain = rows[ours]['test_accuracy'][0] - rows[theirs]['test_accuracy'][0]
    assert row['accuracy_gain'] == pytest.approx(gain, abs=1e-4)
    if rows[ours]['genes'] == rows[theirs]['genes']:  # trained once
      assert gain == row['accuracy_gain_low'] == 0
  with pytest.raises(UsageError, match='networks=5 must be from 1 to population=4'):
    stages.finalists(**dict(given, networks=5), population=4)


def test_a_table_of_this_machine_s_times_is_a_limit_too(trained, tmp_path):
  """Times of its ops, here of a clock that ticks once a reading, in place of instructions."""
  net, run = trained
  space, ticks = s.space(**SPACE), itertools.count()
  found = timing.timed(timing.shapes_of(space), batch=2, calls=1, repeats=1,
                       clock=lambda: float(next(ticks)))  # fmt: skip
  path = tmp_path / 'times.jsonl'
  latency.write(path, instructions=found)
  ops = lambda row: ops_of_arch(s.decode(space, row))
  smallest, largest = (int(latency.predict(latency.read(path), ops(row))[0])
                       for row in s.extremes(space))  # fmt: skip
  assert smallest < largest
  part = dataclasses.replace(run, rows=[], names=set())
  limits = dict(sram=10**6, flash=10**6, table=str(path), instructions=smallest)
  stages.specialize(space=SPACE, population=2, generations=0, beside=False, **limits)(net, part)
  (row,) = [r for r in part.rows if r['kind'] == 'found']
  assert row['instructions'] == smallest


@pytest.mark.slow
def test_what_is_found_goes_on_to_be_pruned_taught_trained_in_integers_and_written(trained):
  net, run = trained
  part = dataclasses.replace(run, rows=[], names=set(), nets={})
  limits = dict(space=SPACE, sram=10**6, flash=10**6, population=4, generations=0, beside=False)
  chain(
    found=stages.specialize(**limits),
    filterlet=stages.filterlet(**TRAIN, levels=(0.6,), examples=128),
    lottery=stages.lottery(rounds=1, rates=(('kernel', 0.3),), **TRAIN),
    distill=stages.distill(teachers=('found',), temperature=4.0, hard=0.1, **TRAIN),
    qat=stages.qat_mcu(freeze=30, **TRAIN),
    in_c=stages.microcontroller(images=64, sparse='bytes'),
  )(net, part)
  count = lambda net: sum(int(np.count_nonzero(w)) for w in tree.leaves(net.params))
  found, filterlet, lottery, distilled = (
    count(part.nets[name]) for name in ('found', 'filterlet', 'lottery', 'distill')
  )
  assert found > filterlet > lottery >= distilled
  masks, weights = tree.leaves(part.nets['lottery'].masks), tree.leaves(part.nets['distill'].params)
  assert not any(np.asarray(w)[~np.asarray(m)].any() for w, m in zip(weights, masks, strict=True))
  (row,) = [r for r in part.rows if r['kind'] == 'microcontroller']
  assert row['int8_accuracy'][0] > 0.6 and row['equal_in_c'] in (20, None)
