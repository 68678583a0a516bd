"""A language model that goes on with a text, and remembers it for the next."""

import functools
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from reduction import tree
from reduction.chat.sampling import Sampling, drawn
from reduction.errors import require
from reduction.kernels import int4
from reduction.kernels.int4_cpu import CpuWeight
from reduction.models import memory, merged, stacked
from reduction.models.decoder import checked
from reduction.models.served import Served
from reduction.net import Net
from reduction.qtensor import Scheme, is_packed
from reduction.quantize.rtn import quantize

HEAD_GROUP = 64  # of the last layer in few bits: rows that share a scale
FLOATS = 'float32', 'bfloat16', 'float16'
LENGTHS = 512, 64, 8, 1  # of what is read at once: a program each


class Runtime:
  """A net of one replicate with its memory; texts that begin alike are not read again.

  context: tokens of the longest text, None for all that the model has places for. floats: of
  weights that are not packed and of what passes between layers, None for float32 on a CPU and
  bfloat16 on an accelerator. stored: how the memory is kept, see `memory.empty`; None: as floats.
  head: bits of the last layer, and of the words where these are the same; None leaves them as they
  are. at_once: a token goes through all blocks in one native call where these are as
  `models.stacked` says. tokens: what it remembers. Raises UsageError for a context that the model
  has not, for another head and for other floats.
  """

  def __init__(
    self, net: Net, *, context: int | None = None, stored: str | None = None,
    head: int | None = None, at_once: bool = True, floats: str | None = None,
  ):  # fmt: skip
    most = net.module.positions
    self.context = most if context is None else context
    require(1 < self.context <= most, f'{context=} must be above 1 and at most {most}')
    floats = floats or ('float32' if jax.default_backend() == 'cpu' else 'bfloat16')
    stored = stored or floats
    self.module, self.params = resident(net, head, floats)
    empty = functools.partial(memory.empty, net.module, 1, self.context, stored)
    shapes = jax.eval_shape(empty)
    self.places = memory.places(shapes)
    if at_once and stacked.fits(self.module, self.params, stored):
      self.params = stacked.stacked(self.module, self.params)
      self.memory = stacked.remembered(shapes)
    else:
      self.memory = empty()
    self._like = jax.tree.structure(self.params)
    self.tokens: list[int] = []
    self.times = clock()  # of the last text

  def forget(self):
    """The next text begins anew."""
    self.tokens = []
    self.memory = _cleared(self.memory)  # what is not finite would be read with a weight of 0

  def round_inputs(self, tokens: list[int]) -> float:
    """From now on products of 3 and 4 bits take their inputs in 8: the change of the logits after
    some tokens, relative. Raises UsageError where no kernel does so.
    """
    exact = self._read(tokens, 0)
    self.params = in_eight_bits(self.params)
    self._like = jax.tree.structure(self.params)
    rounded = self._read(tokens, 0)
    self.forget()
    return float(jnp.linalg.norm(rounded - exact) / jnp.linalg.norm(exact))

  def bytes_per_token(self) -> int:
    """Bytes that a token takes from memory: all weights, but of tables that it looks up one row
    each, and what is remembered."""
    looked_up = ('positions',) if self.module.tied else ('positions', 'embed')
    read = [w for name, w in self.params.items() if name not in looked_up]
    size = lambda arrays: sum(x.nbytes for x in jax.tree.leaves(arrays))
    filled = len(self.tokens) / self.places
    return size(read) + int(filled * size(self.memory))

  def continued(
    self, tokens: list[int], how: Sampling, key, *, most: int, ends: tuple[int, ...] = (),
    stop: Callable[[], bool] | None = None,
  ) -> Iterator[int]:  # fmt: skip
    """The tokens that follow, up to `most`, to one of ends (which is not given) or to the context.

    key: of the draws; each token has its own. stop(): asked between tokens and, while a prompt is
    read, between blocks; where it says True nothing more is given. Raises UsageError for no tokens
    and for more than the context holds, DataError for unknown ones.
    """
    how.check()
    require(len(tokens) > 0, 'nothing to continue: the prompt is empty')
    require(
      len(tokens) < self.context,
      f'the prompt has {len(tokens)} tokens, the context {self.context}; shorten it, or /reset',
    )
    tokens = checked(tokens, self.module.vocabulary).tolist()
    began = time.perf_counter()
    known = _alike(self.tokens, tokens[:-1])
    logits = self._read(tokens[known:], known, stop)
    if logits is None:
      return
    jax.block_until_ready(logits)
    read_s = time.perf_counter() - began
    self.times = clock() | dict(read=len(tokens) - known, read_s=read_s)
    seen = np.zeros((1, self.module.vocabulary), bool)
    seen[0, tokens] = True
    for token in self._written(logits, jnp.asarray(seen), how, key, most, ends):
      yield token
      if stop and stop():
        return

  def _read(self, tokens, place, stop=None):
    """Logits [1, vocabulary] after tokens, which stand from place on; None where it was stopped."""
    self.tokens = self.tokens[:place]
    embed, head, step, _, _ = programs(self.module)
    for part in cut(len(tokens), place, self.places):
      now, tokens = tokens[:part], tokens[part:]
      filled = np.zeros((1, part), np.int32)
      filled[0, : len(now)] = now
      if part == 1:  # the program that writes
        logits, self.memory = step(self.params, self.memory, filled, place)
      else:
        x = embed(self.params, filled, place)
        for i in range(self.module.layers):
          x = self._block(i, x, place)
          if stop:
            jax.block_until_ready(x)  # what is only queued cannot be stopped
            if stop():
              return None
        logits = head(self.params, x, len(now))
      place += len(now)
      self.tokens += now
    return logits

  def _block(self, i, x, place):
    """x [1, length, width] after block i, whose memory then holds these tokens."""
    *_, layer = programs(self.module)
    if stacked.BLOCKS in self.params:
      x, self.memory = layer(self.params[stacked.BLOCKS], self.memory, x, place, i)
    else:
      name = f'layer{i}'
      x, self.memory[name] = layer(self.params[name], self.memory[name], x, place)
    return x

  def _written(self, logits, seen, how, key, most, ends):
    *_, step, turn, _ = programs(self.module)
    leaves, began = jax.tree.leaves(self.params), time.perf_counter()
    for i in range(most):
      place = len(self.tokens)
      more = place + 1 < self.context and i + 1 < most
      if more and i > 0:  # one program, whose draw is fetched with its step
        token, seen, logits, self.memory = turn(
          leaves, self.memory, logits, seen, key, i, place, how, like=self._like
        )
      else:
        token, seen = _next(logits, seen, jax.random.fold_in(key, i), how)
      found = int(token[0])
      wrote_s = time.perf_counter() - began
      if more and i == 0:  # the first token is shown while its step runs
        filled = np.full((1, 1), found, np.int32)
        logits, self.memory = step(self.params, self.memory, filled, place)
      self.times |= dict(wrote=i + 1, wrote_s=wrote_s)
      if i == 0:
        first_s = wrote_s
        self.times['first_s'] = self.times['read_s'] + wrote_s
      elif more:
        self.times |= dict(steps=i + 1, steps_s=wrote_s - first_s)
      if found in ends:
        return
      if more:
        self.tokens.append(found)
      yield found
      if not more:
        return


