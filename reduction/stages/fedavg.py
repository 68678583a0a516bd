"""Federated averaging and its kin: FedAvg, FedProx, SCAFFOLD, FedOpt, over any codec."""

import jax.numpy as jnp
import numpy as np

from reduction import models, tree
from reduction.config import call
from reduction.errors import require
from reduction.federate import methods, rounds, server, setting
from reduction.federate import step as steps
from reduction.federate.clients import taking_part
from reduction.federate.codecs.columns import columns
from reduction.federate.codecs.dense import dense
from reduction.federate.scoring import log_refusals, tested
from reduction.net import Net, all_kept, create, over_replicas
from reduction.run import Run, Stage
from reduction.stages.distill import heir
from reduction.update import optimizer as build_optimizer

METHODS = 'average', 'scaffold'


def fedavg(
  *, federation: dict, optimizer: dict, method: str = 'average', proximal: float = 0.0,
  student: dict | None = None, server_optimizer: dict | None = None, frozen: str = '',
  thin: float = 0.0, layers: str = 'fc|conv|inner', feeds: tuple[tuple[str, str], ...] = (),
  inherits: dict | None = None, learn=rounds.learn,
) -> Stage:  # fmt: skip
  """Clients train the net on their own data; the server averages what changed.

  federation: rounds, batch, partition..., of `federate.setting.plan`. optimizer: of the clients,
  fresh each round. method: 'average', which is FedAvg (McMahan et al. 2017) or with proximal
  FedProx (Li et al. 2020), or 'scaffold' (Karimireddy et al. 2020), which needs plain SGD. student:
  a model that starts afresh; None trains the net that comes, its masks kept. server_optimizer:
  takes the average for a gradient, FedOpt (Reddi et al. 2021). frozen: weights of these names are
  neither trained nor sent. thin: FedDropout (Caldas et al. 2018), the share of units of these
  layers that each client leaves out, drawn anew each round; only what it trains travels. feeds:
  pairs (layer, the one that takes its units), whose rows of units left out stay away too. inherits:
  whose weights a student starts from, as in `distill`; FedAvg of DistilBERT is that. learn: the
  rounds, simulated here or of `federate.network`. Rows: a 'round' each, and a 'federated'.
  """
  plan, tx = setting.read(federation), build_optimizer(**optimizer)
  require(method in METHODS, f'{method=} must be one of {", ".join(METHODS)}')
  plain = set(optimizer) == {'name', 'learning_rate'} and optimizer['name'] == 'sgd'
  require(
    method != 'scaffold' or (plain and not proximal and not thin),
    f'scaffold takes steps of one size along gradients: optimizer={optimizer} must be '
    "dict(name='sgd', learning_rate=...), proximal and thin 0",
  )
  module = call(models, student, 'student') if student else None
  if thin:
    plan = of_parts(plan, thin, layers, feeds)
  ahead = build_optimizer(**server_optimizer) if server_optimizer else None
  heir_of = heir(inherits, module)

  def stage(net: Net, run: Run) -> Net:
    x = run.data.train.x[:1]
    net = heir_of(create(module, run.key('init', 0), x), run) if module else net
    shared = begin(net, run)
    first = {}
    if method == 'scaffold':
      nothing = tree.map(jnp.zeros_like, net.params)
      shared, first = dict(shared, control=nothing), dict(control=nothing)
      part = taking_part(plan.clients, plan.share) / plan.clients
      how = methods.scaffold(
        net.module, tx, rate=optimizer['learning_rate'], part=part, frozen=frozen
      )
    else:
      parts = dict(thin=thin, layers=layers, feeds=feeds)
      how = methods.average(net.module, tx, frozen=frozen, proximal=proximal, **parts)
    cohort = rounds.Cohort(how, np.arange(plan.clients), first)
    step, state = server.plain, {}
    if ahead:
      step, names = steps.by(ahead), tuple(rounds.sent_like(cohort, shared))
      state = over_replicas(steps.begin(ahead, names))(shared)
    carry, _ = learn(plan, [cohort], net.module, shared, run, step=step, state=state)
    net = finished(net, carry)
    report(run, plan, carry, net)
    return net

  return stage


def of_parts(plan: setting.Plan, thin: float, layers: str, feeds=()) -> setting.Plan:
  """plan for clients that train parts of the model."""
  require(
    plan.codec is dense() and plan.rules.combine == 'mean',
    'FedDropout has its own codec and mean: leave codec and rules.combine out beside thin',
  )
  require(
    not plan.rules.noise and not plan.rules.secure,
    'the mean of parts is neither noisy nor a plain sum: leave rules.noise and rules.secure out '
    'beside thin',
  )
  parts = columns(share=thin, layers=layers, feeds=feeds)
  return plan._replace(codec=parts, rules=plan.rules._replace(combine='present'))


def begin(net: Net, run: Run) -> dict:
  """What the server shares at first, [R, ...]."""
  masks = all_kept(net.params) if net.masks is None else net.masks
  step = jnp.zeros(len(run.seeds), jnp.int32)
  params = tree.keep(net.params, net.masks)
  return dict(params=params, stats=net.stats, masks=masks, step=step)


def finished(net: Net, carry) -> Net:
  """net with the weights that the server shares now."""
  return net.replace(params=carry['shared']['params'], stats=carry['shared']['stats'])


def report(run: Run, plan, carry, net: Net, **more):
  """The row of a federation that ended: scores on the test split, bytes a client, refusals.

  of_dense: the share of the bytes that whole tensors would have taken, both ways. Of each client
  whose updates were refused a 'refusals', with how many.
  """
  log_refusals(run, carry['refused'])
  run.log(
    kind='federated', summary=True, seeds=run.seeds, rounds=plan.rounds, clients=plan.clients,
    up_bytes=carry['up'].mean(1), down_bytes=carry['down'].mean(1),
    of_dense=(carry['up'] + carry['down']).sum(1) / np.maximum(carry['dense'].sum(1), 1),
    refused=carry['refused'].sum(1), epsilon=plan.epsilon,
    **tested(net, run), **more,
  )  # fmt: skip
