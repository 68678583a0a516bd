"""Clients with models of their own: alone, or by FedMD, which share what public data tell them."""

import jax
import jax.numpy as jnp
import numpy as np

from reduction import models, tree
from reduction.config import call
from reduction.errors import require
from reduction.federate import clients, methods, setting
from reduction.federate.codecs.codec import FLOAT
from reduction.net import Net, all_kept, create, over_replicas
from reduction.predict import logits, predictor, scores
from reduction.run import Run, Stage
from reduction.update import optimizer as build_optimizer


def fedmd(
  *, federation: dict, optimizer: dict, public: int = 0, digest: float = 1.0,
  student: dict | None = None,
) -> Stage:  # fmt: skip
  """Trains a model a client: with public = 0 each alone, else FedMD (Li & Wang 2019).

  federation: of `federate.setting.plan`; nothing is encoded, all clients take part. public: so many
  training examples belong to no client and lose their labels. Each round clients say their logits
  of these, learn the mean of all for `digest` epochs, then their own data. student: a model that
  starts afresh; None takes the net that comes. Returns the net of the client with most examples.
  Rows: a 'round' each, and a 'federated' with the mean of all clients' scores and its ends.
  """
  plan, tx = setting.read(federation), build_optimizer(**optimizer)
  require(public == 0 or public >= plan.batch, f'{public=} must be 0 or at least a batch')
  require(digest > 0, f'{digest=} must be above 0')
  require(
    plan.share == 1 and not plan.failing and not plan.disk,
    'fedmd takes all clients each round, in memory: share=1, failing=0, disk=False',
  )
  module = call(models, student, 'student') if student else None

  def stage(net: Net, run: Run) -> Net:
    train = run.data.train
    net = create(module, run.key('init', 0), train.x[:1]) if module else net
    owned, shown = set_apart(plan, public, run)
    largest = max(len(part) for of_seed in owned for part in of_seed)
    most = clients.steps(largest, plan.batch, plan.epochs)
    counts = np.full((len(run.seeds), plan.clients), public)
    everyone = np.tile(np.arange(plan.clients), (len(run.seeds), 1))
    data = jax.device_put(tuple(train))
    masks = all_kept(net.params) if net.masks is None else net.masks
    programs = {flag: over_replicas(
      clients.training(methods.separate(net.module, tx, digest=flag), run.data.augment),
      (0, 0, 0 if flag else None, 0, 0, 0, 0),
    ) for flag in (False, True)}  # fmt: skip
    said = over_replicas(speaker(net.module), 0)

    def learn(flag, own, step, data, parts, epochs, most, number, run):
      drawn = [
        clients.batches(key, number, mine, ids, batch=plan.batch, epochs=epochs, most=most)
        for key, mine, ids in zip(run.key('data', int(flag)), parts, everyone)
      ]
      indices, valid = (np.stack(x) for x in zip(*drawn))
      keys = run.key('dropout', number, int(flag))
      shared = dict(step=step, masks=masks)
      _, own, told = programs[flag](shared, own, data, everyone, indices, valid, keys)
      return own, told['loss'].mean(1)

    def one_round(carry, number, run):
      own, step, told = carry['own'], carry['step'], {}
      if public:
        x = train.x[shown]
        heard = said(own['params'], own['stats'], x).mean(1)
        all_of_it = [[np.arange(public)] * plan.clients] * len(run.seeds)
        steps = clients.steps(public, plan.batch, digest)
        own, told['digest_loss'] = learn(
          True, own, step, (x, heard), all_of_it, digest, steps, number, run
        )
      own, told['loss'] = learn(
        False, own, step, data, owned, plan.epochs, most, number, run
      )
      sent = FLOAT * counts.sum(1) * run.data.classes
      run.log(kind='round', step=number + 1, seeds=run.seeds, up_bytes=sent, down_bytes=sent,
              **told)  # fmt: skip
      return dict(own=own, step=step + most), None

    carry, _ = run.fold('rounds', one_round, begin(net, tx, plan, run), plan.rounds)
    return judged(net, carry['own'], owned, plan, public, run)

  return stage


def set_apart(plan, public: int, run: Run):
  """(for each seed the examples of each client, public examples [R, public])."""
  y, owners, owned, shown = run.data.train.y, run.data.owners, [], []
  require(public < len(y), f'{public=} must be fewer than the {len(y)} training examples')
  for key in run.key('data', 2):
    rng = clients.generator(key)
    mixed = rng.permutation(len(y)) if public else np.arange(len(y))
    shown.append(mixed[:public])
    rest = np.sort(mixed[public:])
    parts = plan.split(y[rest], None if owners is None else owners[rest], rng)
    owned.append([rest[part] for part in parts])
  return owned, np.stack(shown)


def speaker(module):
  """(params, stats [C, ...], x) -> logits [C, n, classes]."""
  return jax.vmap(predictor(module), (0, 0, None))


def begin(net: Net, tx, plan, run: Run) -> dict:
  """The first carry: every client's model and optimizer, all alike."""
  params = tree.keep(net.params, net.masks)
  own = dict(params=params, stats=net.stats, opt=over_replicas(tx.init)(params))
  spread = lambda x: jnp.repeat(jnp.asarray(x)[:, None], plan.clients, 1)
  return dict(own=tree.map(spread, own), step=jnp.zeros(len(run.seeds), jnp.int32))


def judged(net: Net, own, owned, plan, public: int, run: Run) -> Net:
  """The net of the client with most examples, after the row of them all."""
  test, found = run.data.test, []
  for client in range(plan.clients):
    one = of_client(net, own, (slice(None), client))
    found.append(scores(logits(one, test.x), test.y)['test_accuracy'])
  found = np.stack(found, 1)
  sent = np.full(len(run.seeds), FLOAT * public * run.data.classes * plan.rounds)
  run.log(
    kind='federated', summary=True, seeds=run.seeds, rounds=plan.rounds, clients=plan.clients,
    up_bytes=sent, down_bytes=sent, test_accuracy=found.mean(1), worst=found.min(1),
    best=found.max(1),
  )  # fmt: skip
  largest = np.array([np.argmax([len(part) for part in of_seed]) for of_seed in owned])
  return of_client(net, own, (np.arange(len(largest)), largest))


def of_client(net: Net, own, at) -> Net:
  """net with the variables [R, C, ...] of the clients at these places."""
  params, stats = (tree.map(lambda w: w[at], own[part]) for part in ('params', 'stats'))
  return net.replace(params=params, stats=stats)
