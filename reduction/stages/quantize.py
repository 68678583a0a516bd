"""Quantization of a trained net's linears: to the nearest, by GPTQ, by AWQ, and composed.

Scales and clipping are Lin et al. 2024 (AWQ), rounding row by row Frantar et al. 2023 (GPTQ).
"""

import jax
import jax.numpy as jnp
import numpy as np

from reduction import tree
from reduction.errors import require
from reduction.models.served import Served
from reduction.net import Net
from reduction.qtensor import QTensor, Scheme
from reduction.quantize import awq
from reduction.quantize.calibrate import calibrate
from reduction.quantize.inputs import find
from reduction.quantize.method import Method, packed, scales
from reduction.run import Run, Stage


def quantize(
  *,
  bits: int,
  group: int | str = 128,
  symmetric: bool = False,
  scaling: str = 'none',
  clip: bool = False,
  rounding: str = 'nearest',
  damp: float = 0.01,
  skip: tuple[str, ...] = ('^out$',),
  stored: str = 'float16',
  examples: int = 512,
  batch: int = 64,
  held: float = 0.25,
) -> Stage:
  """Packs the kernels of all `nn.Dense` of a net, whatever module holds them.

  bits, group, symmetric: of `qtensor.Scheme`. scaling: 'awq', 'duo' or 'none'; clip, rounding,
  damp, skip, stored: of `quantize.method.Method`. examples: training examples, the same for every
  seed, whose inputs are looked at in batches of `batch`. held: the share of these batches on which
  scales must beat plain rounding. What masks prune stays 0, in the codes; the net that comes out
  has no masks. Rows: a 'quantized' for each linear, with its relative output `error` on the
  examples and the `exponent` of its scales.
  """
  method = Method(
    Scheme(bits, group, symmetric), scaling, clip, rounding, damp, skip, stored=stored
  )
  method.check()
  require(0 < batch <= examples, f'{batch=} must lie between 1 and {examples=}')
  require(0 <= held < 1, f'{held=} must lie in [0, 1)')

  def stage(net: Net, run: Run) -> Net:
    require(not isinstance(net.module, Served), 'the net is quantized already')
    count = min(examples, len(run.data.train.x)) // batch
    require(count > 0, f'{batch=} is more than the {len(run.data.train.x)} training examples')
    order = jax.random.permutation(run.key('data')[0], len(run.data.train.x))
    chosen = run.data.train.x[np.sort(np.asarray(order)[: count * batch])]
    batches = np.split(chosen, count)
    later = batches[len(batches) - int(held * count) :]
    params = tree.keep(net.params, net.masks)
    first = tree.map(lambda w: w[0], params)
    inputs = [i for i in find(net.module, first, chosen[:1]) if any(map(method.takes, i.linears))]
    require(inputs, f'{type(net.module).__name__} has no linear to quantize, or all match {skip=}')

    def of_seed(carry, r, run):
      mine, masks = (
        None if t is None else dict(tree.named(tree.map(lambda w: w[r], t)))
        for t in (params, net.masks)
      )
      look = lambda part: calibrate(net.module, tree.nest(mine), part, inputs, seen=_seen(chosen))
      seen = look(batches)
      best = scales(mine, inputs, seen, method, look(later) if later else None)
      by = {name: one.scale for name, one in best.items()}
      mine = awq.folded(mine, inputs, by)
      seen = {n: awq.scaled(s, by[n]) if n in by else s for n, s in seen.items()}
      out = dict(
        weights=mine, packed={}, error={}, exponent={n: b.exponent for n, b in best.items()}
      )
      for linear, one in packed(mine, inputs, seen, method, masks):
        del mine[f'{linear}/kernel']
        out['packed'][linear] = {k: getattr(one.kernel, k) for k in ('data', 'scale', 'zero')}
        out['error'][linear] = one.error
      return carry, out

    _, outs = run.fold('nets', of_seed, jnp.zeros(()), len(run.seeds))
    outs = [outs[r] for r in range(len(run.seeds))]
    return _put_together(net, run, outs, inputs, method)

  return stage


def _put_together(net, run, outs, inputs, method) -> Net:
  """The net of all seeds, from what the fold gave; logs its rows."""
  out = tree.map(lambda *leaves: jnp.stack(leaves), *outs)
  flat = dict(out['weights'])
  for one in inputs:
    for linear in filter(method.takes, one.linears):
      q = out['packed'][linear]
      rows = one.rows
      flat[f'{linear}/kernel'] = QTensor(**q, scheme=method.scheme, rows=rows)
      run.log(
        kind='quantized', summary=True, seeds=run.seeds, linear=linear, rows=rows,
        error=out['error'][linear], exponent=out['exponent'].get(one.linears[0]),
        scaled='yes' if one.sources else one.why,
      )  # fmt: skip
  return Net(Served(net.module), tree.nest(flat), net.stats)


def _seen(x):
  """Which tokens of a batch count: all of an image, those before the end of a text."""
  return _words if x.dtype == np.int32 else None


def _words(x):
  return x > 0
