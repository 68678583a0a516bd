"""How close a net that was made smaller is to the one it came from, on the test data."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from reduction import language, predict
from reduction.net import Net
from reduction.report.intervals import interval, relative_change
from reduction.run import Run

Items = dict[str, np.ndarray]  # measure -> its values [R, n] on test items: passages, examples
ENDS = '', '_low', '_high'


def surprise(tokens, batch: int) -> Callable[[Net, Run], Items]:
  """(net, run) -> its 'perplexity', as the mean loss of the tokens of each test passage.

  tokens: int32 [n, length]. batch: passages at once. Goes on after a stop.
  """
  losses = lambda net, run: language.all_losses(net, tokens, run, batch=batch)
  return lambda net, run: dict(perplexity=losses(net, run).mean(1)[None])


def texts(net: Net, tokens, run: Run, batch: int) -> Callable[[Net, Run], Items]:
  """As `surprise`, and the 'divergence', the mean KL(net || small) of what they predict there."""
  cut = language.pieces(tokens, batch)
  states = lambda net, i: language.states(net, tokens[cut[i]], batch=batch)
  _, reference = run.fold('states', lambda x, i, run: (x, states(net, i)), jnp.zeros(()), len(cut))

  def measure(small, run):
    def passages(carry, i, run):
      mine = reference[i] if small is net else states(small, i)
      found = language.divergences(small, mine, net, reference[i], tokens[cut[i]])
      return carry, np.stack([part.mean(1) for part in found])

    _, outs = run.fold('passages', passages, jnp.zeros(()), len(cut))
    losses, divergence = np.concatenate([np.asarray(out) for out in outs], 1)[:, None]
    return dict(perplexity=losses, divergence=divergence)

  return measure


def outputs(net: Net, x, y) -> Callable[[Net, Run], Items]:
  """(small, run) -> its 'output_error', the squared error of each test output relative to the mean
  square of the outputs of net, and of a classifier its 'accuracy', whether each is label y."""
  exact = predict.logits(net, x)
  scale = (exact**2).sum(-1).mean(-1, keepdims=True)

  def measure(small, run):
    del run
    found = predict.logits(small, x)
    items = dict(output_error=((found - exact) ** 2).sum(-1) / scale)
    if getattr(net.module, 'classes', 0):
      items['accuracy'] = found.argmax(-1) == y
    return items

  return measure


def told(key: str, values, against=None) -> dict:
  """What a row holds of one measure: its value for each seed, and its relative change.

  values: [R, n], of `Items`. against: those of another net on the same items, or None. A change has
  the 95 % interval over items, of which seeds are averaged.
  """
  mean = values.mean(1, dtype=np.float64)
  row = {key: [_short(x) for x in (np.exp(mean) if key == 'perplexity' else mean)]}
  if against is None or key == 'accuracy' or not against.any():
    return row
  mine, theirs = values.mean(0), against.mean(0)
  if key == 'perplexity':  # of logarithms
    found = [np.expm1(x) for x in interval(mine - theirs)[:3]]
  else:
    found = relative_change(mine, theirs)[:3]
  return row | {f'{key}_change{end}': _short(x) for end, x in zip(ENDS, found)}


def _short(x) -> float:
  """x as rows hold it: what another machine's rounding changes is left out."""
  return float(f'{x:.6g}')
