"""Quantization of a trained net's linears: to the nearest, by GPTQ, AWQ, SmoothQuant, and composed.

Scales and clipping are Lin et al. 2024 (AWQ), rounding row by row Frantar et al. 2023 (GPTQ),
inputs in 8 bits and scales for them Xiao et al. 2023 (SmoothQuant).
"""

import jax
import jax.numpy as jnp
import numpy as np

from reduction import tree
from reduction.errors import require
from reduction.models.served import Served
from reduction.net import Net
from reduction.qtensor import Scheme
from reduction.quantize import kept
from reduction.quantize import plan as plans
from reduction.quantize.inputs import find
from reduction.quantize.method import Method
from reduction.quantize.module import quantized
from reduction.quantize.seen import foretold
from reduction.run import Run, Stage


def quantize(
  *, bits: int, group: int | str = 128, symmetric: bool = False, scaling: str = 'none',
  strength: float = 0.5, clip: bool = False, rounding: str = 'nearest', damp: float = 0.01,
  sequential: bool = False, tokens: int = 0, activations: str = 'none', gram: int = 0,
  skip: tuple[str, ...] = ('^out$',), stored: str = 'float16',
  examples: int = 512, batch: int = 64, held: float = 0.25, plan: str = '',
) -> Stage:  # fmt: skip
  """Packs the kernels of all `nn.Dense` of a net, whatever module holds them.

  bits, group, symmetric: of `qtensor.Scheme`. scaling: 'awq', 'duo', 'learned', 'smooth' or 'none';
  strength, clip, rounding, damp, sequential, tokens, activations, skip, stored, gram: of
  `quantize.method.Method`. W8A8 is bits=8, symmetric=True, group='channel' or 'tensor' with
  activations by 'token' or 'tensor'. examples: training examples, the same for every seed, whose
  inputs are looked at in batches of `batch`. held: the share of these batches on which searched
  scales must beat plain rounding. plan: a file to apply instead of searching, of any scheme; it has
  a part for each seed. What masks prune stays 0, in the codes; the net that comes out has no masks.
  Rows: a 'quantized' for each linear, with its relative output `error` on the examples, what
  rounding its input adds to it included, and the `exponent` (of 'smooth': the strength) of its
  scales. A workdir gets what was found as plan/plan.npz, see `quantize.plan`.
  """
  method = Method(
    Scheme(bits, group, symmetric), scaling, clip, rounding, damp, skip, stored=stored,
    activations=activations, strength=strength, tokens=tokens, sequential=sequential, gram=gram,
  )  # fmt: skip
  method.check()
  require(0 < batch <= examples, f'{batch=} must lie between 1 and {examples=}')
  require(0 <= held < 1, f'{held=} must lie in [0, 1)')

  def stage(net: Net, run: Run) -> Net:
    require(not isinstance(net.module, Served), 'the net is quantized already')
    batches = _batches(run, examples, batch)
    params = tree.keep(net.params, net.masks)
    first = tree.map(lambda w: w[0], params)
    found = find(net.module, first, batches[0][:1])
    inputs = [one for one in found if any(map(method.takes, one.linears))]
    require(inputs, f'{type(net.module).__name__} has no linear to quantize, or all match {skip=}')
    names = [f'seed{seed}' for seed in run.seeds]
    given = plans.read_parts(plan, names, inputs, first) if plan else None
    if method.looks(bool(plan)):
      foretold(inputs, gram or None, run)

    def of_seed(carry, r, run):
      del run
      mine, masks = (
        None if t is None else dict(tree.named(tree.map(lambda w: w[r], t)))
        for t in (params, net.masks)
      )
      found = quantized(
        net.module, mine, batches, inputs, method, held=int(held * len(batches)), masks=masks,
        seen=_seen(batches[0]), plan=None if given is None else given.get(names[r], {}),
      )  # fmt: skip
      small, error = kept.arrays(tree.nest(found.params)), tree.nest(found.error)
      return carry, dict(params=small, error=error, plan=found.plan)

    _, outs = run.fold('nets', of_seed, jnp.zeros(()), len(run.seeds))
    outs = [outs[r] for r in range(len(run.seeds))]
    plans.keep(run, {name: out.get('plan', {}) for name, out in zip(names, outs)})
    return _put_together(net, run, outs, inputs, method)

  return stage


def _batches(run, examples: int, batch: int) -> list:
  """So many training examples, the same for every seed, in whole batches."""
  x = run.data.train.x
  count = min(examples, len(x)) // batch
  require(count > 0, f'{batch=} is more than the {len(x)} training examples')
  order = np.asarray(jax.random.permutation(run.key('data')[0], len(x)))
  return np.split(x[np.sort(order[: count * batch])], count)


def _put_together(net, run, outs, inputs, method) -> Net:
  """The net of all seeds, from what the fold gave; logs its rows."""
  out = tree.map(lambda *leaves: jnp.stack(leaves), *outs)
  error, plan = (plans.by_path(out.get(part, {})) for part in ('error', 'plan'))
  for one in inputs:
    for linear in filter(method.takes, one.linears):
      run.log(
        kind='quantized', summary=True, seeds=run.seeds, linear=linear, rows=one.rows,
        error=error.get(linear), exponent=plan.get(f'{one.linears[0]}/exponent'),
        scaled='yes' if one.sources else one.why,
      )  # fmt: skip
  params = kept.packed(out['params'], method.scheme, inputs)
  return Net(Served(net.module, method.activations), params, net.stats)


def _seen(x):
  """Which tokens of a batch count: all of an image, those before the end of a text."""
  return _words if x.dtype == np.int32 else None


def _words(x):
  return x > 0
