"""PowerSGD (Vogels et al. 2019, 1905.13727): factors that share a basis, so that they add up."""

import functools
import zlib

import jax
import jax.numpy as jnp

from reduction.errors import require
from reduction.federate.codecs.codec import Codec, sizes
from reduction.federate.codecs.factors import EXACT, matrix


@functools.lru_cache(maxsize=16)
def power(*, rank: int = 4) -> Codec:
  """One power iteration a round from the last one's basis, with each sender's error fed back.

  For M = update + error [P, Q] and the basis B [Q, rank] that all know: senders' M B are averaged
  and made orthonormal, A [P, rank]; their M'A are averaged, the new B; the update is A B', and a
  sender keeps M - A (M'A)' of its own. Both averages travel up and down, in two exchanges: rank
  (P + Q) numbers each way. Vectors, and matrices for which that is not fewer, travel whole. The
  first B is drawn from the tensor's name; who missed a round is told the newest.
  """
  require(rank > 0, f'{rank=} must be above 0')
  small = lambda x: x.ndim > 1 and rank * sum(_sides(x)) < x.size

  def basis(name, x):
    return jax.random.normal(jax.random.key(zlib.crc32(name.encode())), (_sides(x)[1], rank))

  def start(like):
    return {
      name: dict(rest=jnp.zeros(x.shape, jnp.float32), right=basis(name, x))
      for name, x in like.items() if small(x)
    }  # fmt: skip

  def serve(like):
    return {name: dict(right=basis(name, x)) for name, x in like.items() if small(x)}

  def encode(update, state, progress, key):
    del progress, key
    message, new = {}, {}
    for name, x in update.items():
      if name not in state:
        message[name] = dict(whole=x)
        continue
      whole = x + state[name]['rest']
      product = jnp.matmul(matrix(whole), state[name]['right'], precision=EXACT)
      message[name], new[name] = dict(left=product), dict(state[name], rest=whole)
    return message, new

  def reply(heard, state):
    message, new = {}, {}
    for name, own in state.items():
      left, m = heard[name]['left'], matrix(own['rest'])
      right = jnp.matmul(m.T, left, precision=EXACT)
      rest = (m - jnp.matmul(left, right.T, precision=EXACT)).reshape(own['rest'].shape)
      message[name], new[name] = dict(right=right), dict(own, rest=rest)
    return message, new

  return Codec(
    start, encode, _decode, sizes, answers=(_lefts, _rights), replies=(reply,), serve=serve,
    public=lambda wire: wire, told=_told,
  )  # fmt: skip


def _lefts(mean, wire, like):
  """The first answer: what senders' products average to, made orthonormal."""
  del like
  orthonormal = lambda parts: dict(left=jnp.linalg.qr(parts['left'])[0])
  return {n: orthonormal(x) if 'left' in x else x for n, x in mean.items()}, wire


def _rights(mean, wire, like):
  """The second answer, which is the next basis."""
  del wire, like
  return mean, mean


def _decode(heard, like):
  """The update of both answers."""
  product = lambda parts: jnp.matmul(parts['left'], parts['right'].T, precision=EXACT)
  return {
    name: parts['whole'] if 'whole' in parts else product(parts).reshape(like[name].shape)
    for name, parts in heard.items()
  }


def _told(state, heard):
  """A sender's state with the basis of all."""
  return {name: dict(own, **heard.get(name, {})) for name, own in state.items()}


def _sides(x) -> tuple[int, int]:
  """Rows and columns of x as a matrix."""
  columns = x.shape[-1]
  return functools.reduce(lambda a, b: a * b, x.shape[:-1], 1), columns
