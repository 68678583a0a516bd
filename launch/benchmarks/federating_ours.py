"""The project's side of the benchmark of rounds; see `launch.benchmarks.federating`."""

import json
import resource
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from launch.benchmarks.federating import LOOP, OURS
from launch.benchmarks.ours import answer
from reduction import data, models, tree
from reduction.distill.matching import apart, capture
from reduction.federate import clients as at_clients
from reduction.federate import codecs, methods, mutual, rounds, server
from reduction.federate.codecs.factors import count, factors, product
from reduction.net import all_kept, create, over_replicas
from reduction.run import Run
from reduction.update import optimizer

LAYERS = 4, 1, 1  # matrices of a BERT layer: width x width, width x inner, inner x width


class Federation:
  """FedAvg of so many clients, each with examples drawn from all digits; FedKD with a teacher."""

  def __init__(self, settings: dict, clients: int):
    digits = data.digits().train
    self.data, rng = jax.device_put(tuple(digits)), np.random.default_rng(0)
    held = rng.integers(0, len(digits.x), (clients, settings['examples']))
    self.owned, self.batch, self.run = list(held), settings['batch'], Run()
    self.most = at_clients.steps(settings['examples'], self.batch, 1)
    module = models.mlp(widths=tuple(settings['widths']))
    net = create(module, self.run.key('init', 0), digits.x[:1])
    self.shared = dict(
      params=net.params, stats=net.stats, masks=all_kept(net.params), step=jnp.zeros(1, jnp.int32)
    )
    self.weights = np.full((1, clients), settings['examples'], np.float32)
    self.own, self.traced = {}, [0]
    if settings['teacher']:
      how = self.taught(settings['teacher'], net, clients, digits.x[:1])
    else:
      how = methods.average(module, optimizer('sgd', learning_rate=0.1))

    def begin(shared, own, key):
      self.traced[0] += 1
      return how.begin(shared, own, key)

    self.method = how._replace(begin=begin)
    self.ids = np.arange(clients, dtype=np.int32)
    codec = codecs.low_rank(start=0.95, end=0.98) if settings['teacher'] else codecs.dense()
    self.wire = server.exchange(codec, server.rules(), server.plain)

  def taught(self, widths, student, clients: int, x):
    """FedKD's method; every client keeps a teacher and the optimizers."""
    module, adam = models.mlp(widths=tuple(widths)), optimizer('adam', learning_rate=1e-3)
    net = create(module, self.run.key('init', 1), x)
    tx = apart(teacher=adam, student=adam, projections=adam)
    opt = over_replicas(tx.init)(dict(teacher=net.params, student=student.params, projections={}))
    own = dict(teacher=dict(params=net.params, stats=net.stats), projections={}, opt=opt)
    self.own = tree.map(lambda w: jnp.repeat(w[:, None], clients, 1), own)
    return mutual.method(module, student.module, tx, mutual.lesson(), capture)

  def batches(self, number: int):
    """(indices, valid) of a round, for one replicate."""
    drawn = at_clients.batches(
      self.run.key('data')[0], number, self.owned, self.ids, batch=self.batch, epochs=1,
      most=self.most,
    )  # fmt: skip
    return tuple(x[None] for x in drawn)

  def together(self, number: int):
    """A round as it is simulated: one program of all clients, one of the exchange."""
    train = over_replicas(at_clients.training(self.method), (0, 0, None, 0, 0, 0, 0))
    indices, valid = self.batches(number)
    keys = self.run.key('dropout', number)
    update, self.own, _ = train(
      self.shared, self.own, self.data, self.ids[None], indices, valid, keys
    )
    self.settle(update, number)

  def loop(self, number: int):
    """The same round by a Python loop over clients."""
    train = over_replicas(at_clients.training(self.method), (0, 0, None, 0, 0, 0, 0))
    indices, valid = self.batches(number)
    keys, found = self.run.key('dropout', number), []
    for i in self.ids:
      one = slice(i, i + 1)
      own = tree.map(lambda w, one=one: w[:, one], self.own)
      found.append(train(
        self.shared, own, self.data, self.ids[None, one], indices[:, one], valid[:, one], keys
      )[:2])  # fmt: skip
    updates, self.own = map(rounds.joined, zip(*found))
    self.settle(updates, number)

  def settle(self, updates, number: int):
    """The exchange; the shared model moves."""
    program = over_replicas(self.wire, (0, 0, 0, 0, 0, 0, None, 0))
    arrives = np.ones_like(self.weights, bool)
    self.shared, _, _, _ = program(
      self.shared, dict(wire={}, step={}), updates, {}, self.weights, arrives, np.float32(0),
      self.run.key('noise', number),
    )  # fmt: skip


def encode(method: str, width: int, inner: int, energy: float, falls: float, most: int) -> dict:
  """seconds, of_dense, rank and lost of the matrices of a layer."""
  rng, shapes = np.random.default_rng(0), ((width, width), (width, inner), (inner, width))
  made = [falling(rng, shape, falls) for shape, n in zip(shapes, LAYERS) for _ in range(n)]
  size = most if method == 'randomized' else 0
  program = jax.jit(lambda g, key: factors(g, energy, method=method, most=size, key=key))
  keys = jax.random.split(jax.random.key(0), len(made))
  for g in made[:: LAYERS[0]] + made[-1:]:
    jax.block_until_ready(program(g, keys[0]))  # compiles
  began = time.perf_counter()
  found = [jax.block_until_ready(program(g, key)) for g, key in zip(made, keys)]
  seconds = time.perf_counter() - began
  sent = sum(int(n) for n in count(dict(enumerate(found))).values())
  lost = max(
    float(jnp.sum((product(parts) - g) ** 2) / jnp.sum(g**2)) for parts, g in zip(found, made)
  )
  of_dense = sent / sum(g.nbytes for g in made)
  return dict(seconds=seconds, of_dense=of_dense, rank=int(found[0]['rank']), lost=lost)


def falling(rng, shape, falls: float) -> jax.Array:
  """A random matrix with singular values k^-falls."""
  ends = [np.linalg.qr(rng.standard_normal((n, min(shape))))[0] for n in shape]
  return jnp.asarray((ends[0] * np.arange(1, min(shape) + 1.0) ** -falls) @ ends[1].T, jnp.float32)


def side(settings: dict):
  """ask(kind, ...) -> seconds and what else `federating` and `encoding` want."""
  made = {}

  def ask(kind: str, **job) -> dict:
    if kind == 'encode':
      return encode(**job)
    key = kind, job['clients']
    for other in [k for k in made if k[1] != job['clients']]:
      del made[other]
    if key not in made:
      made[key] = Federation(settings, job['clients'])
      one_round(made[key], kind, 0)
      made[key].peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    federation = made[key]
    began = time.perf_counter()
    for number in range(job['rounds']):
      one_round(federation, kind, number)
    seconds = time.perf_counter() - began
    return dict(
      seconds=seconds, rounds=job['rounds'], programs=federation.traced[0],
      peak_mib=federation.peak_mib,
    )  # fmt: skip

  return ask


def one_round(federation: Federation, kind: str, number: int):
  """A round until its last bit is there. kind: OURS or LOOP."""
  {OURS: federation.together, LOOP: federation.loop}[kind](number)
  jax.block_until_ready(federation.shared)


def main():
  """The settings are the first line of stdin."""
  answer(side(json.loads(sys.stdin.readline())), about=f'jax {jax.__version__}')


if __name__ == '__main__':
  main()
