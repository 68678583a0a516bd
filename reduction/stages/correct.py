"""Bias correction for classes that a student never saw (Hinton, Vinyals & Dean 2015)."""

import re

import jax.numpy as jnp
import numpy as np

from reduction import tree
from reduction.distill import bias
from reduction.errors import did_you_mean, require
from reduction.net import Net
from reduction.predict import logits, scores
from reduction.run import Run, Stage

CHOICES = ('prior', 'test', 'validation')


def correct(
  *,
  classes: tuple[int, ...],
  select_on: str = 'validation',
  layer: str = 'out/bias',
  of: str | None = None,
) -> Stage:
  """Adds one number to the output biases of the classes that were absent from the transfer set.

  select_on: what chooses it: the fewest errors on 'validation' or on 'test' data (as the paper
  did), or 'prior': the training images, without their labels, get these classes as often as they
  occur. layer: a pattern of the bias's name. of: the net to correct, one that an earlier stage
  returned; by default the one that comes. Rows: one 'correct' with the added `shift`.
  """
  require(select_on in CHOICES, f'{select_on=} is unknown.{did_you_mean(select_on, CHOICES)}')
  require(classes, 'classes must name at least one class')

  def stage(net: Net, run: Run) -> Net:
    known = ', '.join(run.nets)
    require(of is None or of in run.nets, f'of={of!r} is no earlier stage; those are {known}')
    net = net if of is None else run.nets[of]
    splits = run.data.splits()
    inside = all(0 <= c < run.data.classes for c in classes)
    require(inside and len(set(classes)) < run.data.classes, f'{classes=} of {run.data.classes}')
    if select_on == 'prior':
      frequency = np.isin(splits['train'].y, classes).mean()
      shift = [bias.by_prior(l, classes, frequency) for l in logits(net, splits['train'].x)]
    else:
      chosen = splits[select_on]
      require(len(chosen.y), f'{select_on=} needs a {select_on} split: config.data.validation')
      shift = [bias.best(l, chosen.y, classes) for l in logits(net, chosen.x)]
    found = [name for name in tree.names(net.params) if re.search(layer, name)]
    require(len(found) == 1, f'{layer=} names {found or "nothing"}; name one bias')
    raised = jnp.zeros((len(shift), run.data.classes)).at[:, jnp.array(classes)].set(
      jnp.array(shift)[:, None]
    )
    corrected = net.replace(
      params=tree.map_named(lambda n, w: w + raised if n in found else w, net.params)
    )
    run.log(
      kind='correct', summary=True, seeds=run.seeds, shift=np.round(shift, 4),
      **scores(logits(corrected, splits['test'].x), splits['test'].y, classes),
    )  # fmt: skip
    return corrected

  return stage
