"""`launch.bench`: its arithmetic, by hand, and that it runs. No assertion is about time."""

import contextlib
import importlib
import json
import stat
import sys

import numpy as np
import pytest

from launch import bench
from launch.benchmarks import pace, sides
from launch.benchmarks.sides import Session, Side, Spread
from reduction.errors import MissingInput, UsageError
from reduction.kernels import native

training = importlib.import_module('launch.benchmarks.training')  # the package has its function

# a peer that answers every job with the same time, and one that lacks its library
FAKE = """import json, sys
sys.stdin.readline()
print(json.dumps(dict(about='fake 1.0')), flush=True)
for line in sys.stdin:
  losses = [0.5 for _ in json.loads(line)['seeds']]
  print(json.dumps(dict(seconds=0.5, validation_loss=losses)), flush=True)
"""
LACKING = """import json; print(json.dumps(dict(missing='torch')))"""


@pytest.fixture
def python(tmp_path):
  """python(program) -> a 'Python' that runs this program whatever it is asked to run."""

  def make(program):
    path = tmp_path / 'python'
    path.write_text(f'#!{sys.executable}\n{program}')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)

  return make


def settings(**changes):
  """Settings of `training` that are right."""
  return dict(
    data=dict(name='random', train=30, validation=10), model=dict(name='mlp', widths=(4,)),
    optimizer=dict(name='adam', learning_rate=1e-3), batch=6, every=1, steps=2, repeats=1,
    replicas=(1,), kept=0.5, peers=(),
  ) | changes  # fmt: skip


def replied(*seconds, losses=(0.1,)):
  """Replies of one side to one job."""
  return [dict(seconds=s, validation_loss=list(losses)) for s in seconds]


JOBS = [(2, True), (2, False)]
REPLIES = {  # the first of each is the warm-up
  ('reduction', 0): replied(9.0, 1.0, 2.0, 1.5, losses=(0.1, 0.3)),
  ('reduction', 1): replied(7.0, 0.8, 1.5, 0.9, losses=(None, None)),
  ('torch', 0): replied(5.0, 3.0, 3.0, 4.5, losses=(0.2, 0.2)),
  ('torch', 1): replied(5.0, 2.4, 3.0, 3.6, losses=(None, None)),
}


def test_work_counts_the_products_of_a_step_by_hand():
  # products 3 x 4 + 4 x 2 = 20; forward and weights 2 x 20, inputs of the second layer 8
  assert pace.work((3, 4, 2), batch=5, every=10, examples=20) == {False: 480, True: 480 + 80}
  lenet = pace.work((784, 300, 100, 10), batch=60, every=100, examples=5_000)
  assert lenet == {False: 67_608_000, True: 67_608_000 + 26_620_000}


def test_ratios_are_of_pairs_not_of_medians():
  rows = pace.compare(REPLIES, JOBS, 100, {True: 3e9, False: 2e9}, limit=1_000)
  evaluated, plain = rows
  assert (evaluated['ratio'], evaluated['ratio_low'], evaluated['ratio_high']) == (3, 1.5, 3)
  assert evaluated['steps_per_s'] == pytest.approx(200 / 1.5, rel=1e-4)
  assert (evaluated['steps_per_s_low'], evaluated['steps_per_s_high']) == (100, 200)
  assert evaluated['peer_steps_per_s'] == pytest.approx(200 / 3, rel=1e-4)
  assert (plain['ratio_low'], plain['ratio'], plain['ratio_high']) == (2, 3, 4)


def test_shares_and_the_fraction_of_the_limit_by_hand():
  evaluated, plain = pace.compare(REPLIES, JOBS, 100, {True: 3e9, False: 2e9}, limit=1_000)
  shares = [evaluated[f'evaluation_share{end}'] for end in ('_low', '', '_high')]
  assert shares == pytest.approx([0.2, 0.25, 0.4])
  assert evaluated['peer_evaluation_share'] == pytest.approx(0.2)
  assert 'evaluation_share' not in plain
  # 200 steps of 3 GFLOP in 1.5 s, and of 2 GFLOP in 0.9 s
  assert (evaluated['gflops'], evaluated['of_limit']) == (400, 0.4)
  assert plain['of_limit'] == pytest.approx(0.4444, abs=1e-4)


def test_what_a_side_costs_by_hand():
  row = pace.side(REPLIES, JOBS, 'reduction', 'jax 1', 100.4)
  assert (row['compile_s'], row['peak_mib'], row['validation_loss']) == (7.5, 100, 0.2)


def test_without_a_peer_our_own_pace_is_left():
  alone = {key: value for key, value in REPLIES.items() if key[0] == 'reduction'}
  rows = pace.compare(alone, JOBS, 100, {True: 3e9, False: 2e9}, limit=1_000)
  assert [row['peer'] for row in rows] == [None, None] and 'ratio' not in rows[0]
  (shown,) = pace.tables([dict(row, data='x') for row in rows])
  assert [cells[:2] for cells in shown.rows] == [('2', 'yes'), ('2', 'no')]
  assert shown.rows[1][3] == '\N{EN DASH}'  # the share in evaluation of a run without


def test_spread_is_median_and_range():
  assert sides.spread([3, 1, 2.0000001]) == Spread(2, 1, 3)
  assert Spread(2, 1, 3).fields('x') == dict(x=2, x_low=1, x_high=3)


