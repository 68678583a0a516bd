"""Language models block by block: no more than one block's weights and one batch's states at once.

Params may be memory-mapped or packed; a block's go to the device when its turn comes.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from reduction import tree
from reduction.errors import require
from reduction.models.decoder import parts
from reduction.models.served import alike, bare
from reduction.net import Net
from reduction.run import Run

HEAD = 'embed', 'norm', 'out'  # what the last layer reads, where it is there
BATCH = 4  # passages at once
BATCHES = 4  # for which a block's weights are read once


def block(net: Net, name: str):
  """The params of one part, 'layer3' or 'embed', on the device, of the one replicate."""
  return tree.map(lambda w: jnp.asarray(w[0]), net.params[name])


def outside(net: Net, *names: str) -> dict:
  """The params of the parts that are there, by name."""
  return {name: block(net, name) for name in names if name in net.params}


def through(program, params, batches: Sequence) -> np.ndarray:
  """What program(params, batch) gives for all batches, of which one is on the device at a time."""
  whole, at = None, 0
  for batch in batches:
    part = np.asarray(program(params, batch))
    if whole is None:
      whole = np.empty((sum(map(len, batches)), *part.shape[1:]), part.dtype)
    whole[at : at + len(part)] = part
    at += len(part)
  return whole


@functools.lru_cache(maxsize=8)
def programs(module):
  """(embed, layer, losses): the compiled parts of a model; a packed one's module is `Served`.

  embed(params, tokens) -> x [n, length, width]; layer(params of a block, x) -> x; losses(params, x,
  tokens) -> [n, length - 1], minus the log probability of each token after the first, of which one
  passage's logits are in memory at a time.
  """
  embed, layer, head = parts(bare(module))
  layer = alike(layer, module)

  def losses(params, x, tokens):
    one = lambda passage: _surprise(_logits(head, params, passage[0]), passage[1])
    return jax.lax.map(one, (x, tokens))

  through = lambda params, x: layer.apply({'params': params}, x)
  return jax.jit(embed), jax.jit(through), jax.jit(losses)


def _logits(head, params, x):
  """Of what follows each token of a passage x [length, width] but the last."""
  return head(params, x[None, :-1])[0]


def _surprise(logits, tokens):
  """Minus the log probability of each token after the first."""
  return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[1:])


def embedded(net: Net, tokens, batch: int) -> np.ndarray:
  """What goes into the first block, [n, length, width], of tokens int32 [n, length].

  batch: passages at once.
  """
  embed, params = programs(net.module)[0], outside(net, 'embed', 'positions')
  return through(embed, params, [tokens[i : i + batch] for i in range(0, len(tokens), batch)])


def walked(net: Net, tokens, run: Run, change: Callable, *, batch: int):
  """What `change` gives for each block in turn, a lazy sequence; goes on after a stop.

  change(params of the block, batches, i, run) -> (out, nested dicts of arrays; what comes out of
  the block [n, length, width]); batches: what the block is given for tokens int32 [n, length],
  `batch` passages at once [batch, length, width].
  """

  def step(states, i, run):
    batches = [states[at : at + batch] for at in range(0, len(states), batch)]
    params = block(net, f'layer{i}')
    out, after = change(params, batches, i, run)
    return after, out

  return run.fold('blocks', step, embedded(net, tokens, batch), net.module.layers)[1]


def pieces(tokens, batch: int) -> list[slice]:
  """Of tokens [n, length]: those that are measured together, some batches of so many passages."""
  return [slice(at, at + BATCHES * batch) for at in range(0, len(tokens), BATCHES * batch)]


def states(net: Net, tokens, *, batch: int = BATCH) -> np.ndarray:
  """What comes out of the last block, [n, length, width], of tokens int32 [n, length].

  batch: passages at once. Each block's weights are read once.
  """
  _, layer, _ = programs(net.module)
  x = embedded(net, tokens, batch)
  for i in range(net.module.layers):
    x = through(layer, block(net, f'layer{i}'), [x[n : n + batch] for n in range(0, len(x), batch)])
  return x


def token_losses(net: Net, tokens, *, batch: int = BATCH) -> np.ndarray:
  """Minus the log probability [n, length - 1] of each token after the first, float32.

  tokens: int32 [n, length]. batch: passages at once.
  """
  _, _, losses = programs(net.module)
  return np.asarray(losses(outside(net, *HEAD), states(net, tokens, batch=batch), tokens))


def divergences(net: Net, x, reference: Net, of_reference, tokens) -> tuple[np.ndarray, np.ndarray]:
  """(token losses of net, KL(reference || net) of what they predict there), [n, length - 1] each.

  x, of_reference: the `states` of each on tokens. One passage's logits are in memory at a time.
  """
  if net is reference:
    found = np.asarray(programs(net.module)[2](outside(net, *HEAD), x, tokens))
    return found, np.zeros_like(found)
  both = outside(net, *HEAD), outside(reference, *HEAD)
  found = _diverging(bare(net.module))(*both, x, of_reference, tokens)
  return tuple(np.asarray(part) for part in found)


@functools.lru_cache(maxsize=8)
def _diverging(module):
  head = parts(module)[2]

  @jax.jit
  def diverging(params, of_reference, x, x_reference, tokens):
    def one(passage):
      x, other, tokens = passage
      mine, theirs = _logits(head, params, x), _logits(head, of_reference, other)
      apart = (jax.nn.softmax(theirs) * (theirs - mine)).sum(-1)
      apart += jax.nn.logsumexp(mine, -1) - jax.nn.logsumexp(theirs, -1)
      return _surprise(mine, tokens), apart

    return jax.lax.map(one, (x, x_reference, tokens))

  return diverging


def all_losses(net: Net, tokens, run: Run, *, batch: int = BATCH) -> np.ndarray:
  """`token_losses` of any number of passages, some batches at a time; goes on after a stop."""
  cut = pieces(tokens, batch)

  def step(carry, i, run):
    del run
    return carry, token_losses(net, tokens[cut[i]], batch=batch)

  _, outs = run.fold('passages', step, jnp.zeros(()), len(cut))
  return np.concatenate([np.asarray(out) for out in outs])


def perplexity(net: Net, tokens, run: Run, *, batch: int = BATCH) -> dict:
  """perplexity [1] of passages int32 [n, length]: exp of the mean loss of all tokens but the first.

  batch: passages at once. Goes on after a stop.
  """
  require(len(run.seeds) == 1, 'a language model from a folder is one net: give one seed')
  losses = all_losses(net, tokens, run, batch=batch)
  return dict(perplexity=[float(np.exp(losses.mean(dtype=np.float64)))])
