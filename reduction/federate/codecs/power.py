"""PowerSGD (Vogels et al. 2019, 1905.13727): factors that share a basis, so that they add up."""

import functools
import zlib

import jax
import jax.numpy as jnp

from reduction.errors import require
from reduction.federate.codecs.codec import FLOAT, Codec
from reduction.federate.codecs.factors import EXACT, matrix


@functools.lru_cache(maxsize=16)
def power(*, rank: int = 4) -> Codec:
  """One power iteration a round from the last one's basis, with each sender's error fed back.

  For M = update + error [P, Q] and the basis B [Q, rank] that all know: senders' M B are averaged
  and made orthonormal, A [P, rank]; their M'A are averaged, the new B; the update is A B', and a
  sender keeps M - A (M'A)' of its own. Both averages travel up and down: rank (P + Q) numbers
  each way. Vectors, and matrices for which that is not fewer, travel whole.
  """
  require(rank > 0, f'{rank=} must be above 0')
  small = lambda x: x.ndim > 1 and rank * sum(_sides(x)) < x.size

  def start(like):
    return {name: jnp.zeros(x.shape, jnp.float32) for name, x in like.items() if small(x)}

  def serve(like):
    return {
      name: jax.random.normal(jax.random.key(zlib.crc32(name.encode())), (_sides(x)[1], rank))
      for name, x in like.items() if small(x)
    }  # fmt: skip

  def together(updates, shares, senders, wire):
    update, errors, bases, sent = {}, {}, {}, {}
    mean = lambda x: jnp.tensordot(shares, x, 1, precision=EXACT)
    for name, x in updates.items():
      if name not in wire:
        update[name], sent[name] = mean(x), FLOAT * (x.size // len(x))
        continue
      m = jax.vmap(matrix)(x + senders[name])
      left, _ = jnp.linalg.qr(mean(jnp.matmul(m, wire[name], precision=EXACT)))
      rights = jnp.einsum('mpq,pr->mqr', m, left, precision=EXACT)
      bases[name] = mean(rights)
      shape = x.shape[1:]
      update[name] = jnp.matmul(left, bases[name].T, precision=EXACT).reshape(shape)
      own = jnp.einsum('pr,mqr->mpq', left, rights, precision=EXACT)
      errors[name] = (m - own).reshape(x.shape)
      sent[name] = FLOAT * rank * sum(m.shape[1:])
    return update, errors, bases, sent, sent

  return Codec(start, None, None, None, together=together, serve=serve)


def _sides(x) -> tuple[int, int]:
  """Rows and columns of x as a matrix."""
  columns = x.shape[-1]
  return functools.reduce(lambda a, b: a * b, x.shape[:-1], 1), columns