def clock() -> dict:
  """Counts and seconds of a text: tokens read, the first written, all that were; steps: programs of
  one token each that ran after the first was there, in steps_s."""
  return dict(read=0, read_s=0.0, first_s=0.0, wrote=0, wrote_s=0.0, steps=0, steps_s=0.0)


def resident(net: Net, head: int | None = None, floats: str = 'float32') -> tuple:
  """(module, params of one replicate on the device, packed ones in the order of its kernels and
  those that read the same input as one, others as floats).

  head: bits of the last layer, or None. Raises UsageError for others than 8, and for other floats
  than FLOATS.
  """
  require(head in (None, 8), f'{head=} must be 8, or None to leave the last layer as it is')
  require(floats in FLOATS, f'{floats=} must be one of {", ".join(FLOATS)}')
  module, packed = net.module, isinstance(net.module, Served)
  (name, leaf), axis = (('embed', 'embedding'), -1) if module.tied else (('out', 'kernel'), -2)
  merges = not packed or module.activations == 'none'

  def prepared(part):
    part = jax.tree.map(lambda w: _here(w, floats), part, is_leaf=is_packed)
    part = merged.merged(part) if merges else part
    return jax.tree.map(lambda w: int4.prepacked(w) if is_packed(w) else w, part, is_leaf=is_packed)

  params = dict(net.params)
  if head and not is_packed(params[name][leaf]):
    whole, scheme = jnp.asarray(params[name][leaf][:1]), Scheme(head, HEAD_GROUP, axis=axis)
    params[name] = params[name] | {leaf: quantize(whole, scheme, dtype=jnp.float16)}
  # block by block: never the whole model in both orders
  params = {name: prepared(part) for name, part in params.items()}
  return module if packed or not head else Served(module), params


