"""Which channels matter to a language model: AWQ's two experiments (Lin et al. 2024, section 2)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from reduction import language, tree
from reduction.errors import did_you_mean, require
from reduction.models.decoder import parts
from reduction.net import Net
from reduction.qtensor import Scheme
from reduction.quantize import plan as plans
from reduction.quantize import salient as protect
from reduction.quantize.awq import output_error
from reduction.quantize.calibrate import calibrate
from reduction.quantize.method import Method
from reduction.quantize.seen import Needs, Seen, block_inputs
from reduction.run import Run, Stage


def salient(
  *, bits: int = 3, group: int | str = 128, symmetric: bool = False, kept: float = 0.01,
  by: str = 'activation', scaled: float | None = None, draw: int = 0, stored: str = 'float16',
  batch: int = 4,
) -> Stage:  # fmt: skip
  """Rounds the linears of all blocks but for what a share of the input channels multiplies.

  bits, group, symmetric: of `qtensor.Scheme`; stored: of `quantize.method.Method`. kept: the share
  of the channels of each linear, at least one where it is above 0. by: their mean size on the
  calibration text, 'activation', the length of their weights, 'weight', or 'random', of which draw
  is another one. scaled: None keeps these channels in float; a number multiplies them before
  rounding and divides them afterwards. batch: passages at once. The net that comes out is not
  packed. Rows: a 'quantized' for each linear with its output error, and one 'salient' with the
  share of channels `really_kept`, the share of groups whose step `changed` and how many times as
  large the steps are in the mean, `growth`.
  """
  Method(Scheme(bits, group, symmetric), stored=stored).check()
  scheme, dtype = Scheme(bits, group, symmetric), jnp.dtype(stored)
  known = protect.CHOICES
  require(by in known, f'{by=} is unknown.{did_you_mean(by, known)}')
  require(0 <= kept <= 1, f'{kept=} must lie in [0, 1]')
  require(scaled is None or scaled > 0, f'{scaled=} must be above 0')

  def stage(net: Net, run: Run, seen: Seen | None = None) -> Net:
    require(len(run.seeds) == 1, 'a language model from a folder is one net: give one seed')
    inputs = block_inputs(net)

    def one_block(params, sums, i, run):
      flat, told = {n: w.astype(jnp.float32) for n, w in tree.named(params)}, []
      linears = [(one.linears[0], linear) for one in inputs for linear in one.linears]
      for j, (first, linear) in enumerate(linears):
        kernel = flat[f'{linear}/kernel']
        key = run.key('mask', draw, i, j)[0]
        scores = protect.scores(by, kernel, sums[first].mean, key)
        up = protect.chosen(scores, kept)
        new, growth = _rounded(kernel, up, scaled, scheme, dtype)
        error = output_error(new - kernel, sums[first]) / output_error(kernel, sums[first])
        run.log(kind='quantized', summary=True, seeds=run.seeds, linear=f'layer{i}/{linear}',
                rows=len(kernel), error=[error])  # fmt: skip
        told.append([up.sum(), len(up), (growth != 1).sum(), growth.size, growth.sum()])
        flat[f'{linear}/kernel'] = new
      return dict(params=tree.nest(flat), told=np.array(told, np.float32).sum(0))

    outs = _over_blocks(net, run, one_block, inputs, seen, batch)
    up, rows, changed, groups, grown = sum(np.asarray(out['told']) for out in outs)
    more = {} if scaled is None else dict(changed=changed / groups, growth=grown / groups)
    run.log(kind='salient', summary=True, seeds=run.seeds, really_kept=up / rows, **more)
    blocks = {f'layer{i}': tree.map(lambda w: w[None], out['params']) for i, out in enumerate(outs)}
    return net.replace(params={**net.params, **blocks})

  stage.needs = Needs(batch, 0.0)
  return stage


def _over_blocks(net, run, change, inputs, seen: Seen | None, batch: int):
  """What change(params, statistics, i, run) gives for each block; seen: statistics, if known."""
  layer = parts(net.module)[1]

  def looked(params, batches, i, run):
    after = []
    sums = calibrate(layer, params, batches, inputs, passed=after.append)
    return change(params, sums, i, run), np.concatenate(after)

  def known(carry, i, run):
    return carry, change(language.block(net, f'layer{i}'), plans.joined(*seen(i)), i, run)

  if seen is None:
    return language.walked(net, run.data.train.x, run, looked, batch=batch)
  return run.fold('blocks', known, jnp.zeros(()), net.module.layers)[1]


@functools.partial(jax.jit, static_argnames=('scheme', 'dtype'))
def _rounded(kernel, up, scale, scheme, dtype):
  """(kernel as it becomes, how its steps grew)"""
  if scale is None:
    return protect.mixed(kernel, up, scheme, dtype=dtype), jnp.ones(1)
  growth = protect.growth(kernel, up, scale, scheme)
  return protect.scaled(kernel, up, scale, scheme, dtype=dtype), growth
