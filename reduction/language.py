"""Language models block by block: no more than one block's weights and one batch's states at once.

Params may be memory-mapped or packed; a block's go to the device when its turn comes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from reduction import tree
from reduction.errors import require
from reduction.models.decoder import parts
from reduction.models.served import Served
from reduction.net import Net
from reduction.run import Run


def block(net: Net, name: str):
  """The params of one part, 'layer3' or 'embed', on the device, of the one replicate."""
  return tree.map(lambda w: jnp.asarray(w[0]), net.params[name])


def outside(net: Net, *names: str) -> dict:
  """The params of the parts that are there, by name."""
  return {name: block(net, name) for name in names if name in net.params}


@functools.lru_cache(maxsize=8)
def programs(module):
  """(embed, layer, losses): the compiled parts of a model; a packed one's module is `Served`.

  embed(params, tokens) -> x [n, length, width]; layer(params of a block, x) -> x; losses(params, x,
  tokens) -> [n, length - 1], minus the log probability of each token after the first.
  """
  bare = module.module if isinstance(module, Served) else module
  embed, layer, head = parts(bare)
  layer = Served(layer) if isinstance(module, Served) else layer

  def losses(params, x, tokens):
    logits = head(params, x[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])

  through = lambda params, x: layer.apply({'params': params}, x)
  return jax.jit(embed), jax.jit(through), jax.jit(losses)


def token_losses(net: Net, tokens) -> np.ndarray:
  """Minus the log probability [n, length - 1] of each token after the first, float32.

  tokens: int32 [n, length], a batch that fits in memory with its logits.
  """
  embed, layer, losses = programs(net.module)
  x = embed(outside(net, 'embed', 'positions'), tokens)
  for i in range(net.module.layers):
    x = layer(block(net, f'layer{i}'), x)
  return np.asarray(losses(outside(net, 'embed', 'norm', 'out'), x, tokens))


def perplexity(net: Net, tokens, run: Run, *, batch: int = 4) -> dict:
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