def _here(w, floats):
  if is_packed(w):
    return tree.map(lambda x: jnp.asarray(x[0]), w)
  return jnp.asarray(w[0], floats)


def in_eight_bits(params):
  """params whose products of 3 and 4 bits take their inputs in 8. Raises UsageError for none."""
  takes = lambda w: isinstance(w, CpuWeight) and w.scheme.bits < 8
  found = [w for w in jax.tree.leaves(params, is_leaf=int4.is_weight) if takes(w)]
  require(found, 'inputs in 8 bits need the native kernel of a CPU, weights of 3 or 4 bits')
  own = lambda w: w.replace(eight=True) if takes(w) else w
  return jax.tree.map(own, params, is_leaf=int4.is_weight)


def cut(count: int, place: int, places: int) -> list[int]:
  """The lengths in which `count` tokens are read that stand from place on; the last is filled up.

  A length is taken where half of it is needed, and never beyond the memory.
  """
  found = []
  while count > 0:
    length = next(n for n in LENGTHS if n <= 2 * count and place + n <= places)
    found.append(length)
    count, place = count - length, place + length
  return found


@functools.lru_cache(maxsize=4)
def programs(module):
  """(embed, head, step, turn, layer), compiled.

  Prompts are read block by block, by one program for each length: embed(params, tokens, place),
  layer(params, memory, x, place) with those of a block, or, where the blocks are in one, with
  these and the number of the block, head(params, x, count) -> logits after the first count. A token
  goes through all blocks at once: step(params, memory, token [1, 1], place) -> (logits, memory).
  turn(leaves, memory, logits, seen, key, i, place, how, like) -> (token [1], seen, logits, memory)
  draws the token first; leaves: of params, whose structure is `like`, a list of hundreds, which a
  call takes sooner than a tree.
  """
  embed, block, head = memory.parts(module)

  def layer(params, kept, x, place, *i):
    return stacked.layer(module, params, kept, x, place, *i) if i else block(params, kept, x, place)

  def last(params, x, count):
    return head(params, jax.lax.dynamic_slice_in_dim(x, count - 1, 1, 1))[:, 0]

  def step(params, kept, token, place):
    x = embed(params, token, place)
    if stacked.BLOCKS in params:
      x, new = stacked.token(module, params[stacked.BLOCKS], kept, x, place)
    else:
      new = dict(kept)
      for i in range(module.layers):
        name = f'layer{i}'
        x, new[name] = block(params[name], kept[name], x, place)
    return last(params, x, 1), new

  def turn(leaves, kept, logits, seen, key, i, place, how, *, like):
    token, seen = _next(logits, seen, jax.random.fold_in(key, i), how)
    logits, kept = step(jax.tree.unflatten(like, leaves), kept, token[:, None], place)
    return token, seen, logits, kept

  return (
    jax.jit(embed),
    jax.jit(last),
    jax.jit(step, donate_argnums=1),
    jax.jit(turn, static_argnames='like', donate_argnums=(1, 2, 3)),
    jax.jit(layer, donate_argnums=1),
  )


@functools.partial(jax.jit, donate_argnums=0)
def _cleared(kept):
  """An empty memory in the place of another."""
  return jax.tree.map(jnp.zeros_like, kept)


@jax.jit
def _next(logits, seen, key, how):
  """(the next token [1], seen with it)."""
  token = drawn(logits, seen, key, Sampling(*how))
  return token, seen.at[jnp.arange(len(token)), token].set(True)


def _alike(one: list[int], other: list[int]) -> int:
  """How many tokens two texts begin with alike."""
  pairs = enumerate(zip(one, other))
  return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