def test_sides_take_turns_and_the_order_turns_too():
  seen = []
  asks = {name: lambda name=name, **job: seen.append(name + job['j']) or {} for name in 'ab'}
  replies = sides.interleaved(asks, [dict(j='0'), dict(j='1')], 2, lambda line: None)
  assert seen == ['a0', 'b0', 'a1', 'b1', 'b0', 'a0', 'b1', 'a1', 'a0', 'b0', 'a1', 'b1']
  assert {len(got) for got in replies.values()} == {3}


def test_seeds_are_dealt_to_processes_and_come_back_in_order():
  asked = []

  def ask(seeds, steps):
    asked.append((seeds, steps))
    return dict(seconds=float(len(seeds)), validation_loss=[s / 10 for s in seeds])

  crew = sides.together([Side(ask, {}, lambda: 7.0)] * 2)
  reply = crew.ask(seeds=[0, 1, 2], steps=5)
  assert sorted(asked) == [([0, 2], 5), ([1], 5)] and crew.peak_mib() == 14
  assert reply == dict(seconds=2.0, validation_loss=[0.0, 0.1, 0.2])


@pytest.mark.parametrize(
  'changes, says',
  [
    (dict(steps=3, every=2), 'must divide steps=3'),
    (dict(peers=('tensorflow',)), "peer='tensorflow' is not one of torch"),
    (dict(kept=0.0), r'must lie in \(0, 1\]'),
    (dict(replicas=(0,)), 'must be above 0'),
    (dict(optimizer=dict(name='sgd')), 'the peers run Adam'),
  ],
)
def test_wrong_settings_are_refused(changes, says):
  with pytest.raises(UsageError, match=says):
    training.training(**settings(**changes))


def test_a_config_names_its_benchmarks():
  with pytest.raises(UsageError, match=r'config\.speed is no part of a benchmark'):
    bench.build(dict(benches=(), speed={}))
  with pytest.raises(UsageError, match=r'there is no config\.imports'):
    bench.build(dict(benches=('imports',)))
  with pytest.raises(UsageError, match=r"Did you mean 'imports'"):
    bench.build(dict(benches=('import',), **{'import': {}}))


def test_missing_data_become_random_values_and_a_line(monkeypatch):
  def missing(*, data_dir):
    raise MissingInput(f'no files in {data_dir}')

  monkeypatch.setattr(training.sources, 'mnist', missing)
  monkeypatch.setattr(training, 'EXAMPLES', dict(train=30, validation=10, shape=(28, 28, 1)))
  lines = []
  arrays, name = training.load(dict(name='mnist'), Session('there', say=lines.append))
  assert name == 'random values' and arrays['x'].shape == (30, 28, 28, 1)
  assert arrays['validation_y'].shape == (10,) and arrays['x'].dtype == np.float32
  assert lines == ['no files in there; timing random values instead']


def test_a_peer_that_is_not_installed_is_a_line(python):
  lines = []
  session = Session(peer_python=python(LACKING), say=lines.append)
  with contextlib.ExitStack() as stack:
    assert training.beside('torch', {}, session, stack) == {}
  assert 'torch is not installed; pip install -e .[bench]' in lines[0]


def test_a_side_that_dies_is_named(python):
  with (
    pytest.raises(MissingInput, match='torch ended with code 3'),
    sides.process('torch', [python('import sys; sys.exit(3)')], {}),
  ):
    pass


def test_the_whole_of_it(launch, python, tmp_path):
  """On scikit-learn's digits, beside a peer that always says half a second."""
  result = launch(
    '--config=configs/bench/lenet.py:quick', '--config.training.data.name=digits',
    '--config.training.data.validation=100', '--config.training.model.widths=(8,)',
    '--config.training.steps=2', '--config.training.every=1', '--config.training.repeats=1',
    '--config.training.replicas=(2,)', "--config.imports.modules=('json',)",
    '--config.imports.repeats=1', f'--peer_python={python(FAKE)}', f'--out={tmp_path}/rows.jsonl',
    module='launch.bench', env=dict(JAX_ENABLE_COMPILATION_CACHE='true'),
  )  # fmt: skip
  assert result.code == 0, result.err
  head, *rows = [json.loads(line) for line in (tmp_path / 'rows.jsonl').read_text().splitlines()]
  assert head['kind'] == 'run' and head['config'] == 'configs/bench/lenet.py:quick'
  assert head['versions']['torch'] == 'fake 1.0' and 'jax' in head['versions']['reduction']
  assert head['hardware'].endswith(native.instructions())
  assert [row['kind'] for row in rows] == ['training', 'training', 'side', 'side', 'import']
  ours, without, us, them, _ = rows
  assert ours['evaluated'] and not without['evaluated'] and ours['peer'] == 'torch'
  assert ours['peer_steps_per_s'] == 8 and ours['data'] == 'digits'  # 2 seeds, 2 steps, 0.5 s
  assert ours['ratio'] == pytest.approx(ours['steps_per_s'] / 8, rel=1e-3)
  assert us['validation_loss'] > 0 and them['about'] == 'fake 1.0'
  for part in ('reduction', 'ratio', 'torch', 'peak MiB', 'limit', 'import'):
    assert part in result.out, result.out
