"""Whether a supernet orders networks as training each by itself does (Yu et al., ICLR 2020)."""

import jax
import jax.numpy as jnp
import numpy as np

from reduction.errors import require
from reduction.models.mobile import Elastic
from reduction.net import Net, create, over_replicas
from reduction.run import Run, Stage
from reduction.search import space as spaces
from reduction.search import supernet as s
from reduction.search.cost import cost, ops_of
from reduction.search.rank import tau_interval
from reduction.search.space import space as find_space
from reduction.stages.supernet import SEEN, accuracies, check_data
from reduction.train import check_schedule, train
from reduction.update import classified, sgd, start
from reduction.update import optimizer as build_optimizer


def rank(
  *, space: dict, networks: int, steps: int, batch: int, optimizer: dict, every: int = 100,
  sample_seed: int = 0, split: str = 'test',
) -> Stage:  # fmt: skip
  """Trains random networks of a space by themselves and compares their order with the supernet's.

  space: that of `supernet`; networks: how many are drawn, each once, the two extremes among them.
  Each is trained once, from a first state of its own, by one program, within a supernet's arrays
  (so that its first weights are spread as the largest network's). Returns the net as it was. Rows:
  a 'network' each, an 'agreement': Kendall's tau with its interval, a bootstrap over networks, of
  the mean over seeds' supernets, and of each.
  """
  check_schedule(steps=steps, batch=batch, every=every)
  whole = find_space(**space)
  require(2 < networks <= whole.count(), f'{networks=} must be from 3 to {whole.count():,}')
  tx = build_optimizer(**optimizer)

  def stage(net: Net, run: Run) -> Net:
    require(isinstance(net.module, Elastic), 'the net that came is no supernet: train one before')
    check_data(whole, run.data)
    genes = chosen(whole, networks, sample_seed)
    by_supernet = accuracies(net, run, genes, split)
    alone = trained(net.module, genes, run, tx, steps=steps, batch=batch, every=every)
    by_itself = judged(alone, genes, run, split)
    found = cost(ops_of(whole, genes))
    for i, row in enumerate(genes):
      run.log(
        kind='network', summary=True, seeds=run.seeds, network=i, genes=' '.join(map(str, row)),
        supernet_accuracy=by_supernet[:, i], alone_accuracy=by_itself[i],
        **{key: found[key][i] for key in ('macs', 'sram', 'flash', 'energy_uj')},
      )  # fmt: skip
    middle, low, high = tau_interval(by_supernet.mean(0), by_itself)
    run.log(
      kind='agreement', summary=True, seeds=run.seeds, networks=networks, tau=middle, tau_low=low,
      tau_high=high, tau_of_each=[tau_interval(one, by_itself, draws=2)[0] for one in by_supernet],
      tau_of_macs=tau_interval(found['macs'], by_itself, draws=2)[0],
      alone_least=by_itself.min(), alone_most=by_itself.max(),
    )  # fmt: skip
    return net

  return stage


def chosen(space, count: int, seed: int) -> np.ndarray:
  """Genes [count, genes] of different networks, the smallest and the largest first."""
  random, kept = np.random.default_rng(seed), {}
  for row in spaces.extremes(space):
    kept[row.tobytes()] = row
  while len(kept) < count:
    row = spaces.sample(space, random, 1)[0]
    kept.setdefault(row.tobytes(), row)
  return np.stack(list(kept.values()))


def trained(module: Elastic, genes, run: Run, tx, **schedule) -> Net:
  """Networks [n, genes], each trained by itself within a supernet's arrays, all by one program."""
  part = run.child('alone')
  part.seeds = tuple(range(len(genes)))  # each network is a replicate
  net = create(module, part.key('init', 0), run.data.train.x[:1])
  given = {}, dict(genes=jnp.asarray(genes, jnp.int32))
  state, _ = train(
    sgd(s.alone(module), tx), classified(module), start(net.params, net.stats, None, tx),
    jax.device_put(run.data.splits())['train'], {}, part, given=given, augment=run.data.augment,
    **schedule,
  )  # fmt: skip
  return net.replace(params=state['params'], stats=state['stats'])


def judged(net: Net, genes, run: Run, split: str) -> np.ndarray:
  """float32 [n]: accuracy of each of `trained`, statistics recalibrated."""
  seen = jnp.asarray(s.batches(run.data.train.x, *SEEN))
  judge = over_replicas(s.judge(net.module), (0, 0, 0, None, None))
  part = jax.device_put(getattr(run.data, split))
  found = judge(net.params, net.stats, jnp.asarray(genes, jnp.int32), seen, part)
  return np.asarray(found['accuracy'], np.float32)
