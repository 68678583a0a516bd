"""What the inputs of all blocks of a language model look like, gathered once for many quantizers.

Statistics are of the float model and know no scheme: on few cores gathering them is nine tenths of
the work of one quantizer.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from reduction import language, tree
from reduction.models.decoder import parts
from reduction.net import Net
from reduction.quantize.calibrate import Statistics, calibrate, nbytes
from reduction.quantize.inputs import Input, find
from reduction.run import Run

Sums = dict[str, Statistics]  # by the first linear of an input
Seen = Callable[[int], tuple[Sums, Sums | None]]  # block -> of the tokens that search, that judge


class Needs(NamedTuple):
  """What statistics a quantizer takes. batch: passages at once; held: the share of the batches that
  judge, 0 where none does; gram: of `method.Method`."""

  batch: int
  held: float
  gram: int = 0


def block_inputs(net: Net) -> list[Input]:
  """The inputs of the linears of one block, which are those of every block."""
  like = jax.ShapeDtypeStruct((1, 2, net.module.width), jnp.float32)
  return find(parts(net.module)[1], language.block(net, 'layer0'), like)


def gather(net: Net, tokens, run: Run, needs: Needs) -> Seen:
  """The statistics on tokens, int32 [n, length], of all blocks: a fold that goes on after a stop.

  With a workdir they lie on disk, of which one block's are read at a time.
  """
  layer, inputs, size = parts(net.module)[1], block_inputs(net), needs.gram or None
  foretold(inputs, size, run)

  def of_block(params, batches, i, run):
    del i, run
    params = tree.map(lambda w: w.astype(jnp.float32), params)
    early, after = len(batches) - int(needs.held * len(batches)), []
    both = dict(searched=batches[:early], held=batches[early:])
    found = {
      part: _named(calibrate(layer, params, some, inputs, block=size, passed=after.append))
      for part, some in both.items() if some
    }  # fmt: skip
    return found, np.concatenate(after)

  outs = language.walked(net, tokens, run, of_block, batch=needs.batch)

  def seen(i):
    out = outs[i]
    return _sums(out['searched'], inputs), _sums(out['held'], inputs) if 'held' in out else None

  return seen


def foretold(inputs: list[Input], gram: int | None, run: Run):
  """Says what the statistics of inputs will take before they are gathered."""
  if run.progress:
    took = nbytes(inputs, gram) / 1e6
    run.progress.line(f'statistics of {len(inputs)} inputs at a time: {took:,.1f} MB')


def _named(sums: Sums) -> dict:
  """A tree that a fold keeps."""
  return {str(i): one._asdict() for i, one in enumerate(sums.values())}


def _sums(out: dict, inputs) -> Sums:
  """What `_named` was given."""
  return {
    one.linears[0]: Statistics(**{part: jnp.asarray(x) for part, x in out[str(i)].items()})
    for i, one in enumerate(inputs)
  }
