"""Quantization of a language model, block by block (Lin et al. 2024, AWQ; Frantar et al., GPTQ)."""

import jax
import jax.numpy as jnp
import numpy as np

from reduction import language, tree
from reduction.errors import require
from reduction.models.decoder import parts
from reduction.models.served import Served
from reduction.net import Net
from reduction.qtensor import Scheme
from reduction.quantize import awq as search
from reduction.quantize import kept
from reduction.quantize.calibrate import calibrate, merged
from reduction.quantize.inputs import find
from reduction.quantize.method import Method, packed, scales
from reduction.run import Run, Stage

FOLLOWS = 'float', 'packed'


def awq(
  *, bits: int = 4, group: int | str = 128, symmetric: bool = False, scaling: str = 'awq',
  clip: bool = True, rounding: str = 'nearest', damp: float = 0.01, stored: str = 'float16',
  batch: int = 4, held: float = 0.25, follows: str = 'float',
) -> Stage:  # fmt: skip
  """Packs the linears of all blocks; embeddings, norms and the last layer stay as they are.

  bits, group, symmetric: of `qtensor.Scheme`. scaling, clip, rounding, damp, stored: of
  `quantize.method.Method`. batch: passages of the calibration text at once. held: the share of them
  on which scales must beat plain rounding. follows: whether a block sees what the 'float' blocks
  before it gave, as in AWQ, or the 'packed' ones, as in GPTQ. No more than a block, its statistics
  and the states of the passages are in memory. Rows: a 'quantized' for each linear.
  """
  method = Method(Scheme(bits, group, symmetric), scaling, clip, rounding, damp, stored=stored)
  method.check()
  require(follows in FOLLOWS, f'{follows=} must be one of {", ".join(FOLLOWS)}')
  require(batch > 0 and 0 <= held < 1, f'{batch=} must be above 0 and {held=} in [0, 1)')

  def stage(net: Net, run: Run) -> Net:
    require(len(run.seeds) == 1, 'a language model from a folder is one net: give one seed')
    require(not isinstance(net.module, Served), 'the net is quantized already')
    embed, apply, _ = language.programs(net.module)
    _, serve, _ = language.programs(Served(net.module))
    layer = parts(net.module)[1]
    x, start = run.data.train.x, language.outside(net, 'embed', 'positions')
    cut = range(0, len(x), batch)
    states = np.concatenate([np.asarray(embed(start, x[i : i + batch])) for i in cut])
    first = language.block(net, 'layer0')
    inputs = find(layer, first, jax.ShapeDtypeStruct((1, 2, states.shape[-1]), states.dtype))
    early = len(cut) - (int(held * len(cut)) if method.searches else 0)

    def one_block(states, i, run):
      batches = [states[at : at + batch] for at in cut]
      params = language.block(net, f'layer{i}')
      flat = {n: w.astype(jnp.float32) for n, w in tree.named(params)}
      look = lambda part: calibrate(layer, tree.nest(flat), part, inputs)
      seen = look(batches[:early]) if method.looks else {}
      judges = look(batches[early:]) if early < len(cut) else None
      best = scales(flat, inputs, seen, method, judges)
      if judges:
        seen = {name: merged(one, judges[name]) for name, one in seen.items()}
      by = {name: one.scale for name, one in best.items()}
      new = search.folded(flat, inputs, by)
      seen = {n: search.scaled(s, by[n]) if n in by else s for n, s in seen.items()}
      for linear, one in packed(new, inputs, seen, method):
        new[f'{linear}/kernel'] = one.kernel
        of = next(best.get(one.linears[0]) for one in inputs if linear in one.linears)
        _log(run, f'layer{i}/{linear}', one, of)
      small = tree.nest(new)
      through = (apply, params) if follows == 'float' else (serve, small)
      states = np.concatenate([np.asarray(through[0](through[1], part)) for part in batches])
      return states, kept.arrays(small)

    _, outs = run.fold('blocks', one_block, states, net.module.layers)
    blocks = {
      f'layer{i}': tree.map(lambda w: w[None], kept.packed(out, method.scheme, inputs))
      for i, out in enumerate(outs)
    }
    return Net(Served(net.module), {**net.params, **blocks})

  return stage


def _log(run, linear, one, scales):
  run.log(
    kind='quantized', summary=True, seeds=run.seeds, linear=linear, rows=one.kernel.rows,
    error=[one.error], exponent=scales and [scales.exponent],
  )  # fmt: skip
