"""Training of a net in few bits (Jacob et al. 2018), with learned steps too (Esser et al. 2020).

A language model learns what it said itself before it was rounded (Liu et al., LLM-QAT, 2024).
"""

import jax
import jax.numpy as jnp

from reduction import tree
from reduction.data import Passages
from reduction.data.images import augmentation
from reduction.distill.student import distilled
from reduction.distill.teachers import live
from reduction.errors import did_you_mean, require
from reduction.models.served import Served
from reduction.net import Net
from reduction.predict import logits, scores
from reduction.qtensor import Scheme, is_packed, unpack
from reduction.quantize.inputs import find
from reduction.quantize.method import Method
from reduction.quantize.qat import Plan, finished, prepared
from reduction.run import Run, Stage
from reduction.train import check_schedule, fit
from reduction.update import optimizer as build_optimizer

TARGETS = 'labels', 'own'


def qat(
  *, bits: int, steps: int, batch: int, optimizer: dict, group: int | str = 128,
  symmetric: bool = False, learned: bool = False, every: int = 100, best: bool = False,
  augment: str | None = None, skip: tuple[str, ...] = ('^out$',), stored: str = 'float16',
  targets: str = 'labels',
) -> Stage:  # fmt: skip
  """Trains on for `steps` with rounded kernels of `nn.Dense`, then packs them.

  bits, group, symmetric: of `qtensor.Scheme`. learned: trains the steps of the groups too (LSQ);
  needs symmetric. steps, batch, optimizer, every, best, augment: as for `tune`. skip, stored: of
  `quantize.method.Method`. targets: 'labels', of texts the next token, or 'own', the predictions of
  the net that comes. What masks prune stays 0, in the codes; the net that comes out has no masks.
  Rows: 'curve', of the rounded net, a 'quantized' for each linear, with the share of its codes that
  training `changed`, and one 'qat'.
  """
  check_schedule(steps=steps, batch=batch, every=every)
  tx, change = build_optimizer(**optimizer), augmentation(augment)
  method = Method(Scheme(bits, group, symmetric), skip=skip, stored=stored)
  method.check()
  require(symmetric or not learned, f'{learned=} steps have no zero points: {symmetric=}')
  require(targets in TARGETS, f'{targets=} is unknown.{did_you_mean(targets, TARGETS)}')

  def stage(net: Net, run: Run) -> Net:
    require(not isinstance(net.module, Served), 'the net is quantized already')
    net = net.replace(params=tree.map(jnp.asarray, net.params))  # those of a file are read
    first = tree.map(lambda w: w[0], net.params)
    found = {n: i.rows for i in find(net.module, first, run.data.train.x[:1]) for n in i.linears}
    kernels = tuple(filter(method.takes, found))
    require(kernels, f'{type(net.module).__name__} has no linear to quantize, or all match {skip=}')
    start = prepared(net, Plan(method.scheme, kernels, learned, stored))
    splits = jax.device_put(run.data.splits())
    taught = _taught(start.module, net, len(run.seeds)) if targets == 'own' else {}
    last, early = fit(start, run, splits, tx, steps=steps, batch=batch, every=every, augment=change,
                      **taught)  # fmt: skip
    small = finished(last.replace(params=early.params, stats=early.stats) if best else last)
    changed = _changed(finished(start), small)
    for linear in kernels:
      run.log(
        kind='quantized', summary=True, seeds=run.seeds, linear=linear, rows=found[linear],
        changed=changed[linear],
      )  # fmt: skip
    texts = isinstance(run.data, Passages)  # whose logits are many, and the perplexity is measured
    found = {} if texts else scores(logits(small, splits['test'].x), splits['test'].y)
    run.log(
      kind='qat', summary=True, seeds=run.seeds, steps=steps,
      early_stop_step=early.step, validation_loss=early.loss, **found,
    )  # fmt: skip
    return small

  return stage


def _taught(module, net: Net, replicas: int) -> dict:
  """What `fit` needs for module to learn the predictions of net."""
  numbers = dict(temperature=1.0, soft=1.0, hard=0.0, label_mix=0.0)
  same = {name: jnp.full(replicas, value) for name, value in numbers.items()}
  same['live'] = live([net], replicas, 'own')
  return dict(loss=distilled(module, teachers=(net.module,)), given=({}, same))


@jax.jit
def _changed(before: Net, after: Net) -> dict:
  """The share [R] of codes that differ, by linear."""
  pairs = zip(tree.named(before.params, is_packed), tree.named(after.params, is_packed))
  codes = lambda q: unpack(q.data, q.scheme.bits, q.rows)
  return {
    name.removesuffix('/kernel'): jnp.mean(codes(old) != codes(new), (1, 2))
    for (name, old), (_, new) in pairs
    if is_packed(new)
  }
