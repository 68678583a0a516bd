"""Dynamic gradient approximation: updates as factors of as low a rank as keeps their energy.

Wu et al. 2022, FedKD, section 'Dynamic gradients approximation'. A matrix G [P, Q] becomes U [P, K]
and V [K, Q], the singular values inside U, where K is the least rank whose share of the squared
singular values is above T(t) = start + (end - start) t. Two factors need K (P + Q) numbers and not
the paper's P K + K^2 + K Q; where that is not fewer than P Q, G itself is sent. K is from 1 to
min(P, Q): the authors' code drops a matrix that needs all ranks.
"""

import functools
import zlib

import jax
import jax.numpy as jnp

from reduction.errors import require
from reduction.federate.codecs.codec import FLOAT, Codec

METHODS = 'svd', 'gram', 'randomized'
EXACT = jax.lax.Precision.HIGHEST  # bfloat16 products would not give a dense matrix back
ADDITIVE = (
  'the factors of a sum are not the sums of factors: U1 V1 + U2 V2 is not (U1 + U2)(V1 + V2). Take '
  'codec power, whose factors share a basis, or dense'
)


@functools.lru_cache(maxsize=64)
def low_rank(
  *, start: float = 0.95, end: float = 0.98, method: str = 'svd', feedback: bool = False,
  most: int = 0,
) -> Codec:  # fmt: skip
  """FedKD's codec. start, end: T in the first and in the last round; T = 1 sends all, exactly.

  method: 'svd'; 'gram', by the eigenvectors of the smaller of G'G and GG', several times cheaper,
  whose squared singular values below 1e-7 of the largest are noise; 'randomized', `most` directions
  found by two passes (Halko et al. 2011), G itself where they do not hold the energy. feedback:
  what is not sent is kept and added to the next update, which FedKD does not do. Kernels of more
  than two axes are seen as [rest, out]; vectors are sent as they are.
  """
  for name, energy in dict(start=start, end=end).items():
    require(0 < energy <= 1, f'{name}={energy} must lie in (0, 1]')
  require(method in METHODS, f'{method=} must be one of {", ".join(METHODS)}')
  require((most > 0) == (method == 'randomized'), f'{most=} is the size of method randomized alone')

  def begin(like):
    return {n: jnp.zeros(x.shape, jnp.float32) for n, x in like.items() if feedback and x.ndim > 1}

  def encode(update, state, progress, key):
    energy = start + (end - start) * progress
    message, kept = {}, {}
    for name, x in update.items():
      if x.ndim < 2:
        message[name] = dict(dense=x)
        continue
      x = x + state[name] if feedback else x
      own = jax.random.fold_in(key, zlib.crc32(name.encode()))
      message[name] = factors(matrix(x), energy, method=method, most=most, key=own)
      if feedback:
        kept[name] = x - product(message[name]).reshape(x.shape)
    return message, kept

  def decode(message, like):
    return {
      name: product(parts).reshape(like[name].shape) if 'u' in parts else parts['dense']
      for name, parts in message.items()
    }

  return Codec(begin, encode, decode, count, ADDITIVE)


def matrix(x):
  """x [..., out] as [rest, out]: a kernel [height, width, in, out] has height * width * in rows."""
  return x.reshape(-1, x.shape[-1])


def rank(squares, energy, total=None) -> jax.Array:
  """The least K whose first K squares hold more than `energy` of total; all where none does.

  squares: squared singular values, falling. A matrix of zeros has rank 1.
  """
  total = squares.sum() if total is None else total
  kept = jnp.cumsum(squares) > energy * total
  return jnp.where(total > 0, jnp.where(kept.any(), kept.argmax() + 1, len(squares)), 1)


def factors(g, energy, *, method: str = 'svd', most: int = 0, key=None) -> dict:
  """dict(u [P, D], v [D, Q], rank, whole) of g [P, Q], D the smaller of P and Q.

  Columns of u and rows of v from rank on are zero. whole: u v is g itself, one of them g and the
  other the identity, because factors of that rank are not smaller or hold too little.
  """
  if g.shape[0] < g.shape[1]:
    turned = factors(g.T, energy, method=method, most=most, key=key)
    return dict(turned, u=turned['v'].T, v=turned['u'].T)
  rows, columns = g.shape
  if method == 'randomized' and most < columns:
    u, squares, v = _randomized(g, most, key)
  elif method == 'svd':
    u, values, v = jnp.linalg.svd(g, full_matrices=False)
    u, squares = u * values, values**2
  else:
    u, squares, v = _gram(g)
  total = jnp.sum(g**2) if len(squares) < columns else squares.sum()
  k = rank(squares, energy, total)
  held = jnp.cumsum(squares)[k - 1] > energy * total
  whole = (k * (rows + columns) >= rows * columns) | ((total > 0) & ~held)
  chosen = jnp.arange(len(squares)) < k
  u, v = jnp.where(chosen, u, 0.0), jnp.where(chosen[:, None], v, 0.0)
  if len(squares) < columns:  # room for the whole matrix
    u = jnp.pad(u, ((0, 0), (0, columns - len(squares))))
    v = jnp.pad(v, ((0, columns - len(squares)), (0, 0)))
  return dict(
    u=jnp.where(whole, g, u), v=jnp.where(whole, jnp.eye(columns), v),
    rank=k.astype(jnp.int32), whole=whole,
  )  # fmt: skip


def _gram(g):
  """(g v, squared singular values, v') from the eigenvectors v of g'g."""
  squares, v = jnp.linalg.eigh(jnp.matmul(g.T, g, precision=EXACT))
  v = v[:, ::-1]
  return jnp.matmul(g, v, precision=EXACT), jnp.maximum(squares[::-1], 0.0), v.T


def _randomized(g, most, key):
  """`most` directions of g from a random sketch, sharpened by one power iteration."""
  sketch = jax.random.normal(key, (g.shape[1], most))
  basis, _ = jnp.linalg.qr(jnp.matmul(g, sketch, precision=EXACT))
  basis, _ = jnp.linalg.qr(g @ jnp.matmul(g.T, basis, precision=EXACT))
  u, values, v = jnp.linalg.svd(jnp.matmul(basis.T, g, precision=EXACT), full_matrices=False)
  return jnp.matmul(basis, u * values, precision=EXACT), values**2, v


def product(parts) -> jax.Array:
  """u v, the matrix that was sent."""
  return jnp.matmul(parts['u'], parts['v'], precision=EXACT)


def count(message) -> dict:
  """Bytes of each tensor: K (P + Q) floats of factors, P Q of a whole matrix."""
  found = {}
  for name, parts in message.items():
    if 'u' not in parts:
      found[name] = FLOAT * parts['dense'].size
      continue
    (rows, _), (_, columns) = parts['u'].shape, parts['v'].shape
    sent = parts['rank'] * (rows + columns)
    found[name] = FLOAT * jnp.where(parts['whole'], rows * columns, sent)
  return found
