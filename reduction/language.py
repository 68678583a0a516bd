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
  tokens) -> [n, length - 1], minus the log probability of each token after the first.
  """
  embed, layer, head = parts(bare(module))
  layer = alike(layer, module)

  def losses(params, x, tokens):
    logits = head(params, x[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])

  through = lambda params, x: layer.apply({'params': params}, x)
  return jax.jit(embed), jax.jit(through), jax.jit(losses)


def embedded(net: Net, tokens, batch: int) -> np.ndarray:
  """What goes into the first block, [n, length, width], of tokens int32 [n, length].

  batch: passages at once.
  """
  embed, params = programs(net.module)[0], outside(net, 'embed', 'positions')
  return through(embed, params, [tokens[i : i + batch] for i in range(0, len(tokens), batch)])


def walked(net: Net, tokens, run: Run, change: Callable, *, batch: int):
  """What `change` gives for each block in turn, a lazy sequence; goes on after a stop.

  change(params of the block, batches, i, run) -> out, nested dicts of arrays; batches: what the
  block is given for tokens int32 [n, length], `batch` passages at once [batch, length, width].
  """
  _, layer, _ = programs(net.module)

  def step(states, i, run):
    batches = [states[at : at + batch] for at in range(0, len(states), batch)]
    params = block(net, f'layer{i}')
    out = change(params, batches, i, run)
    return through(layer, params, batches), out

  return run.fold('blocks', step, embedded(net, tokens, batch), net.module.layers)[1]


def states(net: Net, tokens) -> jax.Array:
  """What comes out of the last block, [n, length, width], of tokens int32 [n, length]."""
  embed, layer, _ = programs(net.module)
  x = embed(outside(net, 'embed', 'positions'), tokens)
  for i in range(net.module.layers):
    x = layer(block(net, f'layer{i}'), x)
  return x


def token_losses(net: Net, tokens) -> np.ndarray:
  """Minus the log probability [n, length - 1] of each token after the first, float32.

  tokens: int32 [n, length], a batch that fits in memory with its logits.
  """
  _, _, losses = programs(net.module)
  return np.asarray(losses(outside(net, *HEAD), states(net, tokens), tokens))


def divergences(net: Net, x, reference: Net, of_reference, tokens) -> tuple[np.ndarray, np.ndarray]:
  """(token losses of net, KL(reference || net) of what they predict there), [n, length - 1] each.

  x, of_reference: the `states` of each on tokens. One passage's logits are in memory at a time.
  """
  both = outside(net, *HEAD), outside(reference, *HEAD)
  found = _diverging(bare(net.module))(*both, jnp.asarray(x), of_reference, tokens)
  return tuple(np.asarray(part) for part in found)


@functools.lru_cache(maxsize=8)
def _diverging(module):
  head = parts(module)[2]

  @jax.jit
  def diverging(params, of_reference, x, x_reference, tokens):
    def one(passage):
      x, other, tokens = passage
      mine = jax.nn.log_softmax(head(params, x[None, :-1])[0])
      theirs = jax.nn.log_softmax(head(of_reference, other[None, :-1])[0])
      loss = -jnp.take_along_axis(mine, tokens[1:, None], -1)[:, 0]
      return loss, (jnp.exp(theirs) * (theirs - mine)).sum(-1)

    return jax.lax.map(one, (x, x_reference, tokens))

  return diverging


def perplexity(net: Net, tokens, run: Run, *, batch: int = BATCH) -> dict:
  """perplexity [1] of passages int32 [n, length]: exp of the mean loss of all tokens but the first.

  batch: passages at once. Goes on after a stop.
  """
  require(len(run.seeds) == 1, 'a language model from a folder is one net: give one seed')
  count = -(-len(tokens) // batch)

  def step(carry, i, run):
    del run
    return carry, token_losses(net, tokens[i * batch : (i + 1) * batch])

  _, outs = run.fold('passages', step, jnp.zeros(()), count)
  losses = np.concatenate([np.asarray(out, np.float64).ravel() for out in outs])
  return dict(perplexity=[float(np.exp(losses.mean()))])
