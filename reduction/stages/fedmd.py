"""Clients with models of their own: alone, or by FedMD, which share what public data tell them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from reduction import models, tree
from reduction.config import call
from reduction.errors import require
from reduction.federate import clients, methods, setting
from reduction.federate.agreement import agreed, like, set_apart, speaker
from reduction.federate.codecs.codec import FLOAT
from reduction.federate.codecs.dense import dense
from reduction.federate.scoring import log_refusals, tested, together
from reduction.federate.server import rules
from reduction.net import Net, all_kept, create, over_replicas
from reduction.run import Run, Stage
from reduction.stages.distill import heir
from reduction.update import optimizer as build_optimizer


class Course(NamedTuple):
  """The settings of `fedmd`, checked, and what a run makes of them. masks: [R, ...]."""

  plan: setting.Plan
  module: Any
  tx: Any
  public: int
  digest: float
  masks: Any


def fedmd(
  *, federation: dict, optimizer: dict, public: int = 0, digest: float = 1.0,
  student: dict | None = None, inherits: dict | None = None, frozen: str = '',
) -> Stage:  # fmt: skip
  """Trains a model a client: with public = 0 each alone, else FedMD (Li & Wang 2019, 1910.03581).

  federation: of `federate.setting.plan`; nothing is encoded, all clients take part, and of rules
  there is `least`. public: so many training examples belong to no client and lose their labels.
  Each round clients say their logits of these, learn the mean of all for `digest` epochs, then
  their own data. Logits that are not finite have no part in the mean and are counted as refused;
  with fewer than `least` others nothing is digested. student: a model that
  starts afresh, or from what inherits names, as in `distill`; None takes the net that comes.
  frozen: weights of these names are not trained. Returns the net of the client with most examples.
  Rows: a 'round' each, a 'federated' with the mean of all clients' scores and its ends, and a
  'refusals' for each client that was refused.
  """
  plan, tx = setting.read(federation), build_optimizer(**optimizer)
  require(public == 0 or public >= plan.batch, f'{public=} must be 0 or at least a batch')
  require(digest > 0, f'{digest=} must be above 0')
  require(
    plan.share == 1 and not plan.failing and not plan.disk,
    'fedmd takes all clients each round, in memory: share=1, failing=0, disk=False',
  )
  logits = plan.codec is dense() and plan.rules == rules(least=plan.rules.least)
  require(logits, 'clients of fedmd say logits: leave codec and all of rules but least out')
  module = call(models, student, 'student') if student else None
  heir_of = heir(inherits, module)

  def stage(net: Net, run: Run) -> Net:
    train = run.data.train
    net = heir_of(create(module, run.key('init', 0), train.x[:1]), run) if module else net
    masks = methods.trainable(all_kept(net.params) if net.masks is None else net.masks, frozen)
    course = Course(plan, net.module, tx, public, digest, masks)
    owned, shown = set_apart(plan, public, run)
    data, said = jax.device_put(tuple(train)), over_replicas(speaker(net.module))

    def one_round(carry, number, run):
      own, step, fine, told = carry['own'], carry['step'], True, {}
      if public:
        own, fine, told = digested(course, own, step, train.x[shown], said, number, run)
      own, told['loss'] = learn(course, False, own, step, data, owned, number, run)
      sent = np.full(len(run.seeds), FLOAT * public * run.data.classes * plan.clients)
      told |= dict(up_bytes=sent, down_bytes=sent)
      run.log(kind='round', step=number + 1, seeds=run.seeds, **told)
      step = step + clients.most_steps(owned, plan.batch, plan.epochs)
      return dict(own=own, step=step, refused=carry['refused'] + np.logical_not(fine)), None

    carry, _ = run.fold('rounds', one_round, begin(net, tx, plan, run), plan.rounds)
    log_refusals(run, carry['refused'])
    return judged(net, carry, owned, plan, public, run)

  return stage


def digested(course: Course, own, step, x, said, number: int, run: Run):
  """(own, whose logits were fine [R, C], a part of the row) after all heard what all say of x."""
  plan = course.plan
  heard, fine = agreed(said(own['params'], own['stats'], x))
  whole = [[np.arange(course.public)] * plan.clients] * len(run.seeds)
  new, loss = learn(course, True, own, step, (x, heard), whole, number, run)
  void = fine.sum(1) < plan.rules.least
  own = tree.map(lambda a, b: jnp.where(like(void, a), a, b), own, new)
  told = dict(digest_loss=loss, void=void.astype(int), refused=(~fine).sum(1))
  return own, fine, told


def learn(course: Course, digests: bool, own, step, data, parts, number: int, run: Run):
  """(own [R, C, ...], losses [R]) after all clients trained: on others' logits, or their labels."""
  plan, epochs = course.plan, course.digest if digests else course.plan.epochs
  program = over_replicas(
    clients.training(
      methods.separate(course.module, course.tx, digest=digests), run.data.augment
    ), (0, 0, 0 if digests else None, 0, 0, 0, 0),
  )  # fmt: skip
  ids, most = np.arange(plan.clients), clients.most_steps(parts, plan.batch, epochs)
  drawn = [
    clients.batches(key, number, mine, ids, batch=plan.batch, epochs=epochs, most=most)
    for key, mine in zip(run.key('data', int(digests)), parts)
  ]
  indices, valid = (np.stack(x) for x in zip(*drawn))
  shared, everyone = dict(step=step, masks=course.masks), np.tile(ids, (len(run.seeds), 1))
  keys = run.key('dropout', number, int(digests))
  _, own, told = program(shared, own, data, everyone, indices, valid, keys)
  return own, told['loss'].mean(1)


def begin(net: Net, tx, plan, run: Run) -> dict:
  """The first carry: every client's model and optimizer, all alike; refused [R, C], so often."""
  params = tree.keep(net.params, net.masks)
  own = dict(params=params, stats=net.stats, opt=over_replicas(tx.init)(params))
  spread = lambda x: jnp.repeat(jnp.asarray(x)[:, None], plan.clients, 1)
  return dict(own=tree.map(spread, own), step=jnp.zeros(len(run.seeds), jnp.int32),
              refused=np.zeros((len(run.seeds), plan.clients), np.int64))  # fmt: skip


def judged(net: Net, carry, owned, plan, public: int, run: Run) -> Net:
  """The net of the client with most examples, after the row of them all."""
  own = carry['own']
  ends = together([
    tested(of_client(net, own, (slice(None), client)), run) for client in range(plan.clients)
  ])
  names = {name: name if name in ('worst', 'best') else f'test_{name}' for name in ends}
  sent = np.full(len(run.seeds), FLOAT * public * run.data.classes * plan.rounds)
  run.log(
    kind='federated', summary=True, seeds=run.seeds, rounds=plan.rounds, clients=plan.clients,
    up_bytes=sent, down_bytes=sent, refused=carry['refused'].sum(1),
    **{names[key]: values for key, values in ends.items()},
  )  # fmt: skip
  largest = np.array([np.argmax([len(part) for part in of_seed]) for of_seed in owned])
  return of_client(net, own, (np.arange(len(largest)), largest))


def of_client(net: Net, own, at) -> Net:
  """net with the variables [R, C, ...] of the clients at these places."""
  params, stats = (tree.map(lambda w: w[at], own[part]) for part in ('params', 'stats'))
  return net.replace(params=params, stats=stats)
