"""Bytes: the paper's cost columns to the printed digit, and what clients receive."""

import math
import pathlib

import jax
import numpy as np
import pytest

from reduction import models, stages, tree
from reduction.errors import UsageError
from reduction.federate import accounting, privacy
from reduction.net import create
from reduction.run import Run
from tests.networks import done, fedavg, networked, rows

# Wu et al. 2022, tables 2 (MIND) and 3 (SMM4H): GB a client; UniLM, DistilBERT, and students
PAPER = [
  ('mind', 12, '2.05'), ('mind', 6, '1.03'), ('mind', 4, '0.69'), ('mind', 2, '0.35'),
  ('smm4h', 12, '1.37'), ('smm4h', 6, '0.69'), ('smm4h', 4, '0.46'), ('smm4h', 2, '0.24'),
]  # fmt: skip


@pytest.mark.parametrize('task, layers, printed', PAPER)
def test_the_cost_columns_of_tables_2_and_3(task, layers, printed):
  assert f'{accounting.gigabytes(task, layers):.2f}' == printed


def test_a_layer_is_that_of_bert_base():
  attention = 4 * (768 * 768 + 768)
  assert attention + 768 * 3072 + 3072 + 3072 * 768 + 768 + 2 * 2 * 768 == accounting.LAYER
  sizes = {}
  for layers in 1, 2:
    net = models.bert(layers=layers, width=768, heads=12, inner=3072, vocabulary=9, positions=9)
    params = jax.eval_shape(net.init, jax.random.key(0), np.ones((1, 4), np.int32))['params']
    sizes[layers] = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert sizes[2] - sizes[1] == accounting.LAYER


def test_who_missed_a_round_gets_the_dense_student():
  seen = np.array([[0, 3, 2, 3]])  # never, in round 2, in round 1, in round 2
  got = accounting.received(seen, 3, np.array([10]), 1000)
  assert got.tolist() == [[1000, 10, 1000, 10]]
  assert accounting.received(np.zeros((1, 2), int), 0, np.array([0]), 1000).tolist() == [[1000] * 2]


def test_epsilon_of_one_round_is_near_the_exact_one():
  pytest.importorskip('dp_accounting')
  noise, delta = 4.0, 1e-5
  found = privacy.epsilon(noise=noise, clients=10, taking_part=10, rounds=1, delta=delta)
  deviation = noise / 2  # replacing one client moves the sum by twice the length
  phi = lambda x: 0.5 * math.erfc(-x / math.sqrt(2))
  exact = lambda e: phi(0.5 / deviation - e * deviation) - math.exp(e) * phi(
    -0.5 / deviation - e * deviation
  )  # Balle and Wang 2018, theorem 8
  assert exact(found) < delta < exact(0.8 * found)


def test_sampling_clients_and_more_noise_are_more_private():
  pytest.importorskip('dp_accounting')
  one = lambda **more: privacy.epsilon(**dict(
    dict(noise=4.0, clients=1000, taking_part=50, rounds=20, delta=1e-5), **more
  ))  # fmt: skip
  assert one(noise=8.0) < one() < one(rounds=40) < one(taking_part=1000, rounds=40)
  with pytest.raises(UsageError, match='taking_part=0'):
    one(taking_part=0)


def test_a_private_federation_says_its_epsilon_and_learns_less(digits):
  pytest.importorskip('dp_accounting')

  def ended(noise):
    rules = dict(weights='uniform', clip=1.0, noise=noise)
    federation = dict(rounds=3, batch=30, partition=dict(name='iid', clients=4), rules=rules)
    run = Run(digits)
    net = create(models.mlp(widths=(8,)), run.key('init', 0), digits.train.x[:1])
    stages.fedavg(federation=federation, optimizer=dict(name='adam', learning_rate=5e-3))(net, run)
    return next(row for row in run.rows if row['kind'] == 'federated')

  quiet, loud = ended(0.0), ended(8.0)
  assert quiet['epsilon'] is None
  wanted = privacy.epsilon(noise=8.0, clients=4, taking_part=4, rounds=3, delta=1e-5)
  assert loud['epsilon'] == pytest.approx(wanted)
  assert loud['test_accuracy'][0] < quiet['test_accuracy'][0]


def test_the_page_has_the_costs_that_are_computed():
  page = (pathlib.Path(__file__).parents[2] / 'configs/fedkd/README.md').read_text()
  for name, task in ('MIND', 'mind'), ('SMM4H', 'smm4h'):
    cells = ' | '.join(f'{accounting.gigabytes(task, layers):.2f}' for layers in (12, 6, 4, 2))
    assert f'| {name} | {cells} |' in page


def test_noise_over_a_network_is_nothing_that_clients_can_draw_again(digits, same):
  pytest.importorskip('dp_accounting')
  private = dict(rules=dict(noise=0.1, clip=1.0, weights='uniform'), rounds=1)
  drawn = [networked(fedavg, digits, **private)[0] for _ in range(2)]
  alone, run = done(fedavg(**private), digits)
  assert not same(*drawn) and not any(same(net, alone) for net in drawn)
  for net in drawn:
    pairs = zip(tree.leaves(net.params), tree.leaves(alone.params), strict=True)
    gaps = np.concatenate([np.ravel(a - b) for a, b in pairs])
    assert gaps.std() == pytest.approx(2**0.5 * 0.1 / 3, rel=0.1)  # of two draws, for three clients
  assert rows(run, 'federated')[0]['epsilon'] > 0
