"""Quantization of a language model, block by block (Lin et al. 2024, AWQ; Frantar et al., GPTQ).

In memory are a block, its statistics and the states of the passages before it.
"""

import functools

import jax.numpy as jnp
import numpy as np

from reduction import language, tree
from reduction.errors import require
from reduction.mesh import shared_out
from reduction.models.decoder import parts
from reduction.models.served import Served
from reduction.net import Net
from reduction.qtensor import Scheme
from reduction.quantize import kept
from reduction.quantize import plan as plans
from reduction.quantize.method import Method
from reduction.quantize.module import EXAMINED, quantized
from reduction.quantize.preflight import preflight
from reduction.quantize.seen import Needs, Seen, block_inputs
from reduction.run import Run, Stage

FOLLOWS = 'float', 'packed'


def awq(
  *, bits: int = 4, group: int | str = 128, symmetric: bool = False, scaling: str = 'awq',
  clip: bool = True, rounding: str = 'nearest', damp: float = 0.01, stored: str = 'float16',
  sequential: bool = False, tokens: int = 512, batch: int = 4, held: float = 0.25,
  follows: str = 'float', plan: str = '', activations: str = 'none', strength: float = 0.5,
  gram: int = 0,
) -> Stage:  # fmt: skip
  """Packs the linears of all blocks; embeddings, norms and the last layer stay as they are.

  bits, group, symmetric: of `qtensor.Scheme`. scaling, clip, rounding, damp, sequential, tokens,
  stored, activations, strength, gram: of `quantize.method.Method`. batch: passages of text at once.
  held: the share of them on which scales must beat plain rounding. follows: whether a block sees
  what the 'float' blocks before it gave, as in AWQ, or the 'packed' ones, as in GPTQ. plan: a file
  to apply instead of searching, of any scheme. Rows: a 'quantized' for each linear; a workdir gets
  plan/plan.npz, of `quantize.plan`. `needs`: statistics that others may gather: `quantize.seen`.
  """
  method = Method(
    Scheme(bits, group, symmetric), scaling, clip, rounding, damp, stored=stored, tokens=tokens,
    sequential=sequential, activations=activations, strength=strength, gram=gram,
  )  # fmt: skip
  method.check()
  require(follows in FOLLOWS, f'{follows=} must be one of {", ".join(FOLLOWS)}')
  require(batch > 0 and 0 <= held < 1, f'{batch=} must be above 0 and {held=} in [0, 1)')

  def stage(net: Net, run: Run, seen: Seen | None = None) -> Net:
    require(len(run.seeds) == 1, 'a language model from a folder is one net: give one seed')
    require(not isinstance(net.module, Served), 'the net is quantized already')
    serve = language.programs(Served(net.module, activations))[1]
    layer, names = parts(net.module)[1], [f'layer{i}' for i in range(net.module.layers)]
    cut = _looked_at(method, bool(plan), seen, range(0, len(x := run.data.train.x), batch))
    first = language.embedded(net, x[:1], 1)
    states = language.embedded(net, x, batch) if cut else first[:0]
    inputs = block_inputs(net)
    given = plans.read_parts(plan, names, inputs, language.block(net, names[0])) if plan else None

    def one_block(states, i, run):
      batches = shared_out(run.mesh, [states[at : at + batch] for at in cut])
      params = language.block(net, names[i])
      flat = {n: w.astype(jnp.float32) for n, w in tree.named(params)}
      after = []  # of the float block
      found = quantized(
        layer, flat, batches, inputs, method, held=int(held * len(cut)),
        plan=None if given is None else given.get(names[i], {}), known=seen and seen(i),
        passed=after.append if follows == 'float' else None, example=first,
      )  # fmt: skip
      _log(run, names[i], inputs, found)
      small = tree.nest(found.params)
      if batches:
        block = params if follows == 'float' else small  # where nothing was passed
        states = np.concatenate(after) if after else language.through(serve, block, batches)
      return states, dict(params=kept.arrays(small), plan=found.plan)

    _, outs = run.fold('blocks', one_block, states, len(names))
    return _put_together(net, run, zip(names, outs), inputs, method)

  if follows == 'float' and method.looks_at_sums(bool(plan)):
    stage.needs = Needs(batch, held, gram)
  told = dict(method=method, batch=batch, held=held, follows=follows)
  stage.method, stage.preflight = method, functools.partial(preflight, **told)
  return stage


def _looked_at(method, planned, seen, cut: range) -> range:
  """Those of the batches that it needs: where others saw them, a few for its own error."""
  if seen is None:
    return cut if method.looks(planned) else cut[:0]
  return cut[: 0 if method.activations == 'none' else EXAMINED]


def _log(run, block, inputs, found):
  scales = plans.by_path(found.plan)
  for one in inputs:
    exponent = scales.get(f'{one.linears[0]}/exponent')
    for linear in one.linears:
      run.log(
        kind='quantized', summary=True, seeds=run.seeds, linear=f'{block}/{linear}', rows=one.rows,
        error=[found.error[linear]], exponent=None if exponent is None else [exponent],
      )  # fmt: skip


def _put_together(net, run, outs, inputs, method) -> Net:
  """The net of all blocks, from what the fold gave for each, read one by one; writes the plan."""
  blocks, plan = {}, {}
  for name, out in outs:
    blocks[name] = tree.map(lambda w: w[None], kept.packed(out['params'], method.scheme, inputs))
    plan[name] = out.get('plan', {})
  plans.keep(run, plan)
  return Net(Served(net.module, method.activations), {**net.params, **blocks})
